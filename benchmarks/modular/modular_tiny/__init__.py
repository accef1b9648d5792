"""Tiny pipelines of every family that `modular` drives, with random weights and no text encoders.

With this folder on PYTHONPATH a recipe can name one, which takes milliseconds per step on a CPU:

    plugins: [modular_tiny]
    model: {use: modular_tiny, family: wan}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rewardft_plugins.modular.model import Modular
from rewardft_plugins.modular.settings import Settings
from torch import Tensor, nn

from modular_tiny.family import Tiny
from modular_tiny.images import IMAGES
from modular_tiny.variants import VARIANTS
from modular_tiny.videos import VIDEOS
from rewardft import Batch, Rollout, hookimpl
from rewardft.errors import ComponentError, did_you_mean

FAMILIES = {**IMAGES, **VARIANTS, **VIDEOS}


def modular_tiny(
    *, family: str, seed: int = 0, guidance: float | None = None, train: list[str] | None = None
) -> Modular:
    """A family with random weights.

    Args:
        family: see `FAMILIES`.
        seed: of the weights.
        guidance, train: as those of `modular`.
    """
    if family not in FAMILIES:
        raise ComponentError(f"there is no family {family!r}.{did_you_mean(family, FAMILIES)}")
    return build(family, seed, guidance, train or ())[0]


modular_tiny.provides = Modular.provides


def build(
    family: str,
    seed: int = 0,
    guidance: float | None = None,
    train: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    frames: int | None = None,
) -> tuple[Modular, Tiny]:
    """The model and what it was made of."""
    pipe, tiny = make_pipeline(FAMILIES[family], seed, dtype)
    settings = Settings(
        guidance=guidance,
        height=tiny.size,
        width=tiny.size,
        frames=frames or tiny.frames,
        inputs=tiny.inputs,
        train=train,
    )

    def embed(prompt: str, image: Tensor | None) -> dict[str, Any]:
        found: dict[str, Any] = cast(tiny.embed(prompt, True), dtype)
        return found

    return Modular(pipe, settings, embed), tiny


def make_pipeline(
    family: Callable[[], Tiny], seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Any, Tiny]:
    """A pipeline with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tiny = family()
        for network in (part for part in tiny.parts.values() if isinstance(part, nn.Module)):
            fill_zeros(network)
            network.to(dtype).eval().requires_grad_(False)
    pipe = tiny.blocks.init_pipeline()
    pipe.update_components(**tiny.parts)
    pipe.set_progress_bar_config(disable=True)
    if hasattr(pipe, "disable_safety_checker"):
        pipe.disable_safety_checker()
    return pipe, tiny


def fill_zeros(network: nn.Module) -> None:
    """Heads that start at zero would make every sample the same."""
    for weight in network.parameters():
        if not weight.any():
            nn.init.normal_(weight, std=0.02)


def cast(values: Any, dtype: torch.dtype) -> Any:
    if isinstance(values, Tensor):
        return values.to(dtype) if values.is_floating_point() else values
    if isinstance(values, dict):
        return {name: cast(value, dtype) for name, value in values.items()}
    if isinstance(values, torch.dtype):
        return dtype
    return [cast(value, dtype) for value in values] if isinstance(values, list) else values


class TinyPrompts:
    """Prompts of several lengths."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": str(index), "prompt": " ".join(["a cat"] * (1 + index % 3)) + f" {index}"}


class TinyGiven(TinyPrompts):
    """Prompts with a given sample, and a pair of a bright and a dark one, of a family's size."""

    provides = frozenset({"pairs", "training_targets"})

    def __init__(self, family: str) -> None:
        tiny = FAMILIES[family]()
        picture = (3, tiny.size, tiny.size)
        self.shape = (tiny.frames, *picture) if tiny.frames else picture

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.Generator().manual_seed(index)
        image = torch.rand(self.shape, generator=noise)
        pair = {"winner": 0.5 + image / 2, "loser": image / 2}
        return super().__getitem__(index) | {"image": image} | pair


def tiny_light(rollout: Rollout, batch: Batch) -> Tensor:
    """Mean of all pixels, in [0, 1]."""
    value: Tensor = rollout.decoded.flatten(1).mean(1)
    return value


@hookimpl
def register_datasets() -> dict[str, Any]:
    return {"tiny_prompts": TinyPrompts, "tiny_given": TinyGiven}


@hookimpl
def register_rewards() -> dict[str, Any]:
    return {"tiny_light": tiny_light}


@hookimpl
def register_models() -> dict[str, Any]:
    return {"modular_tiny": modular_tiny}
