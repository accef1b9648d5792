"""How much a run may spend, and on which axis: so that runs can be compared at equal cost."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Not steps: a length that a schedule can follow is `train.steps`.
AXES = ("forwards", "backwards", "calls", "rewards", "seconds")
TIMES = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """At most `amount` on `axis`.

    forwards, backwards, calls (both together): samples through the denoiser. rewards: samples
    scored.
    seconds: training time, without set-up, evaluation and saving.
    """

    amount: float
    axis: str

    def __str__(self) -> str:
        return f"{self.amount:,.10g} {self.axis}"


def parse_budget(text: str) -> Budget:
    """`10m`, `90s`, `1.5h`, `5000-calls`, `2_000-rewards`;
    raises ValueError with what was expected."""
    # No more digits than a run could spend: hundreds of them are infinite, or no number at all.
    time = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(s|m|h)", text.strip())
    # Underscores as in Python's own numbers.
    count = re.fullmatch(r"([0-9][0-9_]{0,17})-([a-z]+)", text.strip())
    amount, axis = 0.0, ""
    if time:
        amount, axis = float(time[1]) * TIMES[time[2]], "seconds"
    elif count:
        amount, axis = float(count[1].replace("_", "")), count[2]
    if axis == "steps":
        cure = f"write train.steps: {int(amount)}"
        raise ValueError(f"a number of optimizer steps is not a budget; {cure}")
    if amount <= 0 or axis not in AXES:
        counted = ", ".join(f"5000-{name}" for name in AXES[:-1])
        raise ValueError(
            f"expected a time such as 90s, 10m or 1.5h, or a count such as {counted}; got "
            f"{text!r:.60}"
        )
    return Budget(amount, axis)
