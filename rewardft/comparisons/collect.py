"""From run folders to records: curves, costs, and values pooled over seeds and held-out samples."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rewardft.comparisons import statistics
from rewardft.comparisons.members import Member
from rewardft.comparisons.runner import TAIL, last_lines, log_file
from rewardft.comparisons.unpaired import unpaired_seeds_interval
from rewardft.contracts.records import Interval, Point, Role, RunRecord, Value
from rewardft.engine.held_out import trained_values
from rewardft.engine.meter import spent_on_axes
from rewardft.evaluation.evaluate import Evaluation
from rewardft.files import nan_for_null, read_object
from rewardft.storage.checkpoint import step_of
from rewardft.storage.folder import is_held

CONTINUE = "Delete it, and compare again: the run goes on."
COSTS = ("denoiser_forward_samples", "denoiser_backward_samples", "reward_evaluations")
NOT_SHOWN = (
    "denoiser_",
    "reward_evaluations",
    "train_seconds",
    "samples_per_second",
    "learning_rate",
    "budget_spent",
)


@dataclass
class Seen:
    """One run as its folder has it.

    `base`, `tuned`: its first and last evaluation, where there are two.
    """

    member: Member
    record: RunRecord
    base: Evaluation | None = None
    tuned: Evaluation | None = None
    trained: list[str] = field(default_factory=list)


def look_at(member: Member, out: Path) -> Seen:
    """Read a member's folder; a run that failed or is missing has a record that says so. out: of
    the comparison."""
    place = os.path.relpath(member.folder, out)
    facts: dict[str, Any] = {"seed": member.seed, "folder": place, "command": member.repeat()}
    if member.problem is not None or member.recipe is None:
        said = (member.problem or "").splitlines()
        first = next(
            (line.removeprefix("  - ") for line in said if line.startswith("  - ")),
            said[0] if said else "",
        )
        reason = f"the recipe cannot be run: {first}"
        return Seen(
            member, RunRecord(**facts, status="failed", reason=reason, error=member.problem)
        )
    lines, processes = read_lines(member.folder / "metrics.jsonl"), processes_of(member.folder)
    tables = like_the_last(read_evaluations(member.folder))
    facts |= {
        "training": list(training(lines, processes)),
        "evaluations": list(evaluations(tables, lines, processes)),
    }
    seen = Seen(member, RunRecord(**facts, **ending(member)), trained=trained_values(member.recipe))
    if seen.record.status in ("finished", "stopped") and len(tables) > 1 and 0 in tables:
        seen.base, seen.tuned = tables[0], tables[max(tables)]
    return seen


def ending(member: Member) -> dict[str, Any]:
    """How the run ended, from its summary or its log."""
    path, error = member.folder / "summary.json", member.folder / "error.txt"
    if refusal := refused(member, [path, error]):
        return {"status": "failed", "reason": refusal.splitlines()[0], "error": refusal}
    if (
        path.is_file() and not error.is_file()
    ):  # an observer may have failed after the summary was written
        summary = read_object(path, {"status": str, "step": int}, CONTINUE)
        seconds = nan_for_null(summary.get("train_seconds"))
        spent = spent_on_axes(summary, summary["step"], seconds, processes_of(member.folder))
        alarms = [alarm["sentence"] for alarm in summary.get("alarms", [])]
        facts = {
            "status": summary["status"],
            "reason": summary["reason"],
            "axes": spent,
            "alarms": alarms,
        }
        return facts | {"peak_memory": summary.get("peak_memory_bytes")}
    if error.is_file():
        lines = error.read_text(encoding="utf-8").strip().splitlines()
        raised = [line for line in lines if re.match(r"[\w.]+: ", line)] or lines
        return {"status": "failed", "reason": raised[-1], "error": "\n".join(lines[-TAIL:])}
    said = last_lines(log_file(member))
    if member.is_started or said:
        if is_held(member.folder):
            return {"status": "missing", "reason": "it is still being run"}
        reason = "it ended without a word of why" if member.is_started else "it did not start"
        return {
            "status": "failed",
            "reason": said.splitlines()[-1] if said else reason,
            "error": said or None,
        }
    return {"status": "missing", "reason": "it has not been run"}


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
    return "" if place is None else "\n".join(said[place:])


def processes_of(folder: Path) -> int:
    """How many processes a run had: its logs count the calls of one."""
    path = folder / "manifest.json"
    if not path.is_file():
        return 1
    return int(read_object(path, {}, CONTINUE).get("hardware", {}).get("processes", 1))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`; a line that a kill cut short is left out."""
    from rewardft.storage.recorder import read_records

    return read_records(path)


