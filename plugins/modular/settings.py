"""What a recipe says about a pipeline, beside where its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardft_plugins.modular.guidance import GuidanceGradient
from rewardft_plugins.modular.loading import select_blocks

from rewardft.errors import ComponentError, did_you_mean


@dataclass(frozen=True)
class Settings:
    """The options of `modular` that do not say what to load; see `ModularFromWeights`."""

    workflow: str | None = None
    guidance: float | None = None
    guider: Mapping[str, Any] | None = None
    guidance_gradient: GuidanceGradient = "inside"
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    frame_rate: float = 16.0
    inputs: Mapping[str, Any] = field(default_factory=dict)
    negative_prompt: str | None = None
    train: Sequence[str] = ()
    alone: bool = False
    cache_mb: int = 1024
    offload_encoders: bool = False


def blocks_for(pipe: Any, settings: Settings) -> Any:
    """The blocks that a pipeline runs for a recipe."""
    return select_blocks(pipe, settings.workflow, common_inputs(pipe, settings))


def common_inputs(pipe: Any, settings: Settings) -> dict[str, Any]:
    """Inputs of the blocks that are the same for all samples; ComponentError for unknown ones."""
    known = [parameter.name for parameter in pipe.blocks.inputs if parameter.name]
    sizes = {"height": settings.height, "width": settings.width, "num_frames": settings.frames}
    given = {name: value for name, value in sizes.items() if value is not None}
    given |= settings.inputs
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ComponentError(f"{type(pipe).__name__} has no input {name!r}.{hint}")
    # A cache would hold keys and values made with the weights of an earlier step.
    if "use_kv_cache" in known:
        given.setdefault("use_kv_cache", False)
    return given
