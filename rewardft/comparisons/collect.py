"""The values of a comparison: pooled over seeds and held-out samples, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewardft.comparisons import statistics
from rewardft.comparisons.read_runs import RunResults
from rewardft.comparisons.unpaired import unpaired_seeds_interval
from rewardft.contracts.records import Interval, Role, Value
from rewardft.evaluation.evaluate import Evaluation


def pool(runs: Sequence[RunResults]) -> list[Value]:
    """Every value of a variant over its seeds; runs that did not end, or were evaluated on other
    samples, are left out."""
    pairs = [(seen.base, seen.tuned) for seen in comparable_runs(runs)]
    if not pairs:
        return []
    # The first run stands for all: they saw the same samples, in the same groups.
    base, trained = pairs[0][0], runs[0].trained
    places = [
        (name, prefix, rows) for name in base.per_sample for prefix, rows in base.rows().items()
    ]
    # Each value over all samples, then over those of each group.
    values = [per_sample(name, prefix, rows, pairs, trained) for name, prefix, rows in places]
    return values + [set_level(name, pairs) for name in base.overall]


def comparable_runs(runs: Sequence[RunResults]) -> list[Any]:
    """The runs with two evaluations on the samples of the first such run."""
    ended = [seen for seen in runs if seen.base is not None and seen.tuned is not None]
    return [seen for seen in ended if same_samples(seen.base, ended[0].base)]


def same_samples(one: Evaluation | None, other: Evaluation | None, any_base: bool = False) -> bool:
    """Whether two evaluations of the base drew the same conditions with the same noise by the same
    sampler.

    Training sets of different kinds may share their held-out samples; then some value of the base
    that differs from sample to sample is the same.

    any_base: whether the models may differ.
    """
    if one is None or other is None or one.ids != other.ids:
        return False
    if any(one.settings.get(k) != other.settings.get(k) for k in ("seed", "sampler", "samples")):
        return False
    # Of other base models a difference would not be one of what they were trained by.
    made_by = ("data",) if any_base else ("data", "model")
    if all(one.settings.get(key) == other.settings.get(key) for key in made_by):
        return True
    # An untrained model gives the same value only for the same condition and the same noise.
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
    # The code of a file plugin may have changed what a name means.
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
    # NaN keeps the table rectangular; the statistics leave such cells out.
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
    # (seeds, samples) each.
    before, after = (table_of([pair[i] for pair in pairs], name, rows) for i in (0, 1))
    better = pairs[0][1].higher_is_better.get(name, name.startswith("reward/") or None)
    role: Role = "reward" if name in trained else "held_out"
    # Improvement is a rise of sign * value; without a better direction it is a plain rise.
    sign = -1.0 if better is False else 1.0
    # A seed's own mean, over the samples that have a value in both.
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
    runs: Mapping[str, Sequence[RunResults]], values: Mapping[str, list[Value]]
) -> dict[str, list[Value]]:
    """The values with each variant's paired difference to the best other one, where both saw the
    same samples."""
    result = {}
    for name, own in values.items():
        rivals = {other: theirs for other, theirs in values.items() if other != name}
        result[name] = [with_best(value, name, rivals, runs) for value in own]
    return result


def with_best(
    value: Value,
    name: str,
    rivals: Mapping[str, list[Value]],
    runs: Mapping[str, Sequence[RunResults]],
) -> Value:
    """Only values per sample that have a better direction."""
    # A number per set has nothing to be paired by, and a value without direction no best.
    if value.role == "set" or value.higher_is_better is None:
        return value
    sign = -1.0 if value.higher_is_better is False else 1.0
    mine = comparable_runs(runs[name])
    candidates = []
    for rival, theirs in rivals.items():
        same = next((other.after for other in theirs if other.name == value.name), None)
        if (
            same is not None
            and math.isfinite(same.value)
            and comparable(value.name, mine[0], comparable_runs(runs[rival])[0])
        ):
            # Only rivals that can be paired: the best of them is named beside the difference.
            candidates.append((sign * same.value, rival))
    if not candidates:
        return value
    best = max(candidates)[1]
    return value.model_copy(
        update={"best": best, "versus_best": versus(value.name, mine, comparable_runs(runs[best]))}
    )


def comparable(name: str, mine: RunResults, theirs: RunResults) -> bool:
    """Whether a value of two variants can be set against each other sample by sample."""
    # What began from nothing owes its base nothing: where it ends is compared.
    from_scratch = mine.member.from_scratch and theirs.member.from_scratch
    if mine.base is None or theirs.base is None:
        return False
    if not same_samples(mine.base, theirs.base, any_base=from_scratch):
        return False
    return same_measure(name, mine.base, theirs.base)


def versus(name: str, mine: Sequence[RunResults], theirs: Sequence[RunResults]) -> Interval:
    """Difference of two variants' tuned samples, paired by sample, and by seed where both have the
    same ones."""
    sides = [
        {seen.member.seed: seen.tuned for seen in seens if seen.tuned is not None}
        for seens in (mine, theirs)
    ]
    seeds = [sorted(side) for side in sides]
    plain, rows = split_group(name, next(iter(sides[0].values())))
    after, other = (
        table_of([side[s] for s in order], plain, rows) for side, order in zip(sides, seeds)
    )
    # Runs of one seed share their data order and noise, so the difference is paired by it too.
    if seeds[0] == seeds[1]:
        return statistics.difference_interval(after, other)
    return unpaired_seeds_interval(after, other)


def split_group(name: str, evaluation: Evaluation) -> tuple[str, list[int]]:
    """A value's name without its group, and the group's rows."""
    # Names may hold slashes themselves, so only a rest that is a value makes it a group.
    for prefix, rows in evaluation.rows().items():
        if (
            prefix
            and name.startswith(prefix)
            and name.removeprefix(prefix) in evaluation.per_sample
        ):
            return name.removeprefix(prefix), rows
    return name, evaluation.rows()[""]
