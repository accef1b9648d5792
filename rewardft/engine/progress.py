"""The progress line: step, reward, samples per second, time left. An observer like any plugin's."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rewardft.contracts.hookspecs import hookimpl
from rewardft.contracts.run import Run
from rewardft.files.streams import Forgiving

if TYPE_CHECKING:
    from rewardft.contracts.alarm import Alarm

SHOWN = 6  # values of an evaluation: those over all samples first, groups of them after


class ProgressLine:
    """A bar on a terminal; on anything else a plain line now and then."""

    def __init__(self, start: int, trained: float = 0.0, every_seconds: float = 10.0) -> None:
        # A component may have replaced it by None while it was built.
        self.console = Console(file=cast(TextIO, Forgiving(sys.stderr or sys.__stderr__)))
        # Time left is judged by the steps after `counted`, which began at `began`.
        self.start = self.counted = start
        self.every, self.last, self.began = every_seconds, 0.0, time.monotonic()
        # Training time (s) at the newest step, and at the last evaluation.
        self.latest = self.trained = trained
        # The last reward and its step: of a batch that takes several steps, only the first scores.
        self.scored: tuple[int, float] | None = None
        columns = (
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            # Names of metrics may hold brackets, which rich would take for markup.
            TextColumn("{task.fields[text]}", markup=False),
        )
        self.bar = Progress(
            *columns,
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    @hookimpl
    def on_run_start(self, run: Run) -> None:
        self.total, self.began = run.steps, time.monotonic()
        self.task = self.bar.add_task("train", total=run.steps, completed=self.start, text="")
        self.bar.start()

    @hookimpl
    def on_step_end(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        if "reward" in metrics:
            self.scored = step, metrics["reward"]
        total = self.total
        self.latest = metrics.get("train_seconds", 0.0)
        # The bar is to end where the run will.
        if metrics.get("budget_spent"):  # what the budget will pay for, as far as one can tell
            total = max(step, min(total, round(step / metrics["budget_spent"])))
        if self.console.is_terminal:
            text = describe(step, metrics, self.scored)
            self.bar.update(self.task, completed=step, total=total, text=text)
            return
        now = time.monotonic()
        if now - self.last > self.every or step == total:
            self.last = now
            # Steps are told in bunches, so each says itself how much training time had passed when
            # it was taken.
            took = (
                metrics["train_seconds"] - self.trained
                if "train_seconds" in metrics
                else now - self.began
            )
            left = took / max(step - self.counted, 1) * (total - step)
            text = describe(step, metrics, self.scored)
            self.say(f"step {step}/{total}  {text}  {left:.0f} s left")

    @hookimpl
    def on_evaluation_end(
        self, run: Run, step: int, metrics: Mapping[str, float], alarms: Sequence[Alarm]
    ) -> None:
        # An evaluation says nothing about the speed of steps.
        self.counted, self.began = step, time.monotonic()
        self.trained = self.latest
        # A name is of a group where what follows its first slash is a name of its own.
        over_all = {
            name: value for name, value in metrics.items() if name.partition("/")[2] not in metrics
        }
        shown = [f"{name} {value:.4g}" for name, value in (over_all | dict(metrics)).items()]
        more = f"  and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        self.say(f"evaluation at step {step}:  {'  '.join(shown[:SHOWN])}{more}")
        for alarm in alarms:
            self.say(f"alarm at step {step}:  {alarm.sentence}", style="bold red")

    def say(self, text: str, style: str | None = None) -> None:
        """One line: what a log file holds of it can be searched."""
        self.console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)

    @hookimpl
    def on_checkpoint_saved(self, run: Run, step: int, path: Path) -> None:
        if self.console.is_terminal:
            self.bar.console.print(f"saved {path}", highlight=False, markup=False)

    @hookimpl
    def on_run_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        self.bar.stop()

    @hookimpl
    def on_run_error(self, run: Run, step: int, error: BaseException) -> None:
        self.bar.stop()


def describe(
    step: int, metrics: Mapping[str, float], scored: tuple[int, float] | None = None
) -> str:
    """Reward (or loss, where there is none) and speed, in a few words.

    scored: the last reward and its step, which said it for the steps after it too.
    """
    if scored is not None:
        # Not the loss in its place: lines of one run are read as one column.
        head = f"reward {scored[1]:.4g}{'' if scored[0] == step else f' (of step {scored[0]})'}"
    else:
        head = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""
    return (
        f"{head}  {metrics['samples_per_second']:.3g} samples/s"
        if "samples_per_second" in metrics
        else head
    )
