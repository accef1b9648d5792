"""`digit_pairs`: preferences without people.

Two samples of the base for each class; the reward says which wins.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.noise import Noise
from rewardft.policy.batches import evaluation_batches
from rewardft.recipe.bounds import Count
from rewardft.samplers.ddim import DDIM
from rewardft.types import Batch, Plan

from .classifiers import DigitLikelihood
from .data import DigitClasses, Split, check_split, class_item
from .model import DigitUNet

Prediction = Literal["epsilon", "flow"]
BATCH = 128  # classes that are sampled at a time


class DigitPairs:
    """Winner and loser `(1, 8, 8)` in [0, 1], id, label and group; made from the shipped base on
    first use.

    The same options always give the same pairs. It takes 2 * size samples and as many evaluations
    of `digit_likelihood`. Held-out items (`split: val`) are classes alone: nothing learns from
    them.

    Args:
        size: number of pairs, or of held-out classes.
        split: train or val.
        prediction: which of the shipped bases draws the samples.
        steps: of its sampler, DDIM without noise.
        seed: of the samples' noise.
    """

    provides = frozenset({"pairs"})

    def __init__(
        self,
        size: Count = 2048,
        split: Split = "train",
        prediction: Prediction = "epsilon",
        steps: Count = 10,
        seed: int = 0,
    ) -> None:
        check_split(split, size)
        if steps < 1:
            raise DataError(f"digit_pairs: steps must be at least 1, got {steps}")
        self.size, self.split = size, split
        self.making = (size, prediction, steps, seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        item = class_item(index, self.size, self.split)
        if self.split == "val":
            return item
        winners, losers = make_pairs(*self.making)
        return {**item, "winner": winners[index], "loser": losers[index]}


@lru_cache(maxsize=2)
@torch.no_grad()
def make_pairs(size: int, prediction: Prediction, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Winners and losers `(size, 1, 8, 8)` in [0, 1]; of two equal samples the first wins."""
    model, sampler, reward = DigitUNet(prediction), DDIM(steps), DigitLikelihood()
    sampler.setup(model)
    parts = [sample_pairs(model, sampler, reward, batch, seed) for batch in classes(size)]
    # (size, 2, 1, 8, 8) and (size, 2).
    pixels, rewards = (torch.cat(column) for column in zip(*parts))
    first = rewards[:, 0] >= rewards[:, 1]
    # (size, 1, 1, 1), over (size, 1, 8, 8).
    mask = first[:, None, None, None]
    return torch.where(mask, pixels[:, 0], pixels[:, 1]), torch.where(
        mask, pixels[:, 1], pixels[:, 0]
    )


def classes(size: int) -> Iterator[Batch]:
    """The classes of the pairs as batches, two samples each."""
    for batch in evaluation_batches(DigitClasses(size, "train"), size, BATCH):
        yield batch.repeat(2)


def sample_pairs(
    model: DigitUNet, sampler: DDIM, reward: DigitLikelihood, batch: Batch, seed: int
) -> tuple[Tensor, Tensor]:
    """Pixels `(n, 2, 1, 8, 8)` and rewards `(n, 2)` of a batch of 2n samples."""
    # Ids of their own, or the pairs would start from the noise that training draws.
    noise = Noise(seed, [f"pair/{id_}" for id_ in batch.ids], batch.epochs)
    rollout = sampler.rollout(model, model.encode(batch), Plan(stop=sampler.steps), noise)
    rollout.decoder = model.decode
    return rollout.decoded.unflatten(0, (-1, 2)), reward(rollout, batch).unflatten(0, (-1, 2))
