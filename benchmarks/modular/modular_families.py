"""Every family that `modular` drives, on tiny weights, against its pipeline and plain autograd.

    python benchmarks/modular/modular_families.py                  # all families, as a table
    python benchmarks/modular/modular_families.py wan qwenimage    # some of them
    python benchmarks/modular/modular_families.py --steps --write  # and algorithms; into docs

Columns: the largest difference of finished latents, and of pixels, of two prompts of different
length in one batch from the pipeline on each prompt alone, with guidance of 4 and without; the
largest difference of DRaFT's gradient to a LoRA from plain autograd through the unchanged pipeline,
relative to the largest entry, in float64; and one optimizer step of each algorithm.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from modular_tiny import FAMILIES, build, cast, make_pipeline
from modular_tiny.videos import VIDEOS
from torch import Tensor

from rewardft import Batch, Context, Plan, Rollout
from rewardft.algorithms.direct import Direct
from rewardft.policy.lora import Lora
from rewardft.policy.policy import Policy
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.testing import run_recipe

PROMPTS = ("a red cat", "a blue dog on a hill")
STEPS = 3
ALGORITHMS = {
    "draft_k": "{use: draft_k, train_steps: 1}",
    "drtune": "{use: drtune, train_steps: 2, early_stop: 1}",
    "flow_grpo": "{use: flow_grpo, group_size: 2, updates: 1}",
    "diffusion_nft": "{use: diffusion_nft, group_size: 2, advantage_clip: 2.0}",
    "online_dpo": "{use: online_dpo, group_size: 2, beta: 20}",
}


@dataclass(frozen=True)
class Row:
    """What was measured of one family. None: the family has no such thing."""

    family: str
    shape: tuple[int, ...]
    latents: float
    latents_unguided: float | None
    pixels: float
    gradient: float
    steps: dict[str, str]


def batch_of(prompts: tuple[str, ...]) -> Batch:
    return Batch(prompts, (0,) * len(prompts), {"prompt": list(prompts)})


def context(model: Any, rewards: Any = (), steps: int = STEPS) -> Context:
    """A context with Euler steps (flow matching) or DDIM (betas), both without noise."""
    sampler = DDIM(steps)
    sampler.setup(model)
    spec = SimpleNamespace(rank=2, alpha=None, targets=None, dropout=0.0)
    adapter = Lora(model, spec, seed=0)
    fill(adapter)
    return Context(policy=Policy(model), sampler=sampler, adapter=adapter, rewards=rewards)


def fill(adapter: Lora) -> None:
    """Random adapters: as they start, one of their two gradients is zero."""
    noise = torch.Generator().manual_seed(7)
    for weight in adapter.parameters:
        weight.data = 0.1 * torch.randn(weight.shape, generator=noise).to(weight.dtype)


# -- against the pipeline ----------------------------------------------------------------------


def compare(family: str, guidance: float | None) -> tuple[Rollout, float, float]:
    """Our rollout of two prompts, and its distance from the pipeline's: latents, pixels."""
    model, tiny = build(family, guidance=guidance)
    ctx = context(model)
    batch = batch_of(PROMPTS)
    with ctx.adapter.disabled():
        rollout = ctx.rollout(batch, Plan(stop=STEPS))
    start = rollout.noise.draw("initial", rollout.x0.shape[1:])
    pipe = make_pipeline(FAMILIES[family], 0)[0]
    set_guidance(pipe, guidance)
    latents, pixels = 0.0, 0.0
    for row, prompt in enumerate(PROMPTS):
        values = tiny.embed(prompt, True) | inputs_of(tiny, guidance)
        found, seen = run_pipeline(pipe, values, start[row : row + 1])
        latents = max(latents, distance(rollout.x0[row : row + 1], found))
        pixels = max(pixels, distance(rollout.decoded[row : row + 1], seen))
    return rollout, latents, pixels


def set_guidance(pipe: Any, guidance: float | None) -> None:
    """The same guidance by diffusers' own means."""
    if guidance is None:
        return
    guiders = [n for n, part in pipe.components.items() if n.endswith("guider") or n == "guider_2"]
    new = {"enabled": guidance != 1.0, "guidance_scale": guidance}
    pipe.update_components(**{name: getattr(pipe, name).new(**new) for name in guiders})


