"""The blocks of a diffusers modular pipeline, run from outside.

Every modular pipeline is a chain of blocks of one shape: encoders, blocks that prepare the loop,
one denoising loop with blocks inside, blocks that decode. Nothing here names a family. What the
network predicts, guidance applied, is taken where the loop hands it to `scheduler.step`, so the
arithmetic around it is diffusers' own to the last bit.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.modular_pipelines.modular_pipeline import (
    LoopSequentialPipelineBlocks,
    PipelineState,
)
from rewardft_plugins.modular.calls import LoopReached, catch, with_gradient
from rewardft_plugins.modular.pixels import on_white, to_unit_range
from torch import Tensor, nn

from rewardft.errors import ComponentError, RewardftError

PICTURES = ("images", "videos")


@dataclass(frozen=True)
class Prepared:
    """A batch where the loop begins.

    state: what all blocks share.
    step: what the blocks of the loop share, as its own set-up leaves it.
    timesteps, sigmas: the grid, `(T,)` and `(T + 1,)`; sigmas is None for a scheduler that has
        none.
    """

    state: PipelineState
    step: Any
    timesteps: Tensor
    sigmas: Tensor | None


class BlockChain:
    """The blocks of one workflow of a pipeline, with inputs that all samples have in common.

    Args:
        pipe: a `ModularPipeline` with its components.
        blocks: those that the workflow runs, conditions resolved (`get_execution_blocks`).
        inputs: sizes and options of the blocks; the conditions of samples come per call.
    """

    def __init__(self, pipe: Any, blocks: Any, inputs: Mapping[str, Any]) -> None:
        self.pipe, self.blocks, self.inputs = pipe, blocks, dict(inputs)
        flat = blocks.sub_blocks
        names = list(flat)
        loops = [name for name in names if isinstance(flat[name], LoopSequentialPipelineBlocks)]
        if len(loops) != 1:
            raise ComponentError(
                f"{type(pipe).__name__}: expected one denoising loop among the blocks, found "
                f"{len(loops)} ({', '.join(names)}). Samplers need a chain of steps that are alike."
            )
        # Blocks of the loop's own group prepare it; those before the group encode conditions.
        at, core = names.index(loops[0]), loops[0].split(".")[0] + "."
        self.encoders = [flat[name] for name in names[:at] if not name.startswith(core)]
        self.before = [flat[name] for name in names[:at] if name.startswith(core)]
        self.loop = flat[loops[0]]
        self.after = [flat[name] for name in names[at + 1 :] if makes_pictures(flat[name])]
        self.loop.set_progress_bar_config(disable=True)
        self._tags = tags_of_values([*self.encoders, *self.before, self.loop])
        for component in pipe.components.values():
            if hasattr(component, "denormalize"):  # the processor of images or videos
                # diffusers' own clamps hard, and a clamped pixel has no gradient.
                component.denormalize = to_unit_range

    @property
    def input_names(self) -> list[str]:
        """Everything that a caller of the pipeline may give."""
        return [parameter.name for parameter in self.blocks.inputs if parameter.name]

    @property
    def networks(self) -> dict[str, nn.Module]:
        """The denoisers: networks that the loop calls, by the names of their components."""
        return modules_of(self.pipe, [self.loop])

    @property
    def encoder_networks(self) -> dict[str, nn.Module]:
        """Networks that encode conditions and do nothing else."""
        others = modules_of(self.pipe, [*self.before, self.loop, *self.after])
        found = modules_of(self.pipe, self.encoders)
        return {name: module for name, module in found.items() if name not in others}

    @property
    def makes_videos(self) -> bool:
        return any("videos" in block.output_names for block in self.after)

    # -- running blocks ----------------------------------------------------------------------------

    @contextmanager
    def refusals(self, block: Any) -> Iterator[None]:
        """What a block says of settings that it does not take, as a ComponentError."""
        try:
            yield
        except (RewardftError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            names = [spec.name for spec in block.expected_components]
            lacking = [name for name in names if getattr(self.pipe, name, None) is None]
            hint = f" The checkpoint has no {', no '.join(lacking)}." if lacking else ""
            raise ComponentError(
                f"{type(self.pipe).__name__}: {type(block).__name__} fails with the recipe's "
                f"settings ({type(error).__name__}: {str(error).rstrip('.')}).{hint}"
            ) from error

    def new_state(self, values: Mapping[str, Any]) -> PipelineState:
        """The blocks' defaults, the common inputs and `values`."""
        state: Any = PipelineState()
        for parameter in self.blocks.inputs:
            if parameter.name and parameter.default is not None:
                state.set(parameter.name, parameter.default, parameter.kwargs_type)
        for name, value in {**self.inputs, **values}.items():
            state.set(name, value, self._tags.get(name))
        return state

    @torch.no_grad()
    def encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What the encoders leave for the blocks behind them, by name."""
        state = self.new_state(values)
        for block in self.encoders:
            with self.refusals(block):
                _, state = block(self.pipe, state)
        names = [name for block in self.encoders for name in block.output_names]
        return {name: state.get(name) for name in names}

    @torch.no_grad()
    def prepare(self, values: Mapping[str, Any], seed: int = 0) -> Prepared:
        """Run everything up to the loop, its set-up included. `seed`: of the pipeline's noise."""
        noise = torch.Generator().manual_seed(seed)  # the global generator stays as it is
        state = self.new_state({**values, "generator": noise})
        for block in self.before:
            with self.refusals(block):
                _, state = block(self.pipe, state)
        with self.refusals(self.loop):
            arguments = catch(self.loop, "loop_step", lambda: self.loop(self.pipe, state))
        scheduler = self.pipe.scheduler
        sigmas = getattr(scheduler, "sigmas", None)
        return Prepared(
            state,
            arguments[1],
            scheduler.timesteps.clone(),
            None if sigmas is None else sigmas.clone(),
        )

    def denoise(self, x: Tensor, t: Tensor, prepared: Prepared) -> Tensor:
        """The loop's prediction for states x `(b, ...)` at one timestep t `()`, shaped as x.

        Gradients flow to x and to the networks, in the caller's mode.
        """
        index, t = self.place(t, prepared)
        step = copy.copy(prepared.step)  # what a step writes stays in that step
        for name, value in split(x, step, self.pipe).items():
            setattr(step, name, value)
        outputs = self.predictions(step, index, t)
        if len(outputs) == 1:
            return outputs[0].reshape(x.shape)
        return torch.cat([output.flatten(1) for output in outputs], 1)

    def place(self, t: Tensor, prepared: Prepared) -> tuple[int, Tensor]:
        """The step that t belongs to, and t as the pipeline would have it.

        A timestep between those of the grid, as losses on noised samples draw them, stands in for
        the nearest one; blocks that look its noise level up find that of t.
        """
        grid = prepared.timesteps.float()
        # Timesteps pass through the network's precision, so they may be off the grid by a rounding.
        index = int((grid - t.float()).abs().argmin())
        on_grid = bool((grid[index] - t.float()).abs() <= 1e-4 * t.float().abs().clamp(min=1.0))
        for scheduler in parts(prepared.step, self.pipe).values():
            scheduler.timesteps = prepared.timesteps
            if prepared.sigmas is not None:
                scheduler.sigmas = prepared.sigmas
                if not on_grid:
                    scheduler.sigmas = prepared.sigmas.clone()
                    scheduler.sigmas[index] = t / scheduler.config.num_train_timesteps
        return index, prepared.timesteps[index] if on_grid else t

    def predictions(self, step: Any, index: int, t: Tensor) -> list[Tensor]:
        """What the loop's blocks hand to `step` of each of their schedulers."""
        owners = list(parts(step, self.pipe).values())
        outputs: list[Tensor] = []

        def record(output: Tensor, _t: Any, sample: Tensor, **_: Any) -> tuple[Tensor]:
            outputs.append(output)
            if len(outputs) == len(owners):
                # The prediction is known; the rest is the sampler's.
                raise LoopReached
            return (sample,)

        for owner in owners:
            owner.step = record  # on the instance; the class keeps its own
        try:
            for block in self.loop.sub_blocks.values():
                with_gradient(block)(self.pipe, step, i=index, t=t)
        except LoopReached:
            return outputs
        finally:
            for owner in owners:
                del owner.step
        raise ComponentError(
            f"{type(self.pipe).__name__}: the denoising loop ended without a call of "
            "`scheduler.step`; this family cannot be driven by rewardft's samplers."
        )

    def decode(self, x: Tensor, prepared: Prepared) -> Tensor:
        """Finished states x -> pixels in [0, 1], `(b, c, h, w)` or `(b, frames, c, h, w)`.

        The clamp has the gradient of the identity.
        """
        state = copy.copy(prepared.state)
        pieces = split(x, prepared.step, self.pipe)
        state.values = {**state.values, **pieces, "output_type": "pt"}
        for block in self.after:
            _, state = with_gradient(block)(self.pipe, state)
        name = next(name for name in PICTURES if state.get(name) is not None)
        pixels: Any = state.get(name)
        pixels = pixels if isinstance(pixels, Tensor) else torch.stack(list(pixels))
        if name == "videos" and pixels.ndim == 4:  # a family that decodes one video at a time
            pixels = pixels[None]
        return on_white(pixels.float())


