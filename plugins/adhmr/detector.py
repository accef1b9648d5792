"""Landmarks of a person in a picture, found by BlazePose (Bazarevsky et al. 2020, 2006.10204) when
a data set is built.

The network expects people who stand upright. MediaPipe's tracker therefore turns its crop by the
direction from the hips to the shoulders that the last frame had; on a single picture the same is
done twice, which takes the error of tilted poses from 346 to 287 mm and leaves upright ones as they
are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.blazepose import SIDE, Landmarks

Floats = NDArray[np.float32]

LANDMARKS = 33
TURNS = 2  # further looks, at most
UPRIGHT = 20.0  # degrees: a torso that leans no further in the crop needs no turn
_SHOULDERS, _HIPS = (11, 12), (23, 24)


class Network(Protocol):
    """One picture `(256, 256, 3)` in [0, 1] -> its landmarks."""

    def find(self, picture: Floats) -> Landmarks: ...


@dataclass(frozen=True)
class Found:
    """What the detector finds in one picture.

    landmarks: `(33, 4)` x, y, z in half widths of the picture from its centre (x right, y up, z
        towards the camera) and visibility.
    world: `(33, 3)` metres, same axes.
    turned: `(2,)` cosine and sine of the last crop's angle.
    """

    landmarks: Floats
    world: Floats
    turned: Floats


def detect(picture: NDArray[np.uint8], network: Network) -> Found:
    """Landmarks of the person in a picture `(256, 256, 3)`."""
    angle = 0.0
    seen = network.find(picture.astype(np.float32) / np.float32(255))
    for _ in range(TURNS):
        lean = torso_lean(seen.places)
        # The difference of two angles, brought to -180 .. 180.
        if abs((lean - angle + 180) % 360 - 180) < UPRIGHT:
            break
        angle = lean
        seen = turn_back(network.find(turned(picture, angle)), angle)
    # (33, 4): x, y, z and visibility.
    landmarks = np.column_stack([_centred(seen.places), seen.visibility])
    return Found(landmarks.astype(np.float32), seen.world * _FLIP, _direction(angle))


# Y down and z away, to y up and z towards the camera
_FLIP = np.array([1.0, -1.0, -1.0], dtype=np.float32)


def torso_lean(places: Floats) -> float:
    """Degrees, clockwise, from the picture's upright to the direction from the hips to the
    shoulders."""
    # y points down, so the upright is -y.
    up = places[list(_SHOULDERS), :2].mean(0) - places[list(_HIPS), :2].mean(0)
    return float(np.rad2deg(np.arctan2(up[0], -up[1])))


def turned(picture: NDArray[np.uint8], degrees: float) -> Floats:
    """The picture turned counter-clockwise about its centre, in [0, 1]; new corners have the
    border's colour."""
    from PIL import Image

    # The median: an occluder at the border does not colour the corners.
    border = np.concatenate([picture[0], picture[-1]])
    fill = tuple(int(value) for value in np.median(border, axis=0))
    image = Image.fromarray(picture).rotate(degrees, Image.Resampling.BILINEAR, fillcolor=fill)
    pixels: Floats = np.asarray(image, dtype=np.float32) / np.float32(255)
    return pixels


def turn_back(seen: Landmarks, degrees: float) -> Landmarks:
    """What was found in a picture turned counter-clockwise, in the axes of the unturned picture."""
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.array([[cosine, -sine], [sine, cosine]], dtype=np.float32)
    places, world = seen.places.copy(), seen.world.copy()
    places[:, :2] = (places[:, :2] - SIDE / 2) @ matrix.T + SIDE / 2
    world[:, :2] = world[:, :2] @ matrix.T
    return Landmarks(places, seen.visibility, world)


def _centred(places: Floats) -> Floats:
    """Half widths of the picture from its centre, y up, z towards the camera."""
    scaled = places.copy()
    scaled[:, :2] -= SIDE / 2
    return scaled * _FLIP * (2 / SIDE)


def _direction(degrees: float) -> Floats:
    radians = np.deg2rad(degrees)
    return np.array([np.cos(radians), np.sin(radians)], dtype=np.float32)
