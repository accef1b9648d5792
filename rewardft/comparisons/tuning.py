"""The same small search for every variant before a comparison: all values of a few settings, each
with one short run, judged on the training split with noise and a seed of its own.

The held-out samples of the comparison are not touched, and what the search cost is part of the
report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rewardft.comparisons.members import Member, expand
from rewardft.comparisons.plan import Plan, write_plan
from rewardft.comparisons.read_runs import RunResults, read_run
from rewardft.comparisons.runner import Launch, Notify, launch_all, pending
from rewardft.comparisons.sources import Request, Variant, key_of, parse_vary, vary
from rewardft.errors import RecipeError
from rewardft.files.atomic import make_folder
from rewardft.recipe.budget import Budget, parse_budget

# Of the runs and of their evaluations: no run of the comparison has these.
SEED, NOISE = 100_000, 4321
NEARLY = 0.9  # shorter runs than this are called short


@dataclass(frozen=True)
class Search:
    """What is tried, as after `--tune`, and what each run may spend, as after `--budget`."""

    keys: tuple[str, ...]
    budget: str

    @classmethod
    def of(cls, keys: Sequence[str], budget: str | None) -> Search | None:
        """None where nothing is to be tuned. Raises RecipeError for one without the other."""
        if not keys and budget is None:
            return None
        if not keys or budget is None:
            given, lacking = ("--tune-budget", "--tune") if budget else ("--tune", "--tune-budget")
            example = "--tune optimizer.lr=1e-3,1e-2 --tune-budget 500-rewards"
            raise RecipeError(given, [f"{given} needs {lacking} beside it: {example}."])
        return cls(tuple(keys), budget)


def tuned(request: Request, search: Search, out: Path, launch: Launch, notify: Notify) -> Request:
    """The comparison with the best settings of each variant in it, and a note of each search.

    Runs what is missing, in `out/tuning`. Raises RecipeError where the variants have no trained
    value in common to be judged by.
    """
    trials = {v.name: trials_of(v, search) for v in request.variants if v.run is None}
    everything = tuple(trial for found in trials.values() for trial in found)
    wanted = Request(everything, seeds=1, budget=search.budget)
    # The ends alone: a search draws no curves.
    members = expand(wanted, out / "tuning", along=False)
    make_folder(out / "tuning")
    write_plan(Plan(wanted, members, f"--tune {' --tune '.join(search.keys)}"), out / "tuning")
    launch_all(pending(members), members, out / "tuning", launch, notify)
    seen = {member.variant.name: read_run(member, out) for member in members}
    name = judged_by(members, list(seen.values()))
    variants, notes = [], list(request.notes)
    for variant in request.variants:
        found = {trial.name: seen[trial.name] for trial in trials.get(variant.name, ())}
        best = best_of(found, name)
        keys = [text.partition("=")[0].strip() for text in search.keys]
        if best is None:
            variants.append(variant)
            notes.append(f"Not tuned: {variant.name}, of which no run of the search has a result.")
            continue
        (trial,) = (each for each in trials[variant.name] if each.name == best)
        chosen = [text for text in trial.settings if key_of(text) in keys]
        variants.append(variant.with_settings(*chosen))
        said = note_of(variant.name, chosen, found, name, search.budget)
        notes.append(said + at_the_edge(chosen, search))
    if (share := shortness(request, search, out, steps_taken(trials, seen))) is not None:
        notes.append(
            f"The runs of the search were {share:.2g} times as long as the comparison's. The best "
            "value of short runs, such as a high learning rate, may be too much for long ones."
        )
    return replace(request, variants=tuple(variants), notes=tuple(notes))


def trials_of(variant: Variant, search: Search) -> list[Variant]:
    """A variant with every value that is tried, on the training split."""
    own = (f"seed={SEED}", f"evaluate.seed={NOISE}", "evaluate.data={}")
    # Settings below `evaluate.data` would outlive it, and name the held-out split.
    kept = [text for text in variant.settings if not is_data(key_of(text))]
    found = [replace(variant, settings=tuple(kept))]
    for text in search.keys:
        found = vary(found, *parse_vary(text))
    # `vary` leaves out the name of a variant that is alone.
    names = [one.name.removeprefix(f"{variant.name}-") for one in found]
    return [
        replace(one, name=f"{variant.name}-{name}").with_settings(*own)
        for one, name in zip(found, names)
    ]


def is_data(key: str) -> bool:
    """Whether a key is of the held-out samples."""
    return key == "evaluate.data" or key.startswith("evaluate.data.")


def judged_by(members: Sequence[Member], seen: Sequence[RunResults]) -> str:
    """The value that most variants are trained for and all were measured by."""
    measured = [run.tuned.means().keys() for run in seen if run.tuned is not None]
    trained = Counter(name for run in seen for name in run.trained)
    known = [name for name in trained if all(name in names for names in measured)]
    if not measured or not known:
        problems = dict.fromkeys(str(member.problem or "no result") for member in members)
        said = "; ".join(problems)
        raise RecipeError("--tune", [f"--tune: the runs have no trained value in common: {said}"])
    return max(known, key=lambda name: trained[name])


def value_of(run: RunResults, name: str) -> float:
    """The mean of the value after training, better where it is more; NaN without a result."""
    if run.tuned is None:
        return math.nan
    sign = -1.0 if run.tuned.higher_is_better.get(name) is False else 1.0
    return sign * run.tuned.means().get(name, math.nan)


def best_of(found: Mapping[str, RunResults], name: str) -> str | None:
    """The trial with the best value; the first of equals, None where none has one."""
    known = {trial: value_of(run, name) for trial, run in found.items()}
    known = {trial: value for trial, value in known.items() if not math.isnan(value)}
    return max(known, key=known.__getitem__) if known else None


def note_of(
    variant: str, chosen: Sequence[str], found: Mapping[str, RunResults], name: str, budget: str
) -> str:
    """What was chosen, of what, and what the search cost."""
    tried = ", ".join(
        f"{trial.removeprefix(f'{variant}-')} {shown(run, name)}" for trial, run in found.items()
    )
    spent = {
        axis: sum(run.record.axes.get(axis, 0.0) for run in found.values())
        for axis in ("calls", "rewards", "seconds")
    }
    return (
        f"Tuned: {variant} runs with {', '.join(chosen)}, the best {name} on the training split "
        f"({tried}). The search was {len(found)} runs of {budget}: {spent['calls']:,.0f} calls, "
        f"{spent['rewards']:,.0f} rewards, {spent['seconds']:,.0f} s, which are not counted above."
    )


def at_the_edge(chosen: Sequence[str], search: Search) -> str:
    """A sentence on each number that was the highest or the lowest of what was tried."""
    tried = dict(parse_vary(text) for text in search.keys)
    said = ""
    for text in chosen:
        values = tried[key_of(text)]
        numbers = [float(v) for v in values if type(v) in (int, float)]
        if len(numbers) < max(2, len(values)):
            continue
        value = float(text.partition("=")[2])
        if value in (min(numbers), max(numbers)):
            end = "highest" if value == max(numbers) else "lowest"
            said += f" {text} was the {end} of them: the best may lie beyond."
    return said


def steps_taken(
    trials: Mapping[str, Sequence[Variant]], seen: Mapping[str, RunResults]
) -> dict[str, float]:
    """The most steps of a run of each variant's search."""
    runs = {name: [seen[trial.name] for trial in found] for name, found in trials.items()}
    return {
        name: max(run.record.axes.get("steps", math.nan) for run in found)
        for name, found in runs.items()
    }


