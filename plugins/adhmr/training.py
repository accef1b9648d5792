"""The scorer's training: RankNet over hypotheses of one picture (Burges et al. 2005; ADHMR,
2505.10250).

For every pair i, j of a picture's hypotheses and every error metric

    p_ij = sigmoid(sigma * (s_i - s_j))        sigma = 5
    loss = binary cross-entropy of p_ij with [error_i < error_j]

The paper's hypotheses are noise on the true pose. Here the scorer learns on the base's own samples
by default: those are what it has to rank, and it ranks them better for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rewardft_plugins.adhmr.body import chosen_skeleton
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.hypotheses import draw_hypotheses, true_errors
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.adhmr.scorer import HMRScorer
from rewardft_plugins.adhmr.space import pack_matrices, unpack
from rewardft_plugins.humans.poses.kinematics import rotation_matrices, rotations_of
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rewardft.noise import keyed_generator
from rewardft.policy.batches import make_batch
from rewardft.types import Batch

SIGMA = 5.0
NOISE = (0.05, 0.5)  # radians of the paper's way, from the best to the worst hypothesis
CHUNK = 200


@dataclass(frozen=True)
class ScorerSettings:
    """hypotheses: per picture.
    on_noise: train on noise around the truth, as in the paper, not on the base's samples.
    pictures: per step.
    jitter: noise on the landmarks, in half widths."""

    hypotheses: int = 10
    on_noise: bool = False
    steps: int = 2000
    pictures: int = 48
    lr: float = 2e-3
    jitter: float = 0.015
    seed: int = 0


@dataclass(frozen=True)
class Ranked:
    """Pictures with hypotheses `(n, m, 118)` and their four errors `(4, n, m)`."""

    batch: Batch
    hypotheses: Tensor
    errors: Tensor


def train_scorer(
    data: PosePictures,
    base: PoseDiffusion,
    settings: ScorerSettings,
    progress: Callable[[str], None],
) -> HMRScorer:
    """A scorer that ranks hypotheses for the pictures of `data`."""
    ranked = rank(data, base, settings)
    scorer = HMRScorer(weights=None, seed=settings.seed)
    network = scorer.network.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(network.parameters(), settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps
    )
    generator = keyed_generator("scorer", settings.seed)
    for step in range(1, settings.steps + 1):
        rows = torch.randint(len(ranked.batch), (settings.pictures,), generator=generator)
        # Hypotheses were drawn once; only landmarks change from step to step.
        loss = loss_of(network, ranked, rows, settings.jitter, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            progress(f"step {step} of {settings.steps}, loss {float(loss.detach()):.3f}")
    # As a reward it must not learn from what it judges.
    scorer.requires_grad_(False).eval()
    return scorer


def loss_of(
    network: torch.nn.Module,
    ranked: Ranked,
    rows: Tensor,
    jitter: float,
    generator: torch.Generator,
) -> Tensor:
    """RankNet on some pictures, their landmarks jittered."""
    columns = {name: ranked.batch[name][rows] for name in ("landmarks", "world", "turned")}
    shape = columns["landmarks"].shape
    # Landmarks repeat exactly in training; without noise the scorer would know pictures by heart.
    moved = jitter * torch.randn(shape, generator=generator)
    moved[..., 3] = 0.0  # visibility
    columns["landmarks"] = columns["landmarks"] + moved
    ids = tuple(ranked.batch.ids[i] for i in rows.tolist())
    count = ranked.hypotheses.shape[1]
    copies = Batch(ids, (0,) * len(ids), columns).repeat(count)
    # (pictures, hypotheses).
    scores = network(ranked.hypotheses[rows].flatten(0, 1), copies).unflatten(0, (-1, count))
    return ranknet(scores, ranked.errors[:, rows])


def ranknet(scores: Tensor, errors: Tensor) -> Tensor:
    """The loss of scores `(n, m)` for errors `(metrics, n, m)`, a mean over metrics, pictures and
    pairs."""
    # Each pair once.
    first, second = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1)
    logits = SIGMA * (scores[:, first] - scores[:, second])
    better = (errors[..., first] < errors[..., second]).to(logits.dtype)
    return binary_cross_entropy_with_logits(logits.expand_as(better), better)


def rank(data: PosePictures, base: PoseDiffusion, settings: ScorerSettings) -> Ranked:
    """Hypotheses of all pictures, with their true errors."""
    batch = make_batch([data[i] for i in range(len(data))], [0] * len(data))
    drawn, errors = [], []
    for start in range(0, len(batch), CHUNK):
        part = batch.select(slice(start, start + CHUNK))
        if settings.on_noise:
            hypotheses = noisy_truth(part["pose"], settings, start)
        else:
            hypotheses = draw_hypotheses(base, part, settings.hypotheses, settings.seed)
        drawn.append(hypotheses)
        # (4, n, m).
        errors.append(torch.stack(list(true_errors(hypotheses, part["pose"]).values())))
    return Ranked(batch, torch.cat(drawn), torch.cat(errors, dim=1))


def noisy_truth(truth: Tensor, settings: ScorerSettings, first: int = 0) -> Tensor:
    """True poses `(n, 118)` with every joint turned at random, `(n, m, 118)`: noise that grows with
    m.

    first: number of the first one in its data set, so that other poses get other noise.
    """
    pose = unpack(truth)
    skeleton = chosen_skeleton()
    rotations = rotations_of(pose["joints"], pose["twists"], skeleton)
    generator = keyed_generator("noisy", settings.seed, first)
    # From nearly right to quite wrong, so that every pair has a clear better one.
    levels = torch.linspace(*NOISE, settings.hypotheses)
    turned = [
        rotations @ rotation_matrices(level * torch.randn(len(truth), 22, 3, generator=generator))
        for level in levels
    ]
    return torch.stack([pack_matrices(one, skeleton) for one in turned], dim=1)
