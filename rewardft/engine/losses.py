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

MOST_IDLE = 100  # batches in a row without a loss: a run that trains nothing would never end


class Losses:
    """An algorithm's losses, checked. component: the algorithm's, by whose title messages call it.
    idle: batches in a row that had none."""

    def __init__(self, algorithm: Any, component: Component) -> None:
        self.algorithm, self.component, self.idle = algorithm, component, 0

    @property
    def title(self) -> str:
        """Asked for only by an error: finding the line parses a file."""
        return self.component.title

    def of(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        """Those of a batch. Raises ComponentError for what is no loss, and where there is none in
        `MOST_IDLE` batches."""
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
        if self.idle >= MOST_IDLE:
            raise ComponentError(
                f"{self.title}: losses() gave no Loss in {MOST_IDLE} batches in a row, so nothing "
                "is trained. Yield one for each batch, with step=True."
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
