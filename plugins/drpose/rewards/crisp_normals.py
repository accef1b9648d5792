"""`crisp_normals`: does a set of views have as much detail as a rendered body of its size?

g_skel is as sure of an average of bodies as of one body, so a reward that relies on it pays for
averaging. Pixels are not fooled: an average of several bodies has less gradient energy. On rendered
bodies the energy per pixel of body is nearly the same whatever the pose, so no six-view target is
needed to say what is missing:

    r = -max(0, TRUTH - slack - mean over views of log(gradient energy / area of the body))

The area is soft, so that a gradient reaches it. `slack` is what an estimate of x0 some steps before
the end lacks in any case: without it the reward asks that estimate for the detail of a finished
picture, and the finished pictures become speckles. So it is a guard and not a goal.
"""

from __future__ import annotations

import torch
from rewardft_plugins.drpose.judges.pose_judge import BACKGROUND_MARGIN
from rewardft_plugins.drpose.model.attention import BODY_VIEWS
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.rewards.pose_score import body_rows
from rewardft_plugins.drpose.weights import freeze, locate
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import NotNegative
from rewardft.types import Batch, Rollout

TRUTH = -1.01
"""Mean `log_detail` of the six views of rendered bodies at 64 pixels, through the shipped
autoencoder; as they were rendered it is -0.90 on held-out acrobatic samples and -0.96 on plain
ones, with standard deviations of 0.06 and 0.04."""


def log_detail(normals: Tensor) -> Tensor:
    """Log of the gradient energy per pixel of body, of pictures `(..., 3, s, s)` on white."""
    # Sums over the picture, (...).
    down = torch.diff(normals, dim=-2).square().sum((-3, -2, -1))
    across = torch.diff(normals, dim=-1).square().sum((-3, -2, -1))
    # The silhouette's threshold as a ramp, so that a gradient reaches the area.
    area = ((1 - normals.amin(dim=-3)) / BACKGROUND_MARGIN).clamp(0, 1).sum((-2, -1))
    # An empty picture has a finite value, far below any body's.
    return (down + across).clamp_min(1e-6).log() - area.clamp_min(1.0).log()


class CrispNormals:
    """Reward `(b,)`, at most 0, from latents `rollout.x0` `(b, 12 or 14, c, h, w)`; the data set's
    poses are not used.

    Args:
        slack: how much detail may be missing, in natural logarithms of gradient energy.
        autoencoder: folder of the autoencoder whose decoder is looked through, or "shipped".

    Raises `ComponentError` when `slack` is negative, or weights are missing or do not fit.
    """

    needs = frozenset({"multiview"})
    provides = frozenset({"reward_gradient"})
    name = "crisp_normals"

    def __init__(self, slack: NotNegative = 0.3, autoencoder: PathOrShipped = "shipped") -> None:
        if slack < 0:
            raise ComponentError(f"crisp_normals: expected slack >= 0, got {slack}")
        self.slack = slack
        self.autoencoder = LatentAutoencoder.load(locate(autoencoder, "autoencoder"))
        freeze(self.autoencoder)

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        latents = body_rows(rollout.x0, self.name)[:, :BODY_VIEWS]
        self.autoencoder.to(latents.device)
        # Clamped as a viewer would see it: detail beyond white is none.
        normals = self.autoencoder.decode(latents.flatten(0, 1)).float().clamp(0, 1)
        detail = log_detail(normals).unflatten(0, latents.shape[:2])
        # 0 at TRUTH - slack and above: more detail than that earns nothing.
        return -(TRUTH - self.slack - detail.mean(1)).clamp_min(0)
