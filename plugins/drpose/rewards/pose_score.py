"""`pose_score`: DrPose's differentiable pose reward on clean multi-view latents.

r(x0, theta) = -E || g_skel(x0) - R(J(theta)) ||, the distance estimated by binary cross-entropy and
a perceptual term (arXiv 2603.02619; LPIPS there, weights of the two terms not published). The loss
1 - r belongs to the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from rewardft_plugins.drpose.rewards.skeleton_net import READINGS, SkeletonNet
from rewardft_plugins.drpose.weights import freeze, locate
from rewardft_plugins.humans.skeleton import skeleton_maps
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped, Place
from rewardft.recipe.bounds import NotNegative, Positive
from rewardft.types import Batch, Rollout

PYRAMID_LEVELS = 4
Perceptual = Callable[[Tensor, Tensor], Tensor]  # maps (n, c, s, s) in [0, 1], twice -> (n,)


def cross_entropy(logits: Tensor, maps: Tensor) -> Tensor:
    """Mean binary cross-entropy over all but the first dimension, less the entropy of the soft
    targets: `(b,)`.

    The entropy is the cross-entropy's minimum, so a perfect match gives 0; gradients are those of
    the cross-entropy.
    """
    # From logits: a sigmoid that rounds to 0 or 1 would have no gradient.
    excess = F.binary_cross_entropy_with_logits(logits, maps, reduction="none") - entropy(maps)
    return excess.flatten(1).mean(1)


def entropy(p: Tensor) -> Tensor:
    """Entropy in nats of Bernoulli distributions, elementwise."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def pyramid_distance(a: Tensor, b: Tensor) -> Tensor:
    """L1 distance of average-pooled pyramids of maps `(n, c, s, s)`, mean over levels: `(n,)`.

    The default perceptual term, in place of LPIPS, whose weights cannot be shipped. Two bones that
    share no pixel overlap on a coarse level, so the gradient reaches further than that of a
    per-pixel distance.
    """
    total = torch.zeros(len(a), device=a.device)
    for _ in range(PYRAMID_LEVELS):
        # Each level halves the resolution, so coarse levels reach further and count as much.
        total = total + (a - b).abs().flatten(1).mean(1)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / PYRAMID_LEVELS


class Lpips:
    """LPIPS through torchmetrics, each map as a grey picture; its weights must be installed
    already."""

    def __init__(self, network: Any) -> None:
        try:
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.metric = LearnedPerceptualImagePatchSimilarity(network, normalize=True)
        except (ImportError, ValueError) as error:
            raise ComponentError(
                f"pose_score: lpips_weights {network!r} cannot be used: {error}\n"
                "Install torchvision and its weights, or leave lpips_weights out for a pyramid of "
                "L1 distances."
            ) from error
        freeze(self.metric)

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        self.metric.to(a.device)
        # (n, joints, 3, s, s): each map as a picture.
        grey = [maps[:, :, None].expand(-1, -1, 3, -1, -1) for maps in (a, b)]
        # torchmetrics gives one number per call, so each sample is called for itself.
        return torch.stack([self.metric(x, y) for x, y in zip(*grey)])


def skeleton_loss(
    logits: Tensor, maps: Tensor, bce: float, perceptual: float, distance: Perceptual
) -> Tensor:
    """Distance of predicted and true skeletons `(b, 6, joints, s, s)`, mean over views, channels
    and pixels: `(b,)`."""
    loss = bce * cross_entropy(logits, maps)
    if perceptual == 0:
        return loss
    # (b, 6, joints, s, s) -> (6 b, joints, s, s): a view is one picture.
    views = distance(logits.sigmoid().flatten(0, 1), maps.flatten(0, 1))
    return loss + perceptual * views.view(len(maps), -1).mean(1)


