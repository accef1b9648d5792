"""Samples that are videos, as animated pictures that every browser plays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardft.evaluation.pictures import as_pictures, to_image, write_image
from rewardft.files.paths import file_name

STRIP = 5  # frames of a video that stand for it in a still picture


def save_videos(
    videos: Any, ids: Sequence[str], folder: Path, frame_rate: float, prefix: str = ""
) -> list[Path]:
    """One GIF per sample, `PREFIX + ID.gif`; an empty list where the samples are no videos.

    Args:
        videos: decoded samples `(b, frames, c, h, w)` in [0, 1].
        ids: one per sample, as those of `save_pictures`.
        frame_rate: frames per second; GIFs keep it to hundredths of a second per frame.

    Raises ComponentError when Pillow is not installed.
    """
    if not isinstance(videos, Tensor) or videos.ndim != 5 or as_pictures(videos[:, 0]) is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{prefix}{file_name(id_)}.gif" for id_ in ids]
    for path, video in zip(paths, videos):
        save_gif(path, video, frame_rate)
    return paths


def save_gif(path: Path, video: Tensor, frame_rate: float) -> None:
    """`(frames, c, h, w)` in [0, 1] -> a file that plays without end, complete or absent."""
    pictures = as_pictures(video)
    assert pictures is not None
    first, *rest = [to_image(picture).convert("RGB") for picture in pictures]
    duration = max(round(100 / frame_rate), 2) * 10  # milliseconds; browsers slow down below 20
    options = {"save_all": True, "append_images": rest, "duration": duration, "loop": 0}
    write_image(path, first, "GIF", **options)


def as_strips(videos: Any) -> Any:
    """The frames of each video that a still picture has room for, equally spaced; others as they
    are."""
    if not isinstance(videos, Tensor) or videos.ndim != 5 or videos.shape[1] <= STRIP:
        return videos
    chosen = torch.linspace(0, videos.shape[1] - 1, STRIP).round().long()
    return videos[:, chosen]
