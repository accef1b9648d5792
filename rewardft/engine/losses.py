"""The losses of a batch, as an algorithm may give them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.plugins.component import Component
from rewardft.policy.context import Context
from rewardft.policy.untouched import described
from rewardft.types import Batch, Loss

MOST_IDLE = 100  # a run that trains nothing would never end


class Losses:
    """An algorithm's losses, checked.

    component: the algorithm's, by whose title messages call it.
    idle: batches in a row that had none.
    most_idle: how many may be, as the algorithm says.
    """

    def __init__(self, algorithm: Any, component: Component) -> None:
        """Raises ComponentError for an `idle_batches` that is no number of batches."""
        self.algorithm, self.component, self.idle = algorithm, component, 0
        most: Any = getattr(algorithm, "idle_batches", MOST_IDLE)
        if type(most) is not int or most < 1:
            raise ComponentError(
                f"{self.title}: idle_batches is how many batches in a row may give no loss, a "
                f"whole number >= 1; got {described(most)}."
            )
        self.most_idle = most

    @property
    def title(self) -> str:
        """Asked for only by an error: finding the line parses a file."""
        return self.component.title

    def of(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        """Those of a batch. Raises ComponentError for what is no loss, and where there is none in
        `most_idle` batches."""
        found: Any = self.algorithm.losses(ctx, batch)
        # A tensor can be iterated over, and would be taken for many.
        if not isinstance(found, Iterable) or isinstance(found, (Loss, Tensor, Mapping)):
            raise ComponentError(
                f"{self.title}: losses(ctx, batch) must be a generator of losses; got "
                f"{described(found)}. Write `yield Loss(...)` instead of `return`."
            )
        self.idle += 1
        for loss in found:
            self.idle = 0
            self.check(loss)
            yield loss
        if self.idle >= self.most_idle:
            raise ComponentError(
                f"{self.title}: losses() gave no Loss in {self.most_idle} batches in a row, so "
                "nothing is trained. Yield one for each batch, with step=True; an algorithm that "
                "gathers more of them first says how many in an attribute `idle_batches`."
            )

    def check(self, loss: Any) -> None:
        """Raises ComponentError for what is no loss."""
        if not isinstance(loss, Loss):
            raise ComponentError(
                f"{self.title}: losses() must yield rewardft.Loss; got {described(loss)}. Write "
                "`yield Loss(value, step=True)`."
            )
        if not isinstance(loss.metrics, Mapping):
            raise ComponentError(
                f"{self.title}: the metrics of a Loss are a mapping from names to values; got "
                f"{described(loss.metrics)}."
            )
