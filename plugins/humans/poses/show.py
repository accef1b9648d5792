"""Pictures of poses: a skeleton as the camera sees it and from its right, and many over a
picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from rewardft_plugins.humans.camera import HALF_EXTENT
from rewardft_plugins.humans.poses.skeleton import PARENTS
from torch import Tensor

SIDE = 128
LEFT, RIGHT, MIDDLE = (200, 60, 50), (40, 90, 200), (60, 60, 60)
_LEFT_JOINTS = {1, 4, 7, 10, 13, 16, 18, 20, 23, 25}
_RIGHT_JOINTS = {2, 5, 8, 11, 14, 17, 19, 21, 24, 26}

Points = NDArray[np.float32]


def draw_poses(decoded: Mapping[str, Tensor]) -> Tensor:
    """Draw decoded samples, `joints` `(b, 27, 3)`, as `(b, 3, 128, 256)` in [0, 1]: the camera's
    view on the left, the view from its right beside it."""
    joints = decoded["joints"].detach().float().cpu().numpy()
    pictures = [np.concatenate([draw(front(one)), draw(side(one))], axis=1) for one in joints]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def front(joints: Points) -> Points:
    """Joints `(27, 3)` as the camera sees them, x right and y up: `(27, 2)` metres."""
    return joints[:, :2]


def side(joints: Points) -> Points:
    """As a camera to the right of the first one sees them: what is near the first is on the
    left."""
    # From the right, -z points to the right of the picture.
    return np.stack([-joints[:, 2], joints[:, 1]], axis=1)


def draw(points: Points) -> NDArray[np.uint8]:
    """One skeleton on white, `(128, 128, 3)`, centred."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    # Centred by its box, so that a stretched arm is not cut off.
    add_bones(image, points - (points.max(0) + points.min(0)) / 2)
    return np.asarray(image)


def over_picture(picture: NDArray[np.uint8], joints: Points, centre: Points) -> Image.Image:
    """Hypotheses `(m, 27, 3)` over the picture `(s, s, 3)` whose centre is `centre` `(3,)` metres
    from the pelvis."""
    image = Image.fromarray(picture).convert("RGB")
    for one in joints:
        add_bones(image, front(one - centre), width=1)
    return image


def many(joints: Points, size: int) -> Image.Image:
    """Hypotheses `(m, 27, 3)` from the camera's right, on white."""
    image = Image.new("RGB", (size, size), "white")
    for one in joints:
        add_bones(image, side(one), width=1)
    return image


def add_bones(image: Image.Image, points: Points, width: int = 2) -> None:
    """Lines between joints `(27, 2)` in metres from the picture's centre, x right, y up."""
    pencil = ImageDraw.Draw(image)
    # y points up in the pose and down in the picture.
    places = (points / HALF_EXTENT * [1, -1] + 1) / 2 * image.width
    for joint, parent in enumerate(PARENTS[1:], start=1):
        ends = [tuple(float(v) for v in places[j]) for j in (parent, joint)]
        pencil.line(ends, fill=colour(joint), width=width)


def colour(joint: int) -> tuple[int, int, int]:
    """The person's left is red, the right blue."""
    if joint in _LEFT_JOINTS:
        return LEFT
    return RIGHT if joint in _RIGHT_JOINTS else MIDDLE
