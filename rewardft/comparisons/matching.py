"""Values at equal divergence from the base: each run is read where it has gone equally far.

A run's evaluations give its mean divergence d_k and its values v_k at a few steps. Near the base a
divergence grows with the square of what has changed in the model, and a value with that itself, so
the way that a run has gone is r = sqrt(d) (as in Gao et al. 2022, 2210.10760). Between the two
evaluations where r first reaches the level's root r*, both are interpolated:

    w = (r* - r_k-1) / (r_k - r_k-1)                v = (1 - w) v_k-1 + w v_k

for every sample. w is itself an estimate, from the same samples, and its error moves the values of
all of them along the curve. By the delta method sample i therefore counts as

    u_i = v_i - slope * [(1 - w) e_k-1,i + w e_k,i]     e_k,i = (d_k,i - d_k) / (2 r_k)

with slope = (mean v_k - mean v_k-1) / (r_k - r_k-1): the mean of u is that of v, and its variance
over samples contains what is not known about w. u goes through the same statistics as any other
value; `benchmarks/matched_coverage.py` measures how often the intervals contain the truth, with and
without the second term.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rewardft.comparisons.collect import against_best, comparable_runs, pool
from rewardft.comparisons.read_runs import RunResults
from rewardft.contracts.records import Value
from rewardft.errors import RecipeError
from rewardft.evaluation.evaluate import Evaluation

Array = NDArray[np.float64]
Runs = Mapping[str, Sequence[RunResults]]


@dataclass(frozen=True)
class Matched:
    """The runs with their values at one divergence.

    suffix: what the values' names end in, such as ` at kl/gaussian 0.012`.
    notes: the level, where it comes from, and which variants do not reach it; which of them pass it
        before they were evaluated.
    """

    runs: dict[str, list[RunResults]]
    suffix: str
    notes: tuple[str, ...]


def parse_match(text: str) -> float | None:
    """`divergence` (None: as far as all runs go) or `divergence=LEVEL`. Raises RecipeError."""
    what, equals, level = text.replace(" ", "").partition("=")
    try:
        found = float(level) if equals else 1.0
    except ValueError:
        found = math.nan
    # Python takes 0_5 for 5.
    if what != "divergence" or not 0 < found < math.inf or "_" in level:
        raise RecipeError(
            f"match: {text}",
            [f"match: expected divergence, or divergence=0.05 with a level above 0, got {text!r}."],
        )
    return found if equals else None


def with_matched(
    runs: Runs, pooled: Mapping[str, list[Value]], match: str
) -> tuple[dict[str, list[Value]], str, tuple[str, ...]]:
    """(The pooled values of each variant with those at equal divergence before them, what the names
    of these end in, notes)."""
    found = at_equal_divergence(runs, parse_match(match))
    if isinstance(found, str):
        return dict(pooled), "", (found,)
    more = against_best(found.runs, {name: pool(seens) for name, seens in found.runs.items()})
    values = {name: more[name] + own for name, own in pooled.items()}
    return values, found.suffix, found.notes


def at_equal_divergence(runs: Runs, level: float | None) -> Matched | str:
    """The runs at one divergence, or why there is none.

    level: None: the largest that every run with a result reaches.
    """
    ended = {name: comparable_runs(seens) for name, seens in runs.items()}
    ended = {name: seens for name, seens in ended.items() if seens}
    kind = divergence_of([seen for seens in ended.values() for seen in seens])
    if kind is None:
        return "Not matched: the runs have no divergence in common (evaluate.kl, one sampler)."
    furthest = {name: min(reach(seen, kind) for seen in seens) for name, seens in ended.items()}
    shortest = min(furthest, key=furthest.__getitem__)
    where = furthest[shortest] if level is None else level
    if not where > 0:
        return f"Not matched: {shortest} does not leave the base ({kind} is 0)."
    reached = {name: seens for name, seens in ended.items() if furthest[name] >= where}
    # With `adapter.init` a run may start beyond the level: what it was at it, it never measured.
    beyond = [name for name, seens in reached.items() if any(start(s, kind) > where for s in seens)]
    near = {name: seens for name, seens in reached.items() if name not in beyond}
    suffix = f" at {kind} {where:.3g}"
    found = {
        name: [at_level(seen, kind, where, suffix) for seen in near.get(name, [])] for name in runs
    }
    source = f"as far as every run goes; the shortest way is that of {shortest}"
    note = f"At equal divergence: values{suffix} ({source if level is None else 'as asked'})."
    coarse = [name for name, seens in near.items() if any(is_first(s, kind, where) for s in seens)]
    absent = [name for name in ended if name not in reached]
    if absent:
        note += f" Not reached by all runs of {', '.join(absent)}."
    if beyond:
        note += f" Left out, as they start beyond it: {', '.join(beyond)}."
    early = (
        f"Not fair: The level of equal divergence lies before the first evaluation of "
        f"{', '.join(coarse)}, where a straight line is all that is known: evaluate more often."
    )
    return Matched(found, suffix, (note, early) if coarse else (note,))


def divergence_of(runs: Sequence[RunResults]) -> str | None:
    """The divergence that all runs have measured; None where there is none."""
    names = [
        {name for name in seen.tuned.per_sample if name.startswith("kl/")}
        for seen in runs
        if seen.tuned is not None
    ]
    return next(iter(sorted(set.intersection(*names))), None) if names else None


def reach(run: RunResults, kind: str) -> float:
    """The largest mean divergence of a run's evaluations."""
    return max(float(column(one, kind).mean()) for one in run.along.values())


