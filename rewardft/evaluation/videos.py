"""Samples that are videos, as animated pictures that every browser plays, and as MP4s beside them.

A GIF needs no codec and has 256 colours. An MP4 (H.264) has them all in a fraction of the size, and
needs PyAV, the extra `video`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardft.evaluation.pictures import as_pictures, to_image, write_image
from rewardft.files.atomic import make_folder, replacing
from rewardft.files.paths import file_name

STRIP = 5  # frames of a video that stand for it in a still picture


def save_videos(
    videos: Any, ids: Sequence[str], folder: Path, frame_rate: float, prefix: str = ""
) -> list[Path]:
    """One GIF per sample, `PREFIX + ID.gif`, whose paths are returned, and an MP4 beside each.

    An empty list where the samples are no videos. Without PyAV a warning stands for the MP4s.

    Args:
        videos: decoded samples `(b, frames, c, h, w)` in [0, 1].
        ids: one per sample, as those of `save_pictures`.
        frame_rate: frames per second; GIFs keep it to hundredths of a second per frame.

    Raises ComponentError when Pillow is not installed.
    """
    if not isinstance(videos, Tensor) or videos.ndim != 5 or as_pictures(videos[:, 0]) is None:
        return []
    make_folder(folder)
    paths = [folder / f"{prefix}{file_name(id_)}.gif" for id_ in ids]
    codecs = import_av()
    for path, video in zip(paths, videos):
        save_gif(path, video, frame_rate)
        if codecs is not None:
            save_mp4(path.with_suffix(".mp4"), video, frame_rate, codecs)
    return paths


def save_gif(path: Path, video: Tensor, frame_rate: float) -> None:
    """`(frames, c, h, w)` in [0, 1] -> a file that plays without end, complete or absent."""
    pictures = as_pictures(video)
    assert pictures is not None
    first, *rest = [to_image(picture).convert("RGB") for picture in pictures]
    duration = max(round(100 / frame_rate), 2) * 10  # milliseconds; browsers slow down below 20
    options = {"save_all": True, "append_images": rest, "duration": duration, "loop": 0}
    write_image(path, first, "GIF", **options)


def import_av() -> Any:
    """PyAV, or None and a warning where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        warnings.warn(
            "videos are written as GIFs alone, because MP4s need PyAV, which is not installed: "
            'pip install "rewardft[video]"',
            stacklevel=3,
        )
        return None


def save_mp4(path: Path, video: Tensor, frame_rate: float, codecs: Any) -> None:
    """`(frames, c, h, w)` in [0, 1] -> H.264 that browsers play, complete or absent.

    The codec takes even sides only: the last row or column of an odd one is there twice.

    Args:
        codecs: the module `av`.
    """
    pictures = as_pictures(video)
    assert pictures is not None
    height, width = (side + side % 2 for side in pictures.shape[-2:])
    # Codecs count time in fractions; 23.976 must not become one with a denominator of 2^48.
    rate = Fraction(frame_rate).limit_denominator(1000)
    with replacing(path) as temporary, codecs.open(str(temporary), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "18"})
        # The one pixel format that every browser plays; its colours are shared by 2 x 2 pixels.
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            frame = to_image(even(picture, height, width)).convert("RGB")
            file.mux(stream.encode(codecs.VideoFrame.from_image(frame)))
        # Without a frame: what the codec still holds back.
        file.mux(stream.encode())


def even(picture: Tensor, height: int, width: int) -> Tensor:
    """`(c, h, w)` with its last row and column repeated up to that size."""
    rows = torch.arange(height).clamp(max=picture.shape[-2] - 1)
    columns = torch.arange(width).clamp(max=picture.shape[-1] - 1)
    return picture[:, rows][:, :, columns]


def as_strips(videos: Any) -> Any:
    """The frames of each video that a still picture has room for, equally spaced; others as they
    are."""
    if not isinstance(videos, Tensor) or videos.ndim != 5 or videos.shape[1] <= STRIP:
        return videos
    chosen = torch.linspace(0, videos.shape[1] - 1, STRIP).round().long()
    return videos[:, chosen]
