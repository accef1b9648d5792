"""Sampling weights: how often the items of a data set are drawn in a pass over it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import DataError


def read_weights(dataset: Any) -> Tensor | None:
    """The data set's `sampling_weights` as `(n,)`, float64, of sum n; None where it has none.

    Raises DataError unless there is one finite weight >= 0 for each item, one of them above 0.
    """
    given = getattr(dataset, "sampling_weights", None)
    if given is None:
        return None
    name, count = type(dataset).__name__, len(dataset)
    try:
        weights = torch.as_tensor(given, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name}: expected sampling weights, one number an item ({error})"
        ) from error
    if weights.shape != (count,):
        got = ", ".join(map(str, weights.shape))
        raise DataError(f"{name}: expected {count} sampling weights, one an item, got ({got})")
    bad = (~torch.isfinite(weights) | (weights < 0)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"{name}: expected finite sampling weights >= 0, got {float(weights[bad[0]])} for the "
            f"item {int(bad[0])}"
        )
    if not weights.any():
        raise DataError(f"{name}: all sampling weights are 0, so there is nothing to draw")
    # Relative to the largest first: a sum of huge weights would overflow.
    shares = weights / weights.max()
    return shares / shares.sum() * count


def most_copies(weights: Tensor) -> int:
    """At least as many as any item has in a pass of `weighted_pass`."""
    # Its share rounded up, and one more for the rounding of the running sum.
    return math.floor(float(weights.max())) + 2


def weighted_pass(weights: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One pass over n items of weights `(n,)` that sum to n: which item each of the n draws takes,
    and how many draws of the same item came before it in the pass, both `(n,)`.

    Systematic sampling (Madow 1949): an item of weight w is drawn floor(w) or ceil(w) times in each
    pass, and w times on average. Independent draws would have the same average, and leave out a
    third of equally weighted items in each pass.
    """
    count = len(weights)
    # In another order each time: neighbours that share a draw would always exclude each other.
    shuffled = torch.randperm(count, generator=generator)
    ends = weights[shuffled].cumsum(0)
    # Exactly n at the end, rounded or not.
    ends = ends / ends[-1] * count
    # The offset has the 24 bits of float32: with more, n - 1 + offset could be rounded to n.
    points = torch.arange(count) + torch.rand((), generator=generator).double()
    # An item has the draws that fall into its interval; one of weight 0 has an empty one.
    places = torch.searchsorted(ends, points, right=True)
    # Sorted: the first place of each item is where its draws begin.
    copies = torch.arange(count) - torch.searchsorted(places, places)
    order = torch.randperm(count, generator=generator)
    return shuffled[places][order], copies[order]