def makes_pictures(block: Any) -> bool:
    """Whether a block behind the loop has to do with pictures; others decode sound."""
    return bool({"latents", *PICTURES} & {*block.input_names, *block.output_names})


def modules_of(pipe: Any, blocks: list[Any]) -> dict[str, nn.Module]:
    """The networks among the components that the blocks expect."""
    names = [spec.name for block in blocks for spec in block.expected_components]
    found = {name: getattr(pipe, name, None) for name in names}
    return {name: part for name, part in found.items() if isinstance(part, nn.Module)}


def tags_of_values(blocks: list[Any]) -> dict[str, str]:
    """The groups under which later blocks look values up, by the names of the values."""
    parameters = [p for block in blocks for p in [*block.intermediate_outputs, *block.inputs]]
    return {p.name: p.kwargs_type for p in parameters if p.name and p.kwargs_type}


def parts(step: Any, pipe: Any) -> dict[str, Any]:
    """What is sampled, with the scheduler of each: `latents`, and more where the loop has more.

    A family that samples sound beside its video keeps `audio_latents` and an `audio_scheduler`.
    """
    found = {"latents": pipe.scheduler}
    for name, value in vars(step).items():
        if name.endswith("_scheduler") and hasattr(value, "step"):
            found[name.removesuffix("scheduler") + "latents"] = value
    return found


def join(step: Any, pipe: Any) -> Tensor:
    """The state x `(b, ...)` of a prepared batch; `(b, n)` where several things are sampled."""
    values = [getattr(step, name) for name in parts(step, pipe)]
    return values[0] if len(values) == 1 else torch.cat([value.flatten(1) for value in values], 1)


def split(x: Tensor, step: Any, pipe: Any) -> dict[str, Tensor]:
    """The opposite of `join`; the batch may have another size."""
    values = {name: getattr(step, name) for name in parts(step, pipe)}
    if len(values) == 1:
        return {"latents": x}
    pieces = x.split([value[0].numel() for value in values.values()], 1)
    return {
        name: piece.reshape(len(x), *value.shape[1:])
        for (name, value), piece in zip(values.items(), pieces)
    }
