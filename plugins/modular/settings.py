"""What a recipe says about a pipeline, beside where its weights are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rewardft_plugins.modular.guidance import GuidanceGradient
from rewardft_plugins.modular.loading import select_blocks

from rewardft.errors import ComponentError, did_you_mean

ELSEWHERE = {  # inputs of blocks that are said by other options, or by other sections
    "height": "the option `height`",
    "width": "the option `width`",
    "num_frames": "the option `frames`",
    "guidance_scale": "the option `guidance`",
    "negative_prompt": "the option `negative_prompt`",
    "num_inference_steps": "`steps` of the sampler",
    "prompt": "the data set",
    "image": "the data set",
    "num_images_per_prompt": "`batch_size` of the data set",
    "num_videos_per_prompt": "`batch_size` of the data set",
    "generator": "the recipe's `seed`",
    "latents": "the recipe's `seed`",
    "output_type": "what rewards read",
}


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
    for name, value in given.items():
        if value < 1:
            raise ComponentError(f"{ELSEWHERE[name]} must be at least 1, got {value}")
        if name not in known:
            raise ComponentError(
                f"{type(pipe).__name__} has no input {name!r}, so leave {ELSEWHERE[name]} out"
            )
    check_inputs(pipe, settings.inputs, known)
    given |= settings.inputs
    # A cache would hold keys and values made with the weights of an earlier step.
    if "use_kv_cache" in known:
        given.setdefault("use_kv_cache", False)
    return given


def check_inputs(pipe: Any, inputs: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in inputs:
        if name in ELSEWHERE:
            raise ComponentError(f"inputs: {name!r} is set by {ELSEWHERE[name]}; leave it out")
        if name not in known:
            hint = did_you_mean(name, known)
            raise ComponentError(f"inputs: {type(pipe).__name__} has none called {name!r}.{hint}")
