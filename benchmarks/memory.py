"""Peak memory of one training step, each point in a fresh process: replay against plain autograd.

    python benchmarks/memory.py                 # the table, as JSON lines
    python benchmarks/memory.py --point through 50 50

The model is a random diffusers U-Net (64-128-256-256 channels, 32x32x4 latents), batch 4, LoRA of
rank 4, float32, one thread. Peak is the process's maximum resident set; `rest` is what is resident
before the step.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

POINTS = [
    ("through", 1, 10),
    ("through", 50, 50),
    ("stopped", 1, 10),
    ("stopped", 50, 50),
    ("plain", 1, 10),
    ("plain", 50, 50),
]


class BenchModel:
    """A random U-Net as a rewardft model; the latents are the sample."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self) -> None:
        import torch
        from diffusers import DDPMScheduler, UNet2DConditionModel

        torch.manual_seed(0)
        self.trainable = UNet2DConditionModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            block_out_channels=(64, 128, 256, 256),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=64,
            norm_num_groups=32,
        )
        self.scheduler = DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
        )

    def encode(self, batch: Any) -> dict[str, Any]:
        import torch

        return {"text": torch.zeros(len(batch), 8, 64)}

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (4, 32, 32)

    def denoise(self, x: Any, t: Any, cond: Any) -> Any:
        return self.trainable(x, t, cond["text"]).sample

    def decode(self, x0: Any) -> Any:
        return x0


def measure(form: str, trained: int, steps: int, batch: int = 4) -> dict[str, Any]:
    """One training step in this process."""
    import torch

    from rewardft.algorithms.direct import Direct
    from rewardft.engine.memory import return_freed_memory
    from rewardft.policy.context import Context
    from rewardft.policy.lora import Lora
    from rewardft.policy.policy import Policy
    from rewardft.policy.weighted_reward import WeightedReward
    from rewardft.samplers.ddim import DDIM
    from rewardft.types import Batch

    torch.set_num_threads(1)
    model = BenchModel()
    spec = SimpleNamespace(rank=4, alpha=None, targets=None, dropout=0.0)
    adapter, sampler = Lora(model, spec, seed=0), DDIM(steps)
    sampler.setup(model)
    reward = WeightedReward("mean", lambda rollout, b: rollout.x0.flatten(1).mean(1))
    ctx = Context(
        policy=Policy(model),
        sampler=sampler,
        adapter=adapter,
        rewards=[reward],
        rng=random.Random(0),
    )
    samples = Batch(tuple(map(str, range(batch))), (0,) * batch, {})
    rest = resident()
    if form == "plain":
        plain_autograd(ctx, samples, trained)
    else:
        algorithm = Direct("last", trained, input_gradient=form == "through")
        for loss in algorithm.losses(ctx, samples):
            loss.value.backward()
            if loss.step:
                return_freed_memory()  # as the engine does
    norm = float(
        torch.stack([p.grad.norm() for p in adapter.parameters if p.grad is not None]).norm()
    )
    facts = {
        "form": form,
        "trained": trained,
        "steps": steps,
        "batch": batch,
        "rest_mb": round(rest),
    }
    return facts | {"peak_mb": round(peak()), "gradient_norm": norm}


def plain_autograd(ctx: Any, samples: Any, trained: int) -> None:
    """The textbook loop: no_grad until the last `trained` steps, then one graph over them all."""
    import torch

    noise, cond, sampler = ctx.noise(samples), ctx.encode(samples), ctx.sampler
    x = noise.draw("initial", ctx.policy.sample_shape(cond))
    for k in range(sampler.steps):
        with torch.set_grad_enabled(k >= sampler.steps - trained):
            t = torch.full((len(samples),), sampler.timesteps[k])
            x = sampler.transition(k, x, ctx.policy.denoise(x, t, cond), noise).next
    (-x.flatten(1).mean(1).mean()).backward()


def resident() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    import torch

    from rewardft.engine.memory import peak_memory

    return peak_memory(torch.device("cpu")) / 2**20


def measure_fresh(form: str, trained: int, steps: int) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--point", form, str(trained), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--point", nargs=3, metavar=("FORM", "K", "T"))
    point = parser.parse_args().point
    if point:
        print(json.dumps(measure(point[0], int(point[1]), int(point[2]))))
        return
    for form, trained, steps in POINTS:
        print(json.dumps(measure_fresh(form, trained, steps)), flush=True)


if __name__ == "__main__":
    main()
