"""Metrics on their way from the device to the observers: read once per logging interval."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rewardft.contracts.run import Run
from rewardft.engine.processes import Sums, average_metrics, main_decides, own_metrics
from rewardft.errors import PluginError
from rewardft.types import Rollout


@dataclass(frozen=True)
class Logged:
    """One optimizer step. sums: still on the device. facts: numbers of this step."""

    step: int
    sums: Sums
    facts: Mapping[str, float]


class StepLog:
    """Holds the steps that the observers have not been told of.

    position: samples drawn up to the last time that they were told and new ones had been drawn.
    speed: samples per second up to then.
    """

    def __init__(self, plugins: Any, run: Run, accelerator: Any, position: int) -> None:
        self.plugins, self.run, self.accelerator = plugins, run, accelerator
        self.pending: list[Logged] = []
        self.began, self.position, self.speed = time.monotonic(), position, 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What passes inside is no training."""
        before = time.monotonic() - self.began
        yield
        self.began = time.monotonic() - before

    def add(self, logged: Logged) -> None:
        self.pending.append(logged)

    def flush(self, position: int, rollout: Rollout | None) -> str | None:
        """Tell the observers of the pending steps; returns why a plugin wants the run to stop.

        rollout: of the newest step.
        """
        means = average_metrics(self.accelerator, [logged.sums for logged in self.pending])
        reasons = self._tell(means, position, rollout)
        return main_decides(self.accelerator, lambda: next(filter(None, reasons), None))

    def _tell(
        self, means: Sequence[Mapping[str, float]], position: int, rollout: Rollout | None
    ) -> list[str | None]:
        """Tell the observers of the pending steps, whose `means` are given; returns what
        `stop_run` said of each."""
        # One speed for all: without a read from the device a step has no time of its own.
        now, samples = time.monotonic(), position - self.position
        # Later updates of one batch draw none: their time counts with the next batch.
        if samples:
            self.speed = samples / max(now - self.began, 1e-9)
            self.began, self.position = now, position
        speed = {"samples_per_second": self.speed}
        reasons = []
        for mean in means:
            logged = self.pending.pop(0)  # first, so that no failure has it told twice
            metrics = {**mean, **speed, **logged.facts}
            asked = {"run": self.run, "step": logged.step, "metrics": metrics}
            # The newest rollout with every pending step: older ones are gone.
            self.plugins.call("on_step_end", **asked, rollout=rollout)
            # No early exit: a stop asked for at one step must not hide later ones from observers.
            reasons.append(self._reason(self.plugins.call("stop_run", **asked)))
        return reasons

    def _reason(self, answer: Any) -> str | None:
        """What a plugin said to `stop_run`. Raises PluginError for what is no reason: a run that
        ends says why, and `False` might be meant either way."""
        if answer is None or (isinstance(answer, str) and answer):
            return answer
        raise PluginError(
            f"hook 'stop_run' returned {answer!r:.60} ({type(answer).__name__}); expected the "
            "reason to end the run, as text, or None to go on. Plugins with this hook: "
            f"{self.plugins.places('stop_run')}."
        )

    def rescue(self, position: int) -> None:
        """Tell of what is pending when the run has failed.

        With several processes the values are of the samples of this one, and `processes_measured`
        among them says so: averaging takes all processes, and the one that failed may be gone.
        """
        if not self.pending:
            return
        means = own_metrics(self.accelerator, [logged.sums for logged in self.pending])
        if self.accelerator.num_processes > 1:
            means = [{**mean, "processes_measured": 1.0} for mean in means]
        self._tell(means, position, None)
