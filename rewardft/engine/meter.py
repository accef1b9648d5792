"""What a run has spent of its budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewardft.errors import ComponentError
from rewardft.recipe.budget import parse_budget


def spent_on_axes(
    cost: Mapping[str, int], step: int, seconds: float, processes: int = 1
) -> dict[str, float]:
    """What a run has spent on every axis, over all its processes. cost: see `Context.cost`."""
    forwards = processes * cost["denoiser_forward_samples"]
    backwards = processes * cost["denoiser_backward_samples"]
    return {
        "steps": step,
        "forwards": forwards,
        "backwards": backwards,
        # Samples through the network; a backward pass counts like a forward one.
        "calls": forwards + backwards,
        "rewards": processes * cost["reward_evaluations"],
        "seconds": seconds,
    }


class Meter:
    """Watches one run spend. What cannot be bought whole is not begun: a run takes no batch that
    would carry it over its budget, so it ends less than one batch below it.

    Where batches differ by random choices (random truncation), the algorithm says what the next one
    will take. Otherwise the estimate is the most expensive batch so far.
    """

    def __init__(self, budget: str | None, processes: int = 1) -> None:
        self.budget = None if budget is None else parse_budget(budget)
        self.processes, self.spent, self.batch = processes, 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        """The most expensive batch so far, by the axis that it was measured on."""
        return {} if self.budget is None else {self.budget.axis: self.batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """A budget on another axis knows no batch yet."""
        self.batch = 0.0 if self.budget is None else state.get(self.budget.axis, 0.0)

    def start(self, cost: Mapping[str, int], step: int, seconds: float) -> None:
        """Set what the run has spent so far."""
        self.spent = self._spent(cost, step, seconds)

    def _spent(self, cost: Mapping[str, int], step: int, seconds: float) -> float:
        return (
            spent_on_axes(cost, step, seconds, self.processes)[self.budget.axis]
            if self.budget
            else 0.0
        )

    def update(
        self,
        cost: Mapping[str, int],
        step: int,
        seconds: float,
        coming: tuple[int, int] | None = None,
    ) -> None:
        """After a batch whose gradients have been applied. Raises ComponentError when the first one
        is over already.

        coming: (forwards, backwards) that the next step will take on each process, where that is
            known.
        """
        if self.budget is None:
            return
        now, counted = self._spent(cost, step, seconds), self.budget.axis != "seconds"
        # Seconds are exempt: the first batch also pays for warm-up, and a clock is no exact budget.
        if counted and self.spent == 0 and now > self.budget.amount:
            raise ComponentError(
                f"train.budget: {self.budget} are too few for one batch, which took {now:,.10g}"
            )
        # Such as `rewards` for an algorithm that scores nothing: the run would go on for ever.
        if counted and now == 0:
            axis = self.budget.axis
            raise ComponentError(
                f"train.budget: this run spends no {axis}, so {self.budget} would never end it"
            )
        known = (
            None
            if coming is None
            else dict(zip(("forwards", "backwards", "calls"), (*coming, sum(coming))))
        )
        if known is not None and self.budget.axis in known:
            # `coming` is of one process; the budget is of all.
            self.batch = self.processes * known[self.budget.axis]
        else:  # counts vary, so the largest must be affordable; times jitter, so the last is taken
            self.batch = max(self.batch, now - self.spent) if counted else now - self.spent
        self.spent = now

    def share(self, cost: Mapping[str, int], step: int, seconds: float) -> dict[str, float]:
        """The fraction of the budget that is spent after a step, as a metric; nothing without a
        budget."""
        return (
            {"budget_spent": self._spent(cost, step, seconds) / self.budget.amount}
            if self.budget
            else {}
        )

    def passed(self, parts: int) -> int:
        """How many of equal parts of the budget are spent; none without a budget."""
        return int(self.spent * parts // self.budget.amount) if self.budget else 0

    @property
    def exhausted(self) -> bool:
        """Whether another batch would carry the run over its budget. Not known before the first
        one."""
        return self.budget is not None and self.spent + self.batch > self.budget.amount

    def describe(self) -> str:
        """Why the run ended."""
        return (
            f"spent {self.spent:,.10g} of its budget of {self.budget}; the next batch would take "
            f"{self.batch:,.10g}"
        )
