"""The mirrored picture of a person: twice as many training pictures from the same ones."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

POSE_PARTNERS = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 11, 10, 12, 14, 13, 15, 17, 16, 19, 18, 21, 20]
"""Left for right among the 22 body joints."""

LANDMARK_PARTNERS = [0, 4, 5, 6, 1, 2, 3, 8, 7, 10, 9] + [
    landmark for left in range(11, 33, 2) for landmark in (left + 1, left)
]
"""Left for right among BlazePose's landmarks."""


def mirror_poses(poses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Axis-angle poses `(n, 22, 3)` of the person in the mirror."""
    # Axis-angles are axial: reflected in x, their y and z change sign.
    return poses[:, POSE_PARTNERS] * np.array([1, -1, -1], dtype=np.float32)


def mirror_detected(detected: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a detector that treats both sides alike would have seen in the mirror."""
    # x changes its sign, and so does the angle of the detector's crop, hence its sine.
    flip = torch.tensor([-1.0, 1.0, 1.0])
    landmarks = detected["landmarks"][:, LANDMARK_PARTNERS] * torch.tensor([-1.0, 1.0, 1.0, 1.0])
    return {
        "landmarks": landmarks,
        "world": detected["world"][:, LANDMARK_PARTNERS] * flip,
        "turned": detected["turned"] * torch.tensor([1.0, -1.0]),
    }
