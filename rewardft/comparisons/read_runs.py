"""Reads the run folders of a comparison: how each run ended, its curves, its evaluations.

A folder is read as it lies there: of a run that is still going, that failed, or that never began.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewardft.comparisons.members import Member
from rewardft.comparisons.runner import TAIL, last_lines, log_file
from rewardft.contracts.records import Point, RunRecord
from rewardft.engine.held_out import MADE_AGAIN, trained_values
from rewardft.engine.meter import spent_on_axes
from rewardft.evaluation.evaluate import Evaluation
from rewardft.evaluation.stored import read_evaluation
from rewardft.files.json_text import nan_for_null, read_object, reading
from rewardft.storage.checkpoint import evaluations_in, step_of
from rewardft.storage.folder import is_held
from rewardft.storage.recorder import read_records

CONTINUE = "Delete it, and compare again: the run continues."
COSTS = ("denoiser_forward_samples", "denoiser_backward_samples", "reward_evaluations")
# Logged values that are axes of the curves, or say nothing about learning.
NOT_SHOWN = (
    "denoiser_",
    "reward_evaluations",
    "train_seconds",
    "samples_per_second",
    "learning_rate",
    "budget_spent",
)


@dataclass
class RunResults:
    """One run as its folder has it.

    `base`, `tuned`: its first and last evaluation, where there are two; `along`: all of them, by
    their steps.
    """

    member: Member
    record: RunRecord
    base: Evaluation | None = None
    tuned: Evaluation | None = None
    trained: list[str] = field(default_factory=list)
    along: Mapping[int, Evaluation] = field(default_factory=dict)


def read_run(member: Member, out: Path) -> RunResults:
    """Read a member's folder; a run that failed or is missing has a record that says so.

    out: the comparison's folder, which the record's path starts at.
    """
    # Relative, so that a comparison's folder can be moved or sent.
    place = os.path.relpath(member.folder, out)
    # Known of any run, even of one that never began.
    facts: dict[str, Any] = {"seed": member.seed, "folder": place, "command": member.repeat()}
    if member.problem is not None or member.recipe is None:
        said = (member.problem or "").splitlines()
        first = next(
            (line.removeprefix("  - ") for line in said if line.startswith("  - ")),
            said[0] if said else "",
        )
        reason = f"the recipe cannot be run: {first}"
        return RunResults(
            member, RunRecord(**facts, status="failed", reason=reason, error=member.problem)
        )
    lines, processes = read_records(member.folder / "metrics.jsonl"), processes_of(member.folder)
    tables = made_like_the_last(read_evaluations(member.folder))
    facts |= {
        "training": list(training(lines, processes)),
        "evaluations": list(evaluations(tables, lines, processes)),
    }
    seen = RunResults(
        member, RunRecord(**facts, **ending(member)), trained=trained_values(member.recipe)
    )
    # A run that did not end was trained for less than the others: no value of it is comparable.
    if seen.record.has_ended and len(tables) > 1 and 0 in tables:
        seen.base, seen.tuned, seen.along = tables[0], tables[max(tables)], tables
    return seen


def ending(member: Member) -> dict[str, Any]:
    """How the run ended, from its summary or its log."""
    path, error = member.folder / "summary.json", member.folder / "error.txt"
    if refusal := refused(member, [path, error]):
        return {"status": "failed", "reason": refusal.splitlines()[0], "error": refusal}
    # A summary alone does not say that all went well: an observer may have failed after it.
    if path.is_file() and not error.is_file():
        return ended(path, processes_of(member.folder))
    if error.is_file():
        lines = error.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        # A full disk may have taken none of it.
        lines = lines or ["it failed; error.txt, which should say why, is empty"]
        # Lines such as `ValueError: ...`; of a chain the last is what ended the run.
        raised = [line for line in lines if re.match(r"[\w.]+: ", line)] or lines
        return {"status": "failed", "reason": raised[-1], "error": "\n".join(lines[-TAIL:])}
    said = last_lines(log_file(member))
    if member.is_started or said:
        # By its lock and not by the age of its files: a step may take an hour.
        if is_held(member.folder):
            return {"status": "missing", "reason": "it is still running"}
        reason = "it ended without saying why" if member.is_started else "it did not start"
        return {
            "status": "failed",
            "reason": said.splitlines()[-1] if said else reason,
            "error": said or None,
        }
    return {"status": "missing", "reason": "it has not been run"}


def ended(path: Path, processes: int) -> dict[str, Any]:
    """What a summary says. Raises CheckpointError for a damaged one."""
    summary = read_object(path, {"status": str, "step": int}, CONTINUE)
    with reading(path, CONTINUE):
        seconds = nan_for_null(summary.get("train_seconds"))
        facts = {
            "status": summary["status"],
            "reason": summary["reason"],
            "axes": spent_on_axes(summary, summary["step"], seconds, processes),
            "alarms": [alarm["sentence"] for alarm in summary.get("alarms", [])],
            "peak_memory": summary.get("peak_memory_bytes"),
        }
        # The record takes no others.
        RunRecord(seed=0, folder="", **facts)
        return facts


def refused(member: Member, endings: Sequence[Path]) -> str:
    """What a resumed run said when it could not even begin, as with a damaged checkpoint; '' for
    any other.

    Such a run leaves in the folder how it had ended before; its log is newer.
    """
    log, before = log_file(member), [path.stat().st_mtime_ns for path in endings if path.is_file()]
    if not before or not log.is_file() or log.stat().st_mtime_ns <= max(before):
        return ""
    said = last_lines(log).splitlines()
    place = next((i for i, line in enumerate(said) if line.startswith("error: ")), None)
    # From the error on: lines before it are warnings of libraries.
    return "" if place is None else "\n".join(said[place:])


def processes_of(folder: Path) -> int:
    """How many processes a run had: its logs count the calls of one."""
    path = folder / "manifest.json"
    if not path.is_file():
        return 1
    with reading(path, CONTINUE):
        return int(read_object(path, {}, CONTINUE).get("hardware", {}).get("processes", 1))


def read_evaluations(folder: Path) -> dict[int, Evaluation]:
    """All held-out evaluations of a run by their steps."""
    return {step_of(path): read_evaluation(path, MADE_AGAIN) for path in evaluations_in(folder)}


def made_like_the_last(found: Mapping[int, Evaluation]) -> dict[int, Evaluation]:
    """Those that were made as the last one was: a run may have been resumed with other settings."""
    if not found:
        return {}
    last = found[max(found)]
    # A curve over evaluations of different samples or settings would show the change of these.
    comparable = {
        step: one
        for step, one in found.items()
        if one.settings == last.settings and one.ids == last.ids
    }
    return dict(sorted(comparable.items()))


def training(lines: Sequence[Mapping[str, Any]], processes: int = 1) -> Iterator[Point]:
    """One point per optimizer step that was logged with its cost."""
    for line in lines:
        if all(name in line for name in COSTS):
            values = {
                k: v
                for k, v in line.items()
                if k != "step" and not k.startswith(NOT_SHOWN) and is_number(v)
            }
            yield Point(axes=axes_of(line, processes), values=values)


def evaluations(
    tables: Mapping[int, Evaluation], lines: Sequence[Mapping[str, Any]], processes: int = 1
) -> Iterator[Point]:
    """Held-out means, each at the cost of the step that it was made after."""
    costs = {line["step"]: line for line in lines if all(name in line for name in COSTS)}
    # The base is evaluated before any step is logged.
    costs[0] = {"step": 0, **dict.fromkeys(COSTS, 0), "train_seconds": 0.0}
    for step, table in tables.items():
        if step in costs:
            # An evaluation is free on these axes: what it costs is not training.
            yield Point(axes=axes_of(costs[step], processes), values=table.means())


def axes_of(line: Mapping[str, Any], processes: int = 1) -> dict[str, float]:
    """What had been spent when a line was logged."""
    seconds = math.nan if line.get("train_seconds") is None else line["train_seconds"]
    return spent_on_axes({name: line[name] for name in COSTS}, line["step"], seconds, processes)


def is_number(value: Any) -> bool:
    """Whether a logged value is one; null stands for NaN."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
