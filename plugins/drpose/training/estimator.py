"""Training of the pose estimator: pictures of bodies in any pose and at any angle -> joints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from rewardft_plugins.drpose.judges.pose_judge import mpjpe_mm
from rewardft_plugins.drpose.model.pose_estimator import PoseEstimator
from rewardft_plugins.drpose.training.fit import FitOptions, Report, fit
from rewardft_plugins.drpose.training.nets import columns, draw
from rewardft_plugins.humans.body import JOINTS
from rewardft_plugins.humans.reflect import counterparts
from torch import Tensor

from rewardft.contracts.protocols import Dataset


def reflect_joints(joints: Tensor) -> Tensor:
    """Joints `(..., 23, 3)` of the body reflected left to right."""
    return (joints * torch.tensor([-1.0, 1.0, 1.0]))[..., counterparts(JOINTS), :]


def vary(pictures: Tensor, joints: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Reflect half of all batches, and add a little noise.

    Colours stay as they are: skin and hair say whether a body is seen from the front, and without
    them left and right limbs are mistaken for each other.
    """
    if torch.rand((), generator=generator) < 0.5:
        pictures, joints = pictures.flip(-1), reflect_joints(joints)
    return pictures + 0.01 * torch.randn(pictures.shape, generator=generator), joints


def pose_distance(found: Tensor, joints: Tensor) -> Tensor:
    """Mean distance of joints `(b, 23, 3)`, metres, and half of it with the pelvises together."""
    # The pose counts beside the place, or a shift of the whole body would hide it.
    placed = (found - found[:, :1]) - (joints - joints[:, :1])
    return (found - joints).norm(dim=-1).mean() + 0.5 * placed.norm(dim=-1).mean()


def train_estimator(sets: Sequence[Dataset], options: FitOptions, report: Report) -> PoseEstimator:
    """Train on (picture, pose) pairs; no targets are needed."""
    torch.manual_seed(options.seed)
    model = PoseEstimator()

    def loss_of(generator: torch.Generator) -> Tensor:
        pictures, joints, offsets = draw(
            sets, options.batch, ("image", "joints", "offset"), generator
        )
        # In the rendered frame: the skeleton must lie where the body is in the picture.
        pictures, joints = vary(pictures, joints + offsets[:, None], generator)
        return pose_distance(model(pictures).float(), joints)

    fit(model, loss_of, options, report)
    return model


@torch.no_grad()
def estimator_quality(model: PoseEstimator, dataset: Dataset) -> dict[str, float]:
    """Mean error on the first 300 samples in mm: pelvis to pelvis, and in depth alone."""
    found, truth, count = [], [], min(300, len(dataset))
    for start in range(0, count, 64):
        rows = range(start, min(start + 64, count))
        pictures, joints, offsets = columns(dataset, rows, ("image", "joints", "offset"))
        found.append(model(pictures))
        truth.append(joints + offsets[:, None])
    placed, joints = torch.cat(found), torch.cat(truth)
    # Depth by itself, as it is what one picture says least about.
    depth = 1000 * (placed - joints)[..., 2].abs().mean()
    return {"mpjpe_mm": mpjpe_mm(placed, joints).mean().item(), "depth_mm": depth.item()}
