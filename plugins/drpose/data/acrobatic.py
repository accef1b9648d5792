"""The held-out samples that pictures, reports and meshes show."""

from __future__ import annotations

from itertools import islice
from typing import Any

from rewardft.policy.batches import make_batch
from rewardft.types import Batch


def acrobatic_batch(dataset: Any, count: int) -> Batch:
    """The first `count` acrobatic samples of a data set, or as many as there are."""
    items = map(dataset.__getitem__, range(len(dataset)))
    chosen = list(islice((item for item in items if not item["plain"]), count))
    return make_batch(chosen, [0] * len(chosen))