def read_evaluations(folder: Path) -> dict[int, Evaluation]:
    """All held-out evaluations of a run by their steps."""
    return {
        step_of(path): read_evaluation(path)
        for path in (folder / "evaluations").glob("step-*.json")
    }


def like_the_last(found: Mapping[int, Evaluation]) -> dict[int, Evaluation]:
    """Those that were made as the last one was: a run may have been resumed with other settings."""
    if not found:
        return {}
    last = found[max(found)]
    alike = {
        step: one
        for step, one in found.items()
        if one.settings == last.settings and one.ids == last.ids
    }
    return dict(sorted(alike.items()))


def read_evaluation(path: Path) -> Evaluation:
    """The values per sample of one evaluated step."""
    keys = {"ids": list, "groups": list, "per_sample": dict, "overall": dict, "settings": dict}
    return Evaluation.from_json(read_object(path, keys, "Delete it: it is made again."))


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
    costs[0] = {"step": 0, **dict.fromkeys(COSTS, 0), "train_seconds": 0.0}
    for step, table in tables.items():
        if step in costs:
            yield Point(axes=axes_of(costs[step], processes), values=table.means())


def axes_of(line: Mapping[str, Any], processes: int = 1) -> dict[str, float]:
    """What had been spent when a line was logged."""
    seconds = math.nan if line.get("train_seconds") is None else line["train_seconds"]
    return spent_on_axes({name: line[name] for name in COSTS}, line["step"], seconds, processes)


def is_number(value: Any) -> bool:
    """Whether a logged value is one; null stands for NaN."""
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def pool(runs: Sequence[Seen]) -> list[Value]:
    """Every value of a variant over its seeds; runs that did not end,
    or were evaluated unlike, are left out."""
    pairs = [(seen.base, seen.tuned) for seen in alike(runs)]
    if not pairs:
        return []
    base, trained = pairs[0][0], runs[0].trained
    places = [
        (name, prefix, rows) for name in base.per_sample for prefix, rows in base.rows().items()
    ]
    values = [per_sample(name, prefix, rows, pairs, trained) for name, prefix, rows in places]
    return values + [set_level(name, pairs) for name in base.overall]


def alike(runs: Sequence[Seen]) -> list[Any]:
    """The runs with two evaluations on the samples of the first such run."""
    ended = [seen for seen in runs if seen.base is not None and seen.tuned is not None]
    return [seen for seen in ended if same_samples(seen.base, ended[0].base)]


def same_samples(one: Evaluation | None, other: Evaluation | None) -> bool:
    """Whether two evaluations of the base drew the same conditions with the same noise by the same
    sampler.

    Training sets of different kinds may share their held-out samples; then some value of the base
    that differs from sample to sample is the same.
    """
    if one is None or other is None or one.ids != other.ids:
        return False
    if any(one.settings.get(k) != other.settings.get(k) for k in ("seed", "sampler", "samples")):
        return False
    if one.settings.get("data") == other.settings.get("data"):
        return True
    common = one.per_sample.keys() & other.per_sample.keys()
    columns = ((one.per_sample[name], other.per_sample[name]) for name in common)
    return any(mine == theirs and tells_samples_apart(mine) for mine, theirs in columns)


def tells_samples_apart(column: Sequence[float]) -> bool:
    """Whether the values of most samples are their own: a constant says nothing of what was
    drawn."""
    known = [value for value in column if not math.isnan(value)]
    return len(known) > 1 and len(set(known)) > len(column) / 2


def same_measure(name: str, one: Evaluation, other: Evaluation) -> bool:
    """Whether a value of that name is the same reward or metric with the same settings and code
    in both."""
    code, others = one.settings.get("plugins", {}), other.settings.get("plugins", {})
    if any(code[file] != others[file] for file in code.keys() & others.keys()):
        return False
    kind, _, rest = split_group(name, one)[0].partition("/")
    if kind == "reward":
        mine, theirs = (e.settings.get("rewards", {}).get(rest) for e in (one, other))
    else:
        mine, theirs = (
            [m for m in e.settings.get("metrics", []) if m["use"].casefold() == kind]
            for e in (one, other)
        )
    return bool(mine == theirs)


def table_of(evaluations: Sequence[Evaluation], name: str, rows: Sequence[int]) -> np.ndarray:
    """(seeds, samples) of one value; NaN where it does not apply."""
    columns = [e.per_sample.get(name, [math.nan] * len(e.ids)) for e in evaluations]
    return np.array([[column[i] for i in rows] for column in columns], dtype=float)