def use_euler(pipe: Any) -> None:
    """Euler steps on the grid of a multistep solver, as samplers of single steps take."""
    scheduler = pipe.scheduler

    def step(output: Tensor, t: Tensor, sample: Tensor, **_: Any) -> tuple[Tensor]:
        at = int((scheduler.timesteps == t).nonzero()[0])
        return (sample + (scheduler.sigmas[at + 1] - scheduler.sigmas[at]) * output,)

    if hasattr(scheduler.config, "solver_order"):
        scheduler.step = step


def inputs_of(tiny: Any, guidance: float | None) -> dict[str, Any]:
    sizes = {"height": tiny.size, "width": tiny.size, "num_frames": tiny.frames}
    sizes |= {"guidance_scale": guidance, "use_kv_cache": False, **tiny.inputs}
    return {name: value for name, value in sizes.items() if value is not None}


def run_pipeline(pipe: Any, values: dict[str, Any], start: Tensor) -> tuple[Tensor, Tensor]:
    """The pipeline's own blocks, scheduler and decoder: finished latents, and pixels."""
    use_euler(pipe)
    known = {p.name for p in pipe.blocks.inputs}
    given = {n: v for n, v in values.items() if n in known}
    flat = pipe.blocks.get_execution_blocks(**{"prompt": "x", **given}).sub_blocks
    tags = {p.name: p.kwargs_type for b in flat.values() for p in b.intermediate_outputs}
    state = PipelineState()
    for parameter in pipe.blocks.inputs:
        if parameter.default is not None:
            state.set(parameter.name, parameter.default, parameter.kwargs_type)
    values = values | {"num_inference_steps": STEPS, "output_type": "pt"}
    for name, value in values.items():
        state.set(name, value, tags.get(name))
    for name in (n for n in flat if not n.startswith(("text_encoder", "prompt_ups", "vae_enc"))):
        if hasattr(flat[name], "loop_step"):
            place_start(state, start)
            flat[name].set_progress_bar_config(disable=True)
            _, state = flat[name](pipe, state)
            finished = joined_state(state)
        elif not name.startswith("decode.audio"):
            _, state = flat[name](pipe, state)
    seen = next(state.get(name) for name in ("images", "videos") if state.get(name) is not None)
    seen = seen if isinstance(seen, Tensor) else torch.stack(list(seen))
    seen = seen[:, :3] * seen[:, 3:] + 1 - seen[:, 3:] if seen.shape[1] == 4 else seen
    return finished, seen.reshape(
        1, *seen.shape[-4 if seen.ndim > 4 or "videos" in state.values else -3 :]
    )


def place_start(state: PipelineState, start: Tensor) -> None:
    """Our noise in the place of the pipeline's."""
    names = [name for name in ("latents", "audio_latents") if state.get(name) is not None]
    sizes = [state.get(name).numel() for name in names]
    for name, piece in zip(names, start.flatten(1).split(sizes, 1)):
        state.set(name, piece.reshape(state.get(name).shape))


def joined_state(state: PipelineState) -> Tensor:
    values = [state.get(n) for n in ("latents", "audio_latents") if state.get(n) is not None]
    return values[0] if len(values) == 1 else torch.cat([v.flatten(1) for v in values], 1)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other.reshape(one.shape)).detach().abs().max())


# -- gradients ---------------------------------------------------------------------------------


def waves(rollout: Rollout, batch: Batch) -> Tensor:
    """A smooth reward that every pixel matters to."""
    return torch.sin(3 * rollout.decoded).flatten(1).mean(1)


def gradient_error(family: str) -> float:
    """DRaFT through all steps against autograd through the pipeline as it is."""
    model, tiny = build(family, dtype=torch.float64)
    ctx = context(model, [WeightedReward("waves", waves)])
    ctx = Context(ctx.policy, ctx.sampler, ctx.adapter, ctx.rewards, dtype=torch.float64)
    batch = batch_of(PROMPTS[:1])
    for loss in Direct("last", train_steps=STEPS).losses(ctx, batch):
        loss.backward()
    ours = [weight.grad.clone() for weight in ctx.adapter.parameters]
    start = ctx.noise(batch).draw("initial", model.sample_shape(model.encode(batch)))
    values = cast(tiny.embed(PROMPTS[0], True), torch.float64) | inputs_of(tiny, None)
    with gradients_in_pipelines():
        _, seen = run_pipeline(model.pipe, values, start)
    loss = -torch.sin(3 * seen).mean()
    plain = torch.autograd.grad(loss, ctx.adapter.parameters)
    scale = max(float(each.abs().max()) for each in plain)
    return max(distance(one, other) for one, other in zip(ours, plain)) / scale


