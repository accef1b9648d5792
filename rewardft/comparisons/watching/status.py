"""How far each run is, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewardft.comparisons.read_runs import RunResults
from rewardft.comparisons.report.cells import Cell, Table
from rewardft.comparisons.report.numbers import number, plural
from rewardft.storage.recorder import read_records

ENDED = ("finished", "stopped", "interrupted", "failed")
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Status:
    """One run. state: `waiting`, `running`, or how it ended. share: of it that is done, in [0, 1];
    None where it has not begun. newest: what was logged last. alarms: of the last evaluation.
    said: why it ended, and the last lines of an error."""

    name: str
    state: str
    step: int | None
    share: float | None
    newest: str
    alarms: Sequence[str]
    said: str


def status_of(seen: RunResults) -> Status:
    """Read off a run's metrics and how it ended."""
    member, run = seen.member, seen.record
    lines = read_records(member.folder / "metrics.jsonl") if member.problem is None else []
    steps = [line for line in lines if "gradient_norm" in line]
    last = steps[-1] if steps else {}
    is_waiting = run.status == "missing" and not member.is_started
    states = {"missing": "waiting" if is_waiting else "running"}
    judged = [line["alarms"] for line in lines if line.get("alarms") is not None]
    reason = run.reason if run.status in ENDED else None
    return Status(
        name=member.label,
        state=states.get(run.status, run.status),
        step=last.get("step", 0 if member.is_started else None),
        share=share_of(seen, last),
        newest=", ".join(newest(last)),
        alarms=judged[-1] if judged else [],
        said="\n".join(part for part in (reason, run.error) if part),
    )


def share_of(seen: RunResults, last: Line) -> float | None:
    """The part of a run's steps or of its budget that is over, whichever is more."""
    recipe = seen.member.recipe
    if recipe is None or not last:
        return None
    if seen.record.status == "finished":
        return 1.0
    return min(max(last["step"] / recipe.train.steps, last.get("budget_spent") or 0.0), 1.0)


def newest(last: Line) -> list[str]:
    """The reward, or the loss where there is none."""
    names = [name for name in ("reward", "loss") if name in last]
    return [f"{name} {number(last[name])}" for name in names[:1]]


def in_words(found: Sequence[Status]) -> str:
    """Such as `Running: step 120, 40 %.`, or of several runs how many are how far."""
    if len(found) == 1:
        (run,) = found
        alarms = f" Alarms: {', '.join(run.alarms)}." if run.alarms else ""
        why = f": {run.said.splitlines()[0].rstrip('.')}" if run.said else ""
        return f"{run.state.capitalize()}{why}. {where(run).capitalize()}.{alarms}"
    counts = Counter(run.state for run in found)
    order = ("running", "waiting", *ENDED)
    said = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    return f"{plural(len(found), 'run')}: {said}."


def where(run: Status) -> str:
    """The step, and the part of the whole."""
    if run.step is None:
        return "not begun"
    return f"step {run.step}" + ("" if run.share is None else f", {100 * run.share:.0f} %")


def status_table(found: Sequence[Status]) -> Table:
    """A row for each run, those that run or failed first."""
    order = {"running": 0, "failed": 1, "interrupted": 2}
    rows = [
        [
            Cell(run.name, run.name),
            Cell(run.state, run.state),
            Cell(where(run), run.share),
            Cell(run.newest),
            Cell(", ".join(run.alarms)),
            Cell(run.said, block=True),
        ]
        for run in sorted(found, key=lambda run: order.get(run.state, 3))
    ]
    columns = ["Run", "State", "How far", "Newest", "Alarms", "Why it ended"]
    return Table("The runs as they are now", columns, rows, kind="text")