def per_sample(
    name: str,
    prefix: str,
    rows: Sequence[int],
    pairs: Sequence[tuple[Evaluation, Evaluation]],
    trained: Sequence[str],
) -> Value:
    """One value over all samples, or over those of a group."""
    before, after = (table_of([pair[i] for pair in pairs], name, rows) for i in (0, 1))
    better = pairs[0][1].higher_is_better.get(name, name.startswith("reward/") or None)
    role: Role = "reward" if name in trained else "held_out"
    sign = -1.0 if better is False else 1.0
    each = [row[~np.isnan(row)] for row in after - before]
    return Value(
        name=prefix + name,
        role=role,
        higher_is_better=better,
        samples=len(rows),
        before=statistics.mean_interval(before),
        after=statistics.mean_interval(after),
        iqm=statistics.iqm_interval(after),
        versus_base=statistics.difference_interval(after, before),
        probability=statistics.probability_of_improvement(sign * after, sign * before),
        seeds=[float(row.mean()) if len(row) else math.nan for row in each],
    )


def set_level(name: str, pairs: Sequence[tuple[Evaluation, Evaluation]]) -> Value:
    """A number that is one for the whole set, such as a diversity."""
    before, after = (
        np.array([pair[i].overall.get(name, math.nan) for pair in pairs]) for i in (0, 1)
    )
    return Value(
        name=name,
        role="set",
        higher_is_better=pairs[0][1].higher_is_better.get(name),
        samples=len(pairs[0][0].ids),
        before=statistics.set_interval(before),
        after=statistics.set_interval(after),
        versus_base=statistics.set_interval(after - before),
        seeds=[float(value) for value in after - before],
    )


def against_best(
    runs: Mapping[str, Sequence[Seen]], values: Mapping[str, list[Value]]
) -> dict[str, list[Value]]:
    """The values with each variant's paired difference to the best other one,
    where both saw the same samples."""
    result = {}
    for name, own in values.items():
        rivals = {other: theirs for other, theirs in values.items() if other != name}
        result[name] = [with_best(value, name, rivals, runs) for value in own]
    return result


def with_best(
    value: Value, name: str, rivals: Mapping[str, list[Value]], runs: Mapping[str, Sequence[Seen]]
) -> Value:
    """Only values per sample that have a better direction."""
    if value.role == "set" or value.higher_is_better is None:
        return value
    sign = -1.0 if value.higher_is_better is False else 1.0
    mine = alike(runs[name])
    candidates = []
    for rival, theirs in rivals.items():
        same = next((other.after for other in theirs if other.name == value.name), None)
        if (
            same is not None
            and math.isfinite(same.value)
            and comparable(value.name, mine[0], alike(runs[rival])[0])
        ):
            candidates.append((sign * same.value, rival))
    if not candidates:
        return value
    best = max(candidates)[1]
    return value.model_copy(
        update={"best": best, "versus_best": versus(value.name, mine, alike(runs[best]))}
    )


def comparable(name: str, mine: Seen, theirs: Seen) -> bool:
    """Whether a value of two variants can be set against each other sample by sample."""
    if mine.base is None or theirs.base is None or not same_samples(mine.base, theirs.base):
        return False
    return same_measure(name, mine.base, theirs.base)


def versus(name: str, mine: Sequence[Seen], theirs: Sequence[Seen]) -> Interval:
    """Difference of two variants' tuned samples, paired by sample,
    and by seed where both have the same ones."""
    sides = [
        {seen.member.seed: seen.tuned for seen in seens if seen.tuned is not None}
        for seens in (mine, theirs)
    ]
    seeds = [sorted(side) for side in sides]
    plain, rows = split_group(name, next(iter(sides[0].values())))
    after, other = (
        table_of([side[s] for s in order], plain, rows) for side, order in zip(sides, seeds)
    )
    if seeds[0] == seeds[1]:
        return statistics.difference_interval(after, other)
    return unpaired_seeds_interval(after, other)


def split_group(name: str, evaluation: Evaluation) -> tuple[str, list[int]]:
    """A value's name without its group, and the group's rows."""
    for prefix, rows in evaluation.rows().items():
        if (
            prefix
            and name.startswith(prefix)
            and name.removeprefix(prefix) in evaluation.per_sample
        ):
            return name.removeprefix(prefix), rows
    return name, evaluation.rows()[""]
