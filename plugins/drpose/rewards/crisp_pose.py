"""`crisp_pose`: PoseScore's comparison in a form whose maps gain nothing by hedging.

PoseScore (DrPose, arXiv 2603.02619) compares probability maps by cross-entropy, a proper scoring
rule: where the picture leaves a limb's place open, the map that scores best is the average over the
places, and the model that is trained along learns to paint the average, a cloud. Here each
predicted map counts by the *expected* distance of its mass to the true bone, and by the share of
the bone that it covers:

    r = -(reach * sum_x q(x) d(x) / sum_x q(x)  +  1 - sum_x p(x) m(x) / sum_x m(x)),    q = p^2

on the mean over views and joints. p is the predicted map, m the true one, d(x) the distance of
pixel x to the true bone, in units where the picture is 2 wide. A mean over places is never better
than the best of them, so a *map* gains nothing by spreading its mass; and as the first term is
relative to the mass, it gains nothing by erasing it. This holds for maps alone: g_skel, which reads
them off the latents, does not see blur, so an average of samples can still score higher than they.
"""

from __future__ import annotations

import torch.nn.functional as F
from rewardft_plugins.drpose.rewards.pose_score import LatentReward
from rewardft_plugins.humans.skeleton import bone_distances, skeleton_maps
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import NotNegative, Positive
from rewardft.types import Batch


def expected_distance(logits: Tensor, distances: Tensor) -> Tensor:
    """Mean distance `(...)` of the mass of maps, given by their logits `(..., s, s)`.

    The mass is the square of a map: otherwise the faint probabilities of a whole empty picture
    outweigh a bone.
    """
    # p^2, normalised: log p^2 = 2 log p, in logits, so that nothing underflows.
    mass = (2 * F.logsigmoid(logits)).flatten(-2).softmax(-1)
    return (mass * distances.flatten(-2)).sum(-1)


def coverage(maps: Tensor, truth: Tensor) -> Tensor:
    """Share `(...)` of the true maps `(..., s, s)` that the predicted ones cover; of a bone outside
    the picture, 0."""
    return (maps * truth).sum((-2, -1)) / truth.sum((-2, -1)).clamp_min(1e-6)


class CrispPose(LatentReward):
    """Reward `(b,)`, at most 0, from the same latents and the same truth as `pose_score`.

    Args:
        weights: folder of a skeleton network, or "shipped": g_skel, trained further with bodies at
            any angle.
        reach: weight of the expected distance against the coverage.
        radius: of the drawn bones, as the network was trained with.

    Raises `ComponentError` when the weights are missing or do not fit the latents, or `reach` is
    negative.
    """

    name, kind = "crisp_pose", "skeleton_tumbled"

    def __init__(
        self, weights: PathOrShipped = "shipped", reach: NotNegative = 2.0, radius: Positive = 0.04
    ) -> None:
        if reach < 0:
            raise ComponentError(f"crisp_pose: expected reach >= 0, got {reach}")
        super().__init__(weights)
        self.reach, self.radius = reach, radius

    def compare(self, logits: Tensor, batch: Batch) -> Tensor:
        joints2d = batch["joints2d"].to(logits.device).float()
        size = logits.shape[-1]
        # (b, 6, joints).
        far = expected_distance(logits, bone_distances(joints2d, size))
        missed = 1 - coverage(logits.sigmoid(), skeleton_maps(joints2d, size, self.radius))
        return -(self.reach * far + missed).flatten(1).mean(1)
