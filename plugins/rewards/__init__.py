"""Reward models: what people prefer, what a text says, how an image compresses, which text and how
many objects are in it, and any reward behind HTTP.

Each reward says which samples it reads (`space`), the `range` of its values, and whether it has a
gradient. `docs/rewards.md` has the table, and where to get weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_rewards() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from . import (
        aesthetic,
        image_reward,
        jpeg,
        object_count,
        ocr,
        remote,
        statistics,
        text_image,
        vlm_judge,
    )

    return {
        "aesthetic": aesthetic.Aesthetic,
        "clip_direction": text_image.ClipDirection,
        "clip_score": text_image.ClipScore,
        "colourfulness": statistics.colourfulness,
        "hps_v2": text_image.HpsV2,
        "image_reward": image_reward.ImageReward,
        "jpeg_compressibility": jpeg.jpeg_compressibility,
        "jpeg_differentiable": jpeg.SoftJpeg,
        "jpeg_incompressibility": jpeg.jpeg_incompressibility,
        "mean_brightness": statistics.mean_brightness,
        "object_count": object_count.ObjectCount,
        "ocr_accuracy": ocr.OcrAccuracy,
        "pick_score": text_image.PickScore,
        "remote": remote.Remote,
        "symmetry": statistics.symmetry,
        "vlm_judge": vlm_judge.VlmJudge,
    }


@hookimpl
def register_commands() -> Factories:
    from .commands import app

    return {"rewards": app}
