"""`hmr_scorer`: how good a hypothesis is for its picture, learned from hypotheses whose errors are
known.

HMR-Scorer (Shen et al. 2025, 2505.10250) reads image features at the projected joints, which are
pixel-aligned, and a global map. The miniature has what the detector saw: residuals between the
hypothesis' joints and the landmarks of the same joints, in the picture and in space, and all
landmarks as the global view. As a reward, it is differentiable in the hypothesis.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rewardft_plugins.adhmr.conditions import LandmarkCondition
from rewardft_plugins.adhmr.space import SIZE, unpack
from rewardft_plugins.adhmr.weights import ASSETS, load_weights, save_weights
from rewardft_plugins.humans.camera import HALF_EXTENT
from torch import Tensor, nn

from rewardft.files.paths import PathOrShipped
from rewardft.types import Batch, Rollout

SHIPPED = "shipped"
WIDTH = 256

MATCHES = {
    16: 11,
    17: 12,
    18: 13,
    19: 14,
    20: 15,
    21: 16,
    1: 23,
    2: 24,
    4: 25,
    5: 26,
    7: 27,
    8: 28,
    22: 0,
    23: 19,
    24: 20,
    25: 31,
    26: 32,
}
"""Joints of the variable and the landmark that is nearest to each."""

_HIPS = (1, 2)
_SOFT = 1e-4  # under the root of squared distances, so that it has a slope at 0


class ScorerNet(nn.Module):
    """Raw score `(b,)` of hypotheses `(b, 118)`, higher is better; only scores of the same picture
    compare."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = LandmarkCondition()
        entered = SIZE + self.condition.size + 6 * len(MATCHES)
        self.layers = nn.Sequential(
            nn.Linear(entered, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        x = x.float()
        features = [x, self.condition(batch), residuals(unpack(x)["joints"], batch)]
        score: Tensor = self.layers(torch.cat(features, dim=1))[:, 0]
        return score


def residuals(joints: Tensor, batch: Batch) -> Tensor:
    """Landmarks less joints `(b, 27, 3)`: in the picture, less their mean, weighted by visibility,
    with their lengths; in space, from the middle of the hips. `(b, 6 * 17)`."""
    # (b, 17, 3) metres.
    near = joints[:, list(MATCHES)]
    landmarks = batch["landmarks"].float()[:, list(MATCHES.values())]
    world = batch["world"].float()[:, list(MATCHES.values())]
    seen = landmarks[..., 3:]
    # (b, 17, 2) metres in the picture plane.
    flat = HALF_EXTENT * landmarks[..., :2] - near[..., :2]
    # Where the body is in the picture says nothing of its pose, so the common shift goes out.
    flat = flat - (flat * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True).clamp(min=1e-3)
    length = (flat.square().sum(-1, keepdim=True) + _SOFT).sqrt()
    # BlazePose measures from the middle of the hips, not from the pelvis joint.
    hips = joints[:, list(_HIPS)].mean(1, keepdim=True)
    deep = world - (near - hips)
    # Brought to a size near 1, like the rest of the input.
    parts = [5 * flat * seen, 2 * deep, 5 * length * seen]
    return torch.cat([part.flatten(1) for part in parts], dim=1)


class HMRScorer(nn.Module):
    """Reward `(b,)`: the raw score of each sample's pose.

    Args:
        weights: `shipped`, a safetensors file, or null: random weights, for training.
        seed: of random weights.
    """

    provides = frozenset({"reward_gradient"})

    def __init__(self, weights: PathOrShipped | None = SHIPPED, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = ScorerNet()
        if weights is not None:
            shipped = ASSETS / "weights" / "scorer.safetensors"
            load_weights(
                self.network, shipped if weights == SHIPPED else Path(weights).expanduser()
            )
        self.requires_grad_(False).eval()

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        score: Tensor = self.network(rollout.x0, batch)
        return score

    def save(self, path: Path) -> None:
        """Write the network as float16; it loads back with `weights=path`."""
        save_weights(self.network, path)
