"""The retrievers' training: captions against poses, each the right one among those of a batch.

    loss = cross-entropy over rows and columns of s * cos(text_i, pose_j)

(Radford et al. 2021, 2103.00020). A and B share nothing: A learns on every second clip, B on the
others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rewardft_plugins.posert import posecodes
from rewardft_plugins.posert.dataset import Frames, read_frames
from rewardft_plugins.posert.retriever import Features, Retriever
from torch import Tensor
from torch.nn.functional import cross_entropy

from rewardft.noise import keyed_generator

NOISE = 0.05  # on the six numbers of a rotation


@dataclass(frozen=True)
class RetrieverSettings:
    """features, salt: see `Retriever`.
    half: learn on every second clip, starting with this one: 0 or 1; None: on all.
    said: phrases of a caption."""

    features: Features = "rotations"
    salt: int = 0
    half: int | None = 0
    said: int = 4
    steps: int = 800
    batch: int = 192
    lr: float = 2e-3
    seed: int = 0


def train_retriever(
    motions: str, settings: RetrieverSettings, progress: Callable[[str], None]
) -> Retriever:
    """A retriever trained on the training clips of `motions` and their mirror images."""
    frames = read_frames(motions, "train", mirrored=True)
    rows = half_of(frames, settings.half)
    generator = keyed_generator("retriever", settings.seed, settings.salt)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        retriever = Retriever(settings.features, settings.salt)
    optimizer = torch.optim.AdamW(retriever.parameters(), settings.lr, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps
    )
    for step in range(1, settings.steps + 1):
        chosen = rows[torch.randint(len(rows), (settings.batch,), generator=generator)]
        loss = loss_of(retriever, frames, chosen, settings.said, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            progress(f"step {step} of {settings.steps}, loss {float(loss.detach()):.3f}")
    return retriever.requires_grad_(False).eval()


def half_of(frames: Frames, half: int | None) -> Tensor:
    """Rows of every second clip, mirror images with what they mirror."""
    if half is None:
        return torch.arange(len(frames.ids))
    # By clip: frames next to each other are nearly the same pose.
    names = [id_.split("/")[0] for id_ in frames.ids]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return torch.tensor([row for row, name in enumerate(names) if numbers[name] % 2 == half])


def loss_of(
    retriever: Retriever, frames: Frames, rows: Tensor, said: int, generator: torch.Generator
) -> Tensor:
    """The loss of one batch, both ways."""
    phrases = posecodes.choose(frames.phrases[rows], frames.frequency, said, generator)
    poses = frames.poses[rows]
    # A reward is asked about sampled poses, which are a little off any rotation.
    poses = poses + NOISE * torch.randn(poses.shape, generator=generator)
    text = retriever.text([posecodes.caption(one) for one in phrases])
    # (b, b): the right pairs are on the diagonal.
    scores = retriever.scale.exp() * text @ retriever.pose(poses).T
    right = torch.arange(len(rows))
    return (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2


@torch.no_grad()
def recall(retriever: Retriever, motions: str) -> tuple[float, float]:
    """How often the right pose is among the first ten for its caption, and the right caption for
    its pose, among 300 held-out frames at even distances."""
    frames = read_frames(motions, "val", mirrored=False)
    rows = torch.linspace(0, len(frames.ids) - 1, min(300, len(frames.ids))).long().unique()
    generator = keyed_generator("recall", 0)
    phrases = posecodes.choose(frames.phrases[rows], frames.frequency, 4, generator)
    text = retriever.text([posecodes.caption(one) for one in phrases])
    scores = text @ retriever.pose(frames.poses[rows]).T
    # Ties count for the right one: only what scores higher is before it.
    right = scores.diagonal()
    poses = ((scores > right[:, None]).sum(1) < 10).float().mean()
    texts = ((scores > right[None]).sum(0) < 10).float().mean()
    return float(poses), float(texts)
