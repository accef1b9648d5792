"""What an image processor does to pictures before CLIP or BLIP sees them, with a gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rewardft.errors import ComponentError

from .resize import quantised, resize

BICUBIC = 3  # pillow's number of the filter, as preprocessor_config.json has it
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocess:
    """Resize bicubically, cut out or fill up a square, normalise.

    size:     the square's side.
    fit:      `crop`: the shorter edge becomes `size` and the middle is cut out; `pad`: the longer
              edge becomes `size` and the rest is black, as HPSv2 does.
    quantise: round to 8 bits where pillow does, so that values are exactly those of the library's
              processor; the gradient passes straight through. Without it they differ by that
              rounding, about one grey level at most.
    middle:   where a crop begins when an odd number of pixels goes: `floor` of half of them, as
              transformers does, or half of them rounded to `even`, as torchvision does.
    resample: on pictures of 8 bits, clipped to them (`bytes`), or on floating point numbers, which
              may leave [0, 1] at edges (`floats`), as torchvision does with tensors. The
              latter rounds its input alone when `quantise` is set.
    """

    size: int = 224
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: Literal["crop", "pad"] = "crop"
    quantise: bool = False
    middle: Literal["floor", "even"] = "floor"
    resample: Literal["bytes", "floats"] = "bytes"

    def __call__(self, pixels: Tensor) -> Tensor:
        """`(b, 3, h, w)` in [0, 1] -> `(b, 3, size, size)`, normalised."""
        # Decoders overshoot; a picture file cannot.
        pixels = pixels.clamp(0, 1)
        pixels = quantised(pixels) if self.quantise else pixels
        square = self.cut_out(pixels) if self.fit == "crop" else self.fill_up(pixels)
        # Per channel; in the precision and on the device of the picture.
        mean, std = (torch.tensor(v).view(3, 1, 1).to(square) for v in (self.mean, self.std))
        return (square - mean) / std

    def cut_out(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        short = min(height, width)
        # Cut off and not rounded, as transformers computes the longer edge.
        height, width = (
            self.size if n == short else int(self.size * n / short) for n in (height, width)
        )
        pixels = self.resize(pixels, height, width)
        halve = round if self.middle == "even" else int
        top, left = halve((height - self.size) / 2), halve((width - self.size) / 2)
        return pixels[..., top : top + self.size, left : left + self.size]

    def fill_up(self, pixels: Tensor) -> Tensor:
        longest = max(pixels.shape[-2:])
        height, width = (round(n * self.size / longest) for n in pixels.shape[-2:])
        pixels = self.resize(pixels, height, width)
        missing_h, missing_w = self.size - height, self.size - width
        # Zeros before normalisation: black, as in HPSv2's code.
        return F.pad(
            pixels,
            (
                missing_w // 2,
                missing_w - missing_w // 2,
                missing_h // 2,
                missing_h - missing_h // 2,
            ),
        )

    def resize(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if self.resample == "floats":
            return resize(pixels, height, width, clip=False)
        return resize(pixels, height, width, self.quantise)


def read_preprocess(
    config: Mapping[str, Any],
    source: str,
    fit: Literal["crop", "pad"] = "crop",
    quantise: bool = False,
) -> Preprocess:
    """The processing that a `preprocessor_config.json` describes. With `fit: pad` it is HPSv2's,
    which resizes floating point numbers. Raises ComponentError for one that is not CLIP's."""
    size = config.get("size", 224)
    side = size.get("shortest_edge", size.get("height")) if isinstance(size, Mapping) else size
    crop = config.get("crop_size", side)
    crop = (crop["height"], crop["width"]) if isinstance(crop, Mapping) else (crop, crop)
    # Another filter or crop would be applied wrongly in silence, and change every reward.
    problems = []
    if config.get("resample", BICUBIC) != BICUBIC:
        problems.append(f"resample is {config['resample']}, expected {BICUBIC} (bicubic)")
    if crop != (side, side):
        problems.append(f"crop_size is {crop[0]} x {crop[1]} and size {side}, expected one square")
    if config.get("do_resize", True) is False or config.get("do_normalize", True) is False:
        problems.append("do_resize or do_normalize is off")
    if problems:
        raise ComponentError(
            f"{source}: its image processor is not one of CLIP: {'; '.join(problems)}"
        )
    mean, std = (
        tuple(config.get(k, default))
        for k, default in (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD))
    )
    resample: Literal["bytes", "floats"] = "floats" if fit == "pad" else "bytes"
    return Preprocess(int(side), mean, std, fit, quantise, resample=resample)
