"""`blazepose`: a second judge, trained by others, where it is installed.

BlazePose (arXiv 2006.10204) finds 33 landmarks of a person in a photograph. This metric compares
twelve limb joints of the generated views with the true pose in 2D. It shares no weights and no
training data with the rest of the plugin. It is for judging: optimising pixels against such a
network fools it, and it gives no gradient here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.drpose.pictures import unmirror
from rewardft_plugins.humans.blazepose import SIDE, BlazePose, Network, find_model
from rewardft_plugins.humans.body import JOINTS
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Batch, Rollout

THRESHOLD = 0.05  # of the picture's width: PCK@0.05
WIDTH_MM = 2000 * HALF_EXTENT

LANDMARKS = {
    "left_shoulder": 11,
    "right_shoulder": 12,
    "left_elbow": 13,
    "right_elbow": 14,
    "left_wrist": 15,
    "right_wrist": 16,
    "left_hip": 23,
    "right_hip": 24,
    "left_knee": 25,
    "right_knee": 26,
    "left_ankle": 27,
    "right_ankle": 28,
}
"""BlazePose's number of each joint that is compared, by its name in `body.JOINTS`; left is the
person's own left."""


def limb_errors(views: Tensor, joints2d: Tensor, network: Network) -> Tensor:
    """Distance of the twelve joints that `network` finds from the true ones, as a fraction of the
    picture's width.

    views: `(n, 6, 3, s, s)` in [0, 1] and joints2d: `(n, 6, 23, 2)` in [-1, 1], both as stored:
    back and left mirrored. Returns `(n, 6, 12)`, joints in the order of `LANDMARKS`.
    """
    # Turned back: in a mirrored picture left and right limbs change names.
    pictures = _resize(unmirror(views).flatten(0, 1))
    # One at a time: a sample's figures cannot depend on its batch, and a network of fixed batch
    # size 1 serves too.
    found = torch.stack([torch.from_numpy(network(picture)) for picture in pictures])
    # To fractions of the picture's width, as the truth below.
    chosen = found[:, list(LANDMARKS.values())].unflatten(0, views.shape[:2]) / SIDE
    truth = (unmirror_points(joints2d.float().cpu()) + 1) / 2
    return (chosen - truth[:, :, [JOINTS.index(name) for name in LANDMARKS]]).norm(dim=-1)


def unmirror_points(points: Tensor) -> Tensor:
    """`(..., 6, j, 2)` in [-1, 1] as stored -> as a viewer expects them: x of the mirrored views
    changes its sign."""
    signs = torch.ones(len(MIRRORED), 1, 2)
    signs[list(MIRRORED), :, 0] = -1
    return points * signs


def _resize(pictures: Tensor) -> NDArray[np.float32]:
    """`(n, 3, s, s)` -> `(n, 256, 256, 3)` float32 in [0, 1] on the CPU."""
    values = pictures.detach().float().cpu().clamp(0, 1)
    resized = F.interpolate(
        values, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    )
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


class LimbJudge:
    """Metric: per-sample tables `pck` (higher is better) and `error_mm` (lower is better), each
    `(n,)`.

    pck: fraction of the limb joints of all six views that lie within 0.05 of the picture's width.
    error_mm: their mean distance in the picture plane, in millimetres. Batches need the column
        `joints2d`; no rendered targets are used.
    """

    needs = frozenset({"multiview"})
    higher_is_better = {"pck": True, "error_mm": False}

    def __init__(self, network: Network, domain: Literal["colour", "normal"] = "colour") -> None:
        self.network, self.domain = network, domain
        self.reset()

    def reset(self) -> None:
        self._errors: list[Tensor] = []

    def update(self, rollout: Rollout, batch: Batch) -> None:
        """Judge the decoded views `(b, 12 or 14, 3, s, s)` of finished samples."""
        if "joints2d" not in batch:
            raise ComponentError(
                "blazepose needs the column 'joints2d': a data set such as drpose15k"
            )
        normals, colours = split_domains(rollout.decoded)
        # The network was trained on photographs, which normal maps resemble less.
        views = colours if self.domain == "colour" else normals
        self._errors.append(limb_errors(views, batch["joints2d"], self.network))

    def compute(self) -> Mapping[str, Tensor]:
        errors = (
            torch.cat(self._errors)
            if self._errors
            else torch.zeros(0, len(MIRRORED), len(LANDMARKS))
        )
        return {
            "pck": (errors < THRESHOLD).float().mean((1, 2)),
            "error_mm": WIDTH_MM * errors.mean((1, 2)),
        }


class BlazePoseJudge(LimbJudge):
    """`LimbJudge` with the BlazePose network.

    Args:
        model: path of the landmark network in ONNX format; by default the environment variable
            REWARDFT_BLAZEPOSE.
        domain: which maps it looks at. It was trained on photographs, which coloured renderings
            resemble more.

    Raises:
        ComponentError: onnxruntime is not installed, the file is missing, or it is not this
            network.
    """

    def __init__(
        self, model: Path | None = None, domain: Literal["colour", "normal"] = "colour"
    ) -> None:
        super().__init__(BlazePose(find_model(model)), domain)