def shortness(
    request: Request, search: Search, out: Path, taken: Mapping[str, float]
) -> float | None:
    """The length of the search's runs in terms of the comparison's, by the variant where it is
    least; None where they are as long, or where that is not known before these have run.

    taken: steps in the search, by variant.
    """
    wanted, given = parsed(request.budget), parsed(search.budget)
    if wanted and given and wanted.axis == given.axis:
        shares = [given.amount / wanted.amount]
    else:
        lengths = steps_of(request, out)
        shares = [taken[name] / steps for name, steps in lengths.items() if name in taken]
    shares = [share for share in shares if not math.isnan(share)]
    least = min(shares, default=1.0)
    return least if least < NEARLY else None


def parsed(budget: str | None) -> Budget | None:
    """None for no budget, and for a number of steps, which is none."""
    if budget is None or budget.endswith("-steps"):
        return None
    return parse_budget(budget)


def steps_of(request: Request, out: Path) -> dict[str, int]:
    """The steps of a run of each variant whose recipe is ended by nothing else."""
    members = expand(replace(request, seeds=1), out)
    recipes = {m.variant.name: m.recipe for m in members if m.recipe is not None}
    return {name: r.train.steps for name, r in recipes.items() if r.train.budget is None}


def shown(run: RunResults, name: str) -> str:
    """The value itself, in four digits."""
    return "no result" if run.tuned is None else f"{run.tuned.means()[name]:.4g}"