def body_rows(x0: Tensor, reward: str = "pose_score") -> Tensor:
    """The 12 body rows of `(b, 12, ...)` or, without its face rows, of `(b, 14, ...)`."""
    views = x0.shape[1] // DOMAINS
    if x0.shape[1] not in (DOMAINS * BODY_VIEWS, DOMAINS * (BODY_VIEWS + 1)):
        raise ComponentError(
            f"{reward} expects 12 or 14 rows of latents per sample, got x0 of {tuple(x0.shape)}"
        )
    return x0.unflatten(1, (DOMAINS, views))[:, :, :BODY_VIEWS].flatten(1, 2)


class LatentReward:
    """A reward `(b,)` from what a frozen network reads off clean latents `rollout.x0` `(b, 12 or
    14, c, h, w)`.

    Subclasses say what the network reads (`reads`), where its weights are shipped (`kind`) and
    which command trains it, and compare its maps with the truth.
    """

    needs = frozenset({"multiview"})
    provides = frozenset({"reward_gradient"})
    name, reads, kind, command = "pose_score", "maps", "skeleton", "train-skeleton"

    def __init__(self, weights: str) -> None:
        # Checked now and not at the first batch: a network that reads other maps would score
        # nonsense.
        folder = locate(weights, self.kind)
        self.net = SkeletonNet.load(folder)
        if self.net.reads != self.reads:
            raise ComponentError(
                f"{self.name} needs a network that reads {self.reads!r} ({READINGS[self.reads]}), "
                f"and the one in {folder} reads {self.net.reads!r}; train one with `rewardft "
                f"drpose {self.command}`."
            )
        freeze(self.net)

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        x0 = body_rows(rollout.x0, self.name)
        if x0.shape[2] != self.net.channels:
            raise ComponentError(
                f"{self.name}'s network reads latents of {self.net.channels} channels, the model "
                f"gives {x0.shape[2]}; give the `weights` of a network trained on this model's "
                f"autoencoder (rewardft drpose {self.command})."
            )
        self.net.to(x0.device)
        # The training's precision must not change what a sample is worth.
        with torch.autocast(x0.device.type, enabled=False):
            return self.compare(self.net(x0.float()), batch)

    def compare(self, logits: Tensor, batch: Batch) -> Tensor:
        """Logits `(b, 6, maps, s, s)`, float32 -> `(b,)`."""
        raise NotImplementedError


class PoseScore(LatentReward):
    """Reward `(b,)`, at most 0, from latents `rollout.x0` `(b, 12, c, h, w)`, or 14 rows with
    (ignored) face crops.

    The truth is drawn from `batch["joints2d"]` `(b, 6, 23, 2)`, which the data set stores mirrored
    for the views 3 and 4 (back, left), as the model generates them.

    Args:
        weights: folder of a skeleton network, or "shipped".
        bce: weight of the cross-entropy.
        perceptual: weight of the perceptual term.
        radius: of the drawn bones, in units where the picture is 2 wide, as the network was trained
            with.
        lpips_weights: network of torchmetrics' LPIPS ("alex", "vgg", "squeeze") where torchvision
            and its weights are installed; None: `pyramid_distance`.

    Raises `ComponentError` when the weights are missing or do not fit the latents.
    """

    def __init__(
        self,
        weights: PathOrShipped = "shipped",
        bce: NotNegative = 1.0,
        perceptual: NotNegative = 1.0,
        radius: Positive = 0.04,
        lpips_weights: Annotated[str, Place()] | None = None,
    ) -> None:
        super().__init__(weights)
        self.bce, self.perceptual, self.radius = bce, perceptual, radius
        self.distance: Perceptual = (
            pyramid_distance if lpips_weights is None else Lpips(lpips_weights)
        )

    def compare(self, logits: Tensor, batch: Batch) -> Tensor:
        maps = skeleton_maps(
            batch["joints2d"].to(logits.device).float(), logits.shape[-1], self.radius
        )
        return -skeleton_loss(logits, maps, self.bce, self.perceptual, self.distance)
