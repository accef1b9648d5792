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
from rewardft.comparisons.settings import key_of, value_of
from rewardft.comparisons.sources import Request, Variant, parse_vary, vary
from rewardft.contracts.records import SearchRecord, Trial
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

    @property
    def plain_keys(self) -> tuple[str, ...]:
        """What is tried, without the values."""
        return tuple(map(key_of, self.keys))


def tuned(request: Request, search: Search, out: Path, launch: Launch, notify: Notify) -> Request:
    """The comparison with the best settings of each variant in it, and a record of each search.

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
    variants, searches = [], []
    for variant in request.variants:
        if variant.name not in trials:  # a run that is there already
            variants.append(variant)
            continue
        found = {trial: seen[trial.name] for trial in trials[variant.name]}
        best = best_of(found, name)
        chosen = [] if best is None else chosen_settings(best, search)
        variants.append(variant.with_settings(*chosen))
        searches.append(record_of(variant.name, best, found, name, search))
    notes = list(request.notes)
    if (share := shortness(request, search, out, steps_taken(trials, seen))) is not None:
        notes.append(
            f"Not fair: The runs of the search were {share:.2g} times as long as the "
            "comparison's. The best value of short runs, such as a high learning rate, may be too "
            "much for long ones. Give --tune-budget what a run spends."
        )
    return replace(request, variants=tuple(variants), searches=tuple(searches), notes=tuple(notes))


def chosen_settings(trial: Variant, search: Search) -> list[str]:
    """Those of a trial's settings that were tuned."""
    return [text for text in trial.settings if key_of(text) in search.plain_keys]


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


def goodness(run: RunResults, name: str) -> float:
    """The mean of the value after training, better where it is more; NaN without a result."""
    if run.tuned is None:
        return math.nan
    sign = -1.0 if run.tuned.higher_is_better.get(name) is False else 1.0
    return sign * run.tuned.means().get(name, math.nan)


def best_of(found: Mapping[Variant, RunResults], name: str) -> Variant | None:
    """The trial with the best value; the first of equals, None where none has one."""
    known = {trial: goodness(run, name) for trial, run in found.items()}
    known = {trial: value for trial, value in known.items() if not math.isnan(value)}
    return max(known, key=known.__getitem__) if known else None


def record_of(
    variant: str,
    best: Variant | None,
    found: Mapping[Variant, RunResults],
    name: str,
    search: Search,
) -> SearchRecord:
    """What was tried, what was chosen of it, and what the search cost."""
    words = {trial: trial.name.removeprefix(f"{variant}-") for trial in found}
    means = {trial: run.tuned.means() if run.tuned else {} for trial, run in found.items()}
    trials = [Trial(name=words[t], value=means[t].get(name, math.nan)) for t in found]
    return SearchRecord(
        variant=variant,
        keys=list(search.plain_keys),
        value=name,
        budget=search.budget,
        chosen="" if best is None else words[best],
        trials=trials,
        edges=[] if best is None else edges_of(best, search),
        costs={
            axis: sum(run.record.axes.get(axis, 0.0) for run in found.values())
            for axis in ("calls", "rewards", "seconds")
        },
    )


def edges_of(trial: Variant, search: Search) -> list[str]:
    """'lr=0.01, the highest' of every tuned number beyond which none was tried."""
    own = {key_of(text): value_of(text) for text in trial.settings}
    edges = []
    for key, values in map(parse_vary, search.keys):
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) < len(values) or len(numbers) < 2 or own[key] not in numbers:
            continue
        for end, word in ((max(numbers), "highest"), (min(numbers), "lowest")):
            if own[key] == end:
                edges.append(f"{key}={end}, the {word}")
    return edges


def said_of(search: SearchRecord) -> str:
    """A line for the terminal: what was chosen, and of what."""
    tried = ", ".join(f"{t.name} {t.value:.4g}" for t in search.trials)
    if not search.chosen:
        return f"not tuned: {search.variant}, of which no run of the search has a result"
    return f"tuned: {search.variant} runs with {search.chosen} (best {search.value} of {tried})"


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
