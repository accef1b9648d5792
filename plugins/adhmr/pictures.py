"""Pictures for the detector: a body before a camera, with a light, clothes, a background and now
and then an occluder.

What a picture looks like is determined by the seed and its id alone, so it can be drawn again for a
report.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.appearance import generator, random_look
from rewardft_plugins.humans.body import Body
from rewardft_plugins.humans.render import render_front
from scipy.spatial.transform import Rotation

Floats = NDArray[np.float32]
Picture = NDArray[np.uint8]

SIDE = 256
OCCLUDED = 0.4  # share of the pictures with an occluder
PITCH = (-10.0, 25.0)  # degrees that the camera looks down
ROLL = 5.0
SHIFT = 0.08  # metres that the body is off the picture's centre, at most


@dataclass(frozen=True)
class Shot:
    """One picture `(256, 256, 3)` and where its centre is, `(3,)` metres from the pelvis in the
    camera's frame."""

    picture: Picture
    centre: Floats


def turn_to_camera(poses: Floats, ids: list[str], seed: int) -> Floats:
    """Poses `(n, 22, 3)`, each in the frame of its own camera: x right, y up, z towards the camera.

    Headings are uniform; the camera looks down by up to 25 degrees, up by up to 10, and rolls by up
    to 5.
    """
    turned = poses.astype(np.float32, copy=True)
    for row, id_ in enumerate(ids):
        rng = generator(seed, f"camera/{id_}")
        angles = [rng.uniform(-180, 180), rng.uniform(*PITCH), rng.uniform(-ROLL, ROLL)]
        # Capital letters would be axes that turn along; these are fixed: heading, then pitch, then
        # roll.
        camera = Rotation.from_euler("yxz", angles, degrees=True)
        turned[row, 0] = (camera * Rotation.from_rotvec(poses[row, 0])).as_rotvec()
    return turned


def take(body: Body, poses: Floats, ids: list[str], seed: int) -> list[Shot]:
    """Pictures of the mean shape in poses `(n, 22, 3)`, already in the camera's frame."""
    vertices, joints = body.pose(poses)
    return [
        _shot(body, vertices[row] - joints[row, :1], generator(seed, f"shot/{id_}"))
        for row, id_ in enumerate(ids)
    ]


def _shot(body: Body, vertices: Floats, rng: np.random.Generator) -> Shot:
    shift = np.array([*rng.uniform(-SHIFT, SHIFT, 2), 0.0])
    # Off the centre a little, or the network would learn that people are in the middle.
    centre = ((vertices.min(0) + vertices.max(0)) / 2 + shift).astype(np.float32)
    colours, alpha = render_front(body, vertices - centre, random_look(rng), SIDE)
    picture = _before(_background(rng), colours.astype(np.float32), alpha[..., None] / 255.0)
    # After everything else was drawn: what a body looks like does not depend on its occluder.
    if rng.uniform() < OCCLUDED:
        _occlude(picture, rng)
    return Shot(picture.clip(0, 255).astype(np.uint8), centre)


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """A colour that brightens or darkens from top to bottom, `(256, 1, 3)`."""
    slope = np.linspace(-1, 1, SIDE)[:, None, None] * rng.uniform(-30, 30)
    colour: NDArray[np.float64] = 255 * rng.uniform(0.1, 0.9, 3) + slope
    return colour


def _before(
    background: NDArray[np.float64], colours: Floats, alpha: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Put the body, which was drawn on white, in front of the background."""
    body: NDArray[np.float64] = colours - 255 * (1 - alpha) + (1 - alpha) * background
    return body


def _occlude(picture: NDArray[np.float64], rng: np.random.Generator) -> None:
    """A rectangle of one colour, an eighth to a third of the picture wide."""
    width, height = rng.integers(SIDE // 8, SIDE // 3, 2)
    left = rng.integers(SIDE // 6, SIDE - width - SIDE // 6)
    top = rng.integers(SIDE // 6, SIDE - height - SIDE // 6)
    picture[top : top + height, left : left + width] = 255 * rng.uniform(0.05, 0.95, 3)