@contextmanager
def gradients_in_pipelines() -> Iterator[None]:
    """Let the pipeline's own `torch.no_grad` do nothing."""
    enter = torch.no_grad.__enter__

    def stay(self: Any) -> None:
        self.prev = torch.is_grad_enabled()

    torch.no_grad.__enter__ = stay
    try:
        yield
    finally:
        torch.no_grad.__enter__ = enter


# -- algorithms --------------------------------------------------------------------------------


def recipe_of(family: str, algorithm: str) -> str:
    """A recipe of one step on two prompts."""
    flow = family != "stable_diffusion_xl"
    sampler = "{use: ddim, steps: 3}"
    if algorithm == "flow_grpo":
        sampler = "{use: flow_sde, steps: 3}" if flow else "{use: ddim, steps: 3, eta: 1.0}"
    wanted = ALGORITHMS[algorithm] if flow else ALGORITHMS[algorithm].replace("flow_grpo", "grpo")
    return f"""
plugins: [modular_tiny, grpo, nft, dpo]
seed: 0
model:     {{use: modular_tiny, family: {family}}}
sampler:   {sampler}
data:      {{use: tiny_prompts, batch_size: 2}}
rewards:   [{{use: tiny_light}}]
algorithm: {wanted}
adapter:   {{kind: lora, rank: 2}}
optimizer: {{use: adamw, lr: 1e-3}}
train:     {{steps: 1}}
"""


def one_step(family: str, algorithm: str, folder: Path) -> str:
    """`ok`, or what the run said."""
    path = folder / f"{family}_{algorithm}.yaml"
    path.write_text(recipe_of(family, algorithm))
    run = run_recipe(path, folder / path.stem)
    norm = run.steps[-1]["gradient_norm"]
    return "ok" if run.summary["status"] == "finished" and norm > 0 else f"gradient {norm}"


def measure(family: str, algorithms: bool) -> Row:
    model, _ = build(family)
    guided = hasattr(model, "guidance")
    rollout, latents, pixels = compare(family, 4.0 if guided else None)
    unguided = compare(family, 1.0)[1] if guided else None
    with tempfile.TemporaryDirectory() as folder:
        names = ALGORITHMS if algorithms else ()
        steps = {name: one_step(family, name, Path(folder)) for name in names}
    shape = tuple(rollout.decoded.shape[1:])
    return Row(family, shape, latents, unguided, pixels, gradient_error(family), steps)


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = [
        "| family | samples | latents, guided | latents, unguided | pixels | LoRA gradient | one "
        "step |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = "x".join(map(str, row.shape))
        unguided = "-" if row.latents_unguided is None else f"{row.latents_unguided:.0e}"
        steps = ", ".join(n if s == "ok" else f"{n}: {s}" for n, s in row.steps.items())
        steps = "all five" if set(row.steps.values()) == {"ok"} else steps
        figures = f"{row.latents:.0e} | {unguided} | {row.pixels:.0e} | {row.gradient:.0e}"
        lines.append(f"| `{row.family}` | {shape} | {figures} | {steps} |")
    videos = sum(row.family in VIDEOS for row in rows)
    return "\n".join([*lines, "", f"{len(rows)} variants, {videos} of them video."])


def write(text: str) -> None:
    """Put the table where people look for it."""
    root = Path(__file__).resolve().parents[2]
    (root / "benchmarks" / "results" / "modular_families.md").write_text(text + "\n")
    page = root / "docs" / "modular.md"
    before, rest = page.read_text().split("<!-- families:start -->")
    after = rest.split("<!-- families:end -->")[1]
    marked = f"<!-- families:start -->\n\n{text}\n\n<!-- families:end -->"
    page.write_text(before + marked + after)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", action="store_true", help="one step of each algorithm too")
    parser.add_argument("--write", action="store_true", help="into results/ and docs/modular.md")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    rows = []
    for family in arguments.families:
        rows.append(measure(family, arguments.steps))
        print(rows[-1], file=sys.stderr)
    print(table(rows))
    if arguments.write:
        write(table(rows))


if __name__ == "__main__":
    main()
