"""What came of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewardft.contracts.alarm import Alarm
from rewardft.evaluation.evaluate import OfSet, Paired

Status = Literal["finished", "stopped", "interrupted"]


@dataclass(frozen=True)
class RunSummary:
    """What `summary.json` holds.

    status: finished (all its steps, or its budget), stopped (by a plugin or an alarm) or
        interrupted (by a signal).
    reason: why it ended before its last step.
    samples: drawn from the data.
    cost: calls by their names in the logs.
    train_seconds: without set-up, evaluation and saving.
    evaluation: base against tuned model, sample by sample.
    of_sets: what is one number for all samples.
    not_compared: why there is none, where it was asked for.
    alarms: of the newest evaluation.
    best: name, value and step of the best evaluation by `save.best`.
    """

    status: Status
    reason: str | None
    step: int
    samples: int
    cost: dict[str, int]
    train_seconds: float
    peak_memory_bytes: int
    evaluation: Sequence[Paired] = ()
    of_sets: Sequence[OfSet] = ()
    not_compared: str | None = None
    alarms: Sequence[Alarm] = field(default=())
    best: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, as observers and the file get it."""
        return {
            "status": self.status,
            "reason": self.reason,
            "step": self.step,
            "samples": self.samples,
            # Flat, under the names that the metrics have, so that one reader serves both.
            **self.cost,
            "train_seconds": self.train_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "evaluation": [vars(pair) for pair in self.evaluation],
            "of_sets": [vars(value) for value in self.of_sets],
            "not_compared": self.not_compared,
            "alarms": [vars(alarm) for alarm in self.alarms],
            "best": self.best,
        }
