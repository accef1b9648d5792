"""`joint_regression` and `silhouette_score`: other forms of PoseScore, so that the form itself can
be compared.

Reviewers of DrPose (arXiv 2603.02619) asked why the reward compares skeleton maps, and not joints
or something else. These two read other things off the same clean latents, with networks that share
all levels but the last with g_skel, and compare them with the same pose. Neither needs a target
beyond the pose.
"""

from __future__ import annotations

from typing import Annotated

import torch
from rewardft_plugins.drpose.rewards.pose_score import LatentReward, pyramid_distance, skeleton_loss
from rewardft_plugins.humans.body import OPEN_BODIES, Body, load_body
from rewardft_plugins.humans.positions import expected_position
from rewardft_plugins.humans.render import HAIR, Appearance, render
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped, Place
from rewardft.recipe.bounds import NotNegative, Positive
from rewardft.types import Batch


def joint_distance(logits: Tensor, joints2d: Tensor) -> Tensor:
    """Mean distance of joints read off maps `(b, 6, j, s, s)` to the true ones `(b, 6, j, 2)`:
    `(b,)`.

    In units where the picture is 2 wide. The small constant keeps the gradient finite at a perfect
    match.
    """
    # (b, 6, j, 2).
    difference = expected_position(logits) - joints2d
    return (difference.square().sum(-1) + 1e-12).sqrt().flatten(1).mean(1)


class JointRegression(LatentReward):
    """Reward `(b,)`, at most 1: 1 - (mean distance of the joints in the six views) / scale.

    The truth is `batch["joints2d"]` `(b, 6, 23, 2)`, as for `pose_score`.

    Args:
        weights: folder of a network that reads joints, or "shipped".
        scale: the distance that costs 1, in units where the picture is 2 wide (1.2 m in the shipped
            data set).

    Raises `ComponentError` when the weights are missing or do not fit, or `scale` is not positive.
    """

    name, reads, kind, command = "joint_regression", "joints", "joints", "train-form --form joints"

    def __init__(self, weights: PathOrShipped = "shipped", scale: Positive = 1.0) -> None:
        if scale <= 0:
            raise ComponentError(f"joint_regression: expected scale > 0, got {scale}")
        super().__init__(weights)
        self.scale = scale

    def compare(self, logits: Tensor, batch: Batch) -> Tensor:
        return 1 - joint_distance(logits, batch["joints2d"].to(logits.device).float()) / self.scale


def draw_silhouettes(
    body: Body, poses: Tensor, betas: Tensor, offsets: Tensor, size: int
) -> Tensor:
    """Coverage of the pixels by posed bodies in the six stored views, `(b, 6, 1, size, size)` in
    [0, 1], on the CPU.

    poses `(b, 22, 3)`, betas `(b, 10)` and offsets `(b, 3)` as `Drpose15k` gives them.
    """
    vertices, joints = body.pose(poses.cpu().numpy(), betas.cpu().numpy())
    # The pelvis to the place where the data set has it.
    vertices = vertices - joints[:, :1] + offsets.cpu().numpy()[:, None]
    # Coverage does not depend on light or colour.
    alpha = render(body, vertices, [_PLAIN] * len(vertices), size).alpha
    return torch.from_numpy(alpha)[:, :, None].float() / 255


class SilhouetteScore(LatentReward):
    """Reward `(b,)`, at most 0: PoseScore's distance on the six silhouettes instead of the skeleton
    maps.

    The truth is rendered from `batch["pose"]`, `batch["betas"]` and `batch["offset"]`: it depends
    on the pose and the shape, and not on the six-view targets.

    Args:
        weights: folder of a network that reads silhouettes, or "shipped".
        bce, perceptual: weights of the two terms, as for `pose_score`.
        body: who is rendered, as for `rewardft drpose build-dataset`; the one that the data set was
            built with.

    Raises `ComponentError` when the weights are missing or do not fit, `DataError` when the body
    does not load.
    """

    name, reads, kind, command = (
        "silhouette_score",
        "silhouettes",
        "silhouettes",
        "train-form --form silhouettes",
    )

    def __init__(
        self,
        weights: PathOrShipped = "shipped",
        bce: NotNegative = 1.0,
        perceptual: NotNegative = 1.0,
        body: Annotated[str, Place(words=OPEN_BODIES)] | None = None,
    ) -> None:
        super().__init__(weights)
        self.bce, self.perceptual, self.body = bce, perceptual, load_body(body)

    def compare(self, logits: Tensor, batch: Batch) -> Tensor:
        pose, betas, offset = (batch[name] for name in ("pose", "betas", "offset"))
        # Rendered for every batch, as data sets hold no silhouettes of their own.
        truth = draw_silhouettes(self.body, pose, betas, offset, size=logits.shape[-1]).to(
            logits.device
        )
        return -skeleton_loss(logits, truth, self.bce, self.perceptual, pyramid_distance)


_PLAIN = Appearance(
    torch.ones(HAIR + 1, 3).numpy(), torch.tensor([0.0, 0.0, 1.0]).numpy(), ambient=1.0
)  # how it looks does not matter: coverage alone is used
