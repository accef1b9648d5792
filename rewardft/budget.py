"""How much a run may spend, on which axis, and what it has spent: so that runs can be compared at equal cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from rewardft.errors import ComponentError

AXES = ("forwards", "backwards", "calls", "rewards", "seconds")
TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """At most `amount` on `axis`.

    forwards, backwards, calls (both together): samples through the denoiser. rewards: samples scored.
    seconds: training time, without set-up, evaluation and saving.
    """

    amount: float
    axis: str

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.axis}"


def parse_budget(text: str) -> Budget:
    """`10m`, `90s`, `1.5h`, `5000-calls`, `2_000-rewards`; raises ValueError with what was expected."""
    time = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)", text.strip())
    count = re.fullmatch(r"(\d[\d_]*)-([a-z]+)", text.strip())
    amount = float(time[1]) * TIMES[time[2]] if time else float(count[1].replace("_", "")) if count else 0.0
    axis = "seconds" if time else count[2] if count else ""
    if axis == "steps":
        raise ValueError(f"a number of optimizer steps is not a budget; write train.steps: {int(amount)}")
    if amount <= 0 or axis not in AXES:
        counted = ", ".join(f"5000-{name}" for name in AXES[:-1])
        raise ValueError(f"expected a time such as 90s, 10m or 1.5h, or a count such as {counted}; got {text!r}")
    return Budget(amount, axis)


def spent_on_axes(cost: Mapping[str, int], step: int, seconds: float, processes: int = 1) -> dict[str, float]:
    """What a run has spent on every axis, over all its processes. cost: see `Context.cost`."""
    forwards = processes * cost["denoiser_forward_samples"]
    backwards = processes * cost["denoiser_backward_samples"]
    return {
        "steps": step, "forwards": forwards, "backwards": backwards, "calls": forwards + backwards,
        "rewards": processes * cost["reward_evaluations"], "seconds": seconds,
    }  # fmt: skip


class Meter:
    """Watches one run spend. What cannot be bought whole is not begun: a run takes no batch that would carry it over
    its budget, so it ends less than one batch below it.

    Where batches differ by random choices (random truncation), the algorithm says what the next one will take. Of any
    other, it is taken to be what the dearest one so far took.
    """

    def __init__(self, budget: str | None, processes: int = 1) -> None:
        self.budget = None if budget is None else parse_budget(budget)
        self.processes, self.spent, self.batch = processes, 0.0, 0.0

    def restore(self, cost: Mapping[str, int], step: int, seconds: float, batch: float) -> None:
        """Go on from a checkpoint. batch: the dearest one so far, where its budget was on the same axis."""
        self.spent, self.batch = self._spent(cost, step, seconds), batch

    def _spent(self, cost: Mapping[str, int], step: int, seconds: float) -> float:
        return spent_on_axes(cost, step, seconds, self.processes)[self.budget.axis] if self.budget else 0.0

    def update(
        self, cost: Mapping[str, int], step: int, seconds: float, coming: tuple[int, int] | None = None
    ) -> None:
        """After a batch whose gradients have been applied. Raises ComponentError when the first one is over already.

        coming: (forwards, backwards) that the next step will take on each process, where that is known.
        """
        if self.budget is None:
            return
        now, counted = self._spent(cost, step, seconds), self.budget.axis != "seconds"
        if counted and self.spent == 0 and now > self.budget.amount:
            raise ComponentError(f"train.budget: {self.budget} do not pay for one batch, which took {now:,.10g}")
        if counted and now == 0:
            axis = self.budget.axis
            raise ComponentError(f"train.budget: this run spends no {axis}, so {self.budget} would never end it")
        known = None if coming is None else dict(zip(("forwards", "backwards", "calls"), (*coming, sum(coming))))
        if known is not None and self.budget.axis in known:
            self.batch = self.processes * known[self.budget.axis]
        else:  # counts may vary, so the dearest batch is what must be affordable; times jitter
            self.batch = max(self.batch, now - self.spent) if counted else now - self.spent
        self.spent = now

    def share(self, cost: Mapping[str, int], step: int, seconds: float) -> dict[str, float]:
        """The fraction of the budget that is spent after a step, as a metric; nothing without a budget."""
        return {"budget_spent": self._spent(cost, step, seconds) / self.budget.amount} if self.budget else {}

    @property
    def exhausted(self) -> bool:
        """Whether another batch would carry the run over its budget. Not known before the first one."""
        return self.budget is not None and self.spent + self.batch > self.budget.amount

    def describe(self) -> str:
        """Why the run ended."""
        return f"spent {self.spent:,.10g} of its budget of {self.budget}; the next batch would take {self.batch:,.10g}"