def start(run: RunResults, kind: str) -> float:
    """The mean divergence of a run's first evaluation: 0 where it starts from the base."""
    return float(column(run.along[min(run.along)], kind).mean())


def is_first(run: RunResults, kind: str, level: float) -> bool:
    """Whether a run is beyond the level at its first evaluation after the base."""
    steps = sorted(run.along)
    return len(steps) > 1 and float(column(run.along[steps[1]], kind).mean()) > level


def at_level(run: RunResults, kind: str, level: float, suffix: str) -> RunResults:
    """A run with its tuned values at a mean divergence that it reaches; they and the base's have
    names of their own."""
    assert run.base is not None
    steps = sorted(run.along)
    means = [float(column(run.along[step], kind).mean()) for step in steps]
    last = next(i for i, mean in enumerate(means) if mean >= level)
    # None before it only where the run starts exactly at the level.
    before, after = run.along[steps[max(last - 1, 0)]], run.along[steps[last]]
    names = [name for name in run.base.per_sample if name != kind]
    tuned = {
        name: interpolated(
            (column(before, name), column(after, name)),
            (column(before, kind), column(after, kind)),
            level,
        )
        for name in names
    }
    base = {name: run.base.per_sample[name] for name in names}
    return replace(
        run,
        base=renamed(run.base, base, suffix),
        tuned=renamed(run.base, {name: list(map(float, u)) for name, u in tuned.items()}, suffix),
        # No run was trained for a value at this divergence.
        trained=[],
    )


def interpolated(
    values: tuple[Array, Array], divergence: tuple[Array, Array], level: float
) -> Array:
    """u of the equations above: `(n,)`, NaN where a value does not apply.

    Args:
        values, divergence: before and after the level is reached, `(n,)` each.
    """
    low, high = (math.sqrt(float(one.mean())) for one in divergence)
    share = 1.0 if high == low else (math.sqrt(level) - low) / (high - low)
    mixed = (1 - share) * values[0] + share * values[1]
    both = ~np.isnan(values[0] + values[1])
    rise = float((values[1] - values[0])[both].mean()) if both.any() else 0.0
    slope = 0.0 if high == low else rise / (high - low)
    errors = (1 - share) * error(divergence[0]) + share * error(divergence[1])
    result: Array = mixed - slope * errors
    return result


def error(divergence: Array) -> Array:
    """e of the equations above: each sample's part in the root of the mean `(n,)`; 0 for the base,
    which has no divergence."""
    mean = float(divergence.mean())
    return (divergence - mean) / (2 * math.sqrt(mean)) if mean > 0 else np.zeros_like(divergence)


def renamed(one: Evaluation, columns: Mapping[str, Sequence[float]], suffix: str) -> Evaluation:
    """An evaluation of the same samples with these columns under longer names."""
    measures = {f"{name}{suffix}": r for name, r in one.settings.get("rewards", {}).items()}
    better = {f"{name}{suffix}": way for name, way in one.higher_is_better.items()}
    return Evaluation(
        ids=one.ids,
        per_sample={f"{name}{suffix}": list(values) for name, values in columns.items()},
        settings={**one.settings, "rewards": measures},
        higher_is_better=better,
    )


def column(one: Evaluation, name: str) -> Array:
    """One value of all samples."""
    return np.array(one.per_sample.get(name, [math.nan] * len(one.ids)), dtype=np.float64)
