"""Who paints the conditioning images: the renderer here, a pose-conditioned video generator in the
paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.appearance import generator

from rewardft.errors import DataError, did_you_mean

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

BACKGROUNDS = ("white", "random")


@dataclass(frozen=True)
class Frames:
    """The input of a painter for n samples.

    ids: `clip/frame/yawDDD`: which frame of which motion this is, for painters that paint
        sequences.
    poses: `(n, 22, 3)` axis-angle as shown.
    joints2d: `(n, 23, 2)` in the front view, [-1, 1], y down.
    colours: `(n, 3, s, s)` uint8, the rendered front view on white.
    alpha: `(n, s, s)` uint8, its coverage.
    """

    ids: Sequence[str]
    poses: Floats
    joints2d: Floats
    colours: Bytes
    alpha: Bytes


class Painter(Protocol):
    """Paints conditioning images.

    `matches_targets` says whether the images show the same person as the six rendered views. It is
    False for a generator with portraits of its own: such a set can carry no targets.
    """

    name: str
    matches_targets: bool

    def paint(self, frames: Frames) -> Bytes:
        """Return the images, `(n, 3, s, s)` uint8."""


class RenderedPainter:
    """The rendered front view itself, on white or on a random smooth background of its own for each
    sample."""

    matches_targets = True

    def __init__(self, background: str = "white", seed: int = 0) -> None:
        if background not in BACKGROUNDS:
            raise DataError(f"background is {background!r}.{did_you_mean(background, BACKGROUNDS)}")
        self.name = f"renderer, {background} background"
        self._random, self._seed = background == "random", seed

    def paint(self, frames: Frames) -> Bytes:
        if not self._random:
            return frames.colours
        size = frames.alpha.shape[-1]
        behind = np.stack(
            [_gradient(generator(self._seed, f"background/{key}"), size) for key in frames.ids]
        )
        # (n, 1, s, s) in [0, 1].
        uncovered = 1.0 - frames.alpha[:, None] / 255.0
        # The colours lie on white already: replace the white that shows through.
        return (
            (frames.colours + uncovered * (behind - 1.0) * 255.0)
            .round()
            .clip(0, 255)
            .astype(np.uint8)
        )


def _gradient(rng: np.random.Generator, size: int) -> Floats:
    """A bilinear mix of four random colours, `(3, size, size)` in [0, 1]."""
    corners = rng.uniform(0.2, 1.0, size=(2, 2, 3))
    share = np.linspace(0.0, 1.0, size)
    weights = np.stack([1.0 - share, share])
    return np.einsum("iy,jx,ijc->cyx", weights, weights, corners).astype(np.float32)
