"""A whole comparison: make the runs, pool what they found, and write it down."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from rewardft.comparisons.collect import against_best, pool
from rewardft.comparisons.fairness import given_starts, starts, unfair
from rewardft.comparisons.illustrations import add_pictures, plugin_sections
from rewardft.comparisons.matching import with_matched
from rewardft.comparisons.members import Member, differences
from rewardft.comparisons.plan import Plan, write_plan
from rewardft.comparisons.read_runs import RunResults, read_run
from rewardft.comparisons.runner import Launch, Notify, launch_all, pending
from rewardft.comparisons.searched import search_notes
from rewardft.comparisons.sources import Request
from rewardft.comparisons.spending import ENDLESS
from rewardft.comparisons.tables import write_samples
from rewardft.comparisons.words import listed
from rewardft.contracts.records import ComparisonRecord, Value, VariantRecord
from rewardft.errors import RecipeError
from rewardft.files.atomic import make_folder
from rewardft.files.digests import sha256
from rewardft.files.versions import version_of
from rewardft.storage.manifest import PACKAGES


def compare(
    request: Request,
    members: Sequence[Member],
    out: Path,
    launch: Launch,
    notify: Notify,
    command: str,
    pictures: int = 6,
) -> ComparisonRecord:
    """Run what is missing, collect, and write `comparison.json`, `samples.parquet` and the pictures
    to `out`.

    members: of `expand`. Raises RecipeError when not one variant can be run; KeyboardInterrupt
        after Ctrl-C, with everything saved.
    """
    # One sound variant is enough: the others appear in the report with what is wrong.
    if all(m.problem is not None for m in members):
        raise RecipeError("compare", variant_problems(members))
    make_folder(out)
    write_plan(Plan(request, members, command), out)
    launch_all(pending(members), members, out, launch, notify)
    return collect(members, request, out, command, pictures)


def variant_problems(members: Sequence[Member]) -> list[str]:
    """The sentences on variants that cannot be run, each once: seeds of one have the same, and of a
    plugin that is missing all variants."""
    names: dict[str, list[str]] = {}
    for member in members:
        lines = (member.problem or "").splitlines()
        # Above a list there is only how many they are.
        items = [line.removeprefix("  - ") for line in lines if line.startswith("  - ")]
        for line in items or lines:
            names.setdefault(line, []).append(member.variant.name)
    return [f"{listed(list(dict.fromkeys(of)))}: {line}" for line, of in names.items()]


def collect(
    members: Sequence[Member], request: Request, out: Path, command: str, pictures: int
) -> ComparisonRecord:
    """What the runs' folders say, as a record; also written to `out`."""
    runs = read_all(members, out)
    plan = Plan(request, members, command)
    record = summarise(runs, plan, out)
    write_samples(runs, out / "samples.parquet")
    record.save(out / "comparison.json")  # what follows opens models, and may fail
    # After the record is saved: these load models, and a kill here loses no number.
    record = add_pictures(record, runs, out, pictures)
    record = record.model_copy(update={"sections": plugin_sections(members, record, out)})
    record.save(out / "comparison.json")
    write_plan(replace(plan, collected=sha256(out / "comparison.json")), out)
    return record


def read_all(members: Sequence[Member], out: Path) -> dict[str, list[RunResults]]:
    """The runs of each variant, as their folders are now."""
    names = list(dict.fromkeys(member.variant.name for member in members))
    return {name: [read_run(m, out) for m in members if m.variant.name == name] for name in names}


def summarise(runs: dict[str, list[RunResults]], plan: Plan, out: Path) -> ComparisonRecord:
    """The record without its pictures and the sections of plugins; nothing is written."""
    members, request, names = plan.members, plan.request, list(runs)
    pooled = against_best(runs, {name: pool(runs[name]) for name in names})
    said = unfair(members, request.pareto is not None, request.match is not None)
    fair = [f"Not fair: {sentence}" for sentence in said] + starts(members)
    fair += [*given_starts(members), *request.notes]
    suffix = ""
    if request.match:
        pooled, suffix, said_of_it = with_matched(runs, pooled, request.match)
        fair += said_of_it
    # What differs goes to the variants, what is shared is said once.
    own, common = differences(list(members))
    if common.get("train.steps") == ENDLESS:
        # A million steps is how a budget is written, not something that a reader should see.
        common["train.steps"] = "until the budget is spent"
    variants = [variant(name, runs[name], pooled[name], own.get(name, {})) for name in names]
    # A variant that cannot be read knows no seed of its own.
    ready = [member for member in members if member.problem is None] or members
    return ComparisonRecord(
        title=request.name
        or f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}",
        date=date.today().isoformat(),
        command=plan.command,
        budget=request.budget,
        seeds=sorted({member.seed for member in ready}),
        target=matched_target(variants, suffix),
        common=common,
        variants=variants,
        notes=[
            *fair,
            *search_notes(request.searches, variants),
            *notes(runs, variants),
            *weights_judged(runs),
            *other_runs(members, out),
        ],
        searches=list(request.searches),
        versions={name: version_of(name) for name in PACKAGES},
    )


def variant(
    name: str, runs: Sequence[RunResults], values: list[Value], own: dict[str, object]
) -> VariantRecord:
    """One variant's record, without its pictures. Alarms are those of any of its seeds."""
    # All seeds of a variant have one recipe; of a variant that is wrong none has.
    recipe = next((seen.member.recipe for seen in runs if seen.member.recipe is not None), None)
    return VariantRecord(
        name=name,
        recipe=str(runs[0].member.variant.recipe),
        algorithm=recipe.algorithm.use if recipe else "unknown",
        differences=own,
        runs=[seen.record for seen in runs],
        values=values,
        alarms=alarms_of(runs),
    )


def alarms_of(runs: Sequence[RunResults]) -> list[str]:
    """One sentence per value that raised an alarm: the first seed's,
    and which others raised it too."""
    raised: dict[str, list[tuple[int, str]]] = {}
    for seen in runs:
        for sentence in seen.record.alarms:
            # A sentence begins with the name of its value.
            raised.setdefault(sentence.split()[0], []).append((seen.member.seed, sentence))
    sentences = []
    for first, *others in raised.values():
        # One sentence a value: the figures of the first seed, and who else saw it.
        also = f", and in seed {', '.join(str(seed) for seed, _ in others)} too" if others else ""
        sentences.append(f"{first[1]} (seed {first[0]}{also})" if len(runs) > 1 else first[1])
    return sentences


def target_of(variants: Sequence[VariantRecord]) -> str | None:
    """The value that is trained for by most variants and known of all, over all samples rather than
    of a group.

    An algorithm that learns from labelled pairs trains for no reward by name, and is measured by it
    all the same. None where each variant trains for a reward of its own: none of these would be a
    fair judge of the others.
    """
    measured = [variant for variant in variants if variant.values]
    trained = Counter(v.name for variant in measured for v in variant.values if v.role == "reward")
    known = [
        name
        for name in trained
        if all(any(v.name == name for v in variant.values) for variant in measured)
    ]
    # Trained for by two at least: one variant's own reward would judge the others by its terms.
    shared = [name for name in known if trained[name] > 1 or len(measured) == 1]
    return max(shared, key=lambda name: (name.startswith("reward/"), trained[name]), default=None)


def matched_target(variants: Sequence[VariantRecord], suffix: str) -> str | None:
    """The target at equal divergence, where all measured variants have it there.

    suffix: of the names of such values; '' where there are none.
    """
    target = target_of(variants)
    if not suffix or target is None:
        return target
    measured = [{value.name for value in variant.values} for variant in variants if variant.values]
    return target + suffix if all(target + suffix in names for names in measured) else target


def notes(runs: dict[str, list[RunResults]], variants: Sequence[VariantRecord]) -> list[str]:
    """What a reader must know before believing a ranking."""
    found = []
    counts = {name: sum(seen.tuned is not None for seen in seens) for name, seens in runs.items()}
    # Each note is a reason not to take the ranking at its word.
    single = [name for name, count in counts.items() if count == 1]
    if single:
        found.append(
            f"One seed only: {listed(single)}. Their intervals are over samples alone; another "
            "seed may rank them differently."
        )
    missing = [name for name, count in counts.items() if count < len(runs[name])]
    if missing:
        found.append(
            f"Runs without a result: {listed(missing)}. Their values are from the runs that ended."
        )
    target = target_of(variants)
    # Of what began from nothing the start is not in question; `starts` says so.
    based = not all(seen.member.from_scratch for seens in runs.values() for seen in seens)
    if based and len(base_levels(variants, target)) > 1:
        found.append(
            f"The base's own {target} differs between variants (another sampler, model or held-out "
            "set), so the tuned value alone does not rank them; `evaluate.sampler` evaluates all "
            "on one sampler."
        )
    return found + same_runs(runs)


def base_levels(variants: Sequence[VariantRecord], target: str | None) -> set[float]:
    """What the base has of a value, in all variants that measured it."""
    known = [value.before for item in variants for value in item.values if value.name == target]
    # Rounded: other hardware moves the last digits of the same base.
    return {round(one.value, 6) for one in known if one is not None and math.isfinite(one.value)}


def weights_judged(runs: dict[str, list[RunResults]]) -> list[str]:
    """Whose averaged weights are judged, where those of others are the last step's."""
    recipes = {name: seens[0].member.recipe for name, seens in runs.items()}
    averaged = [
        name
        for name, recipe in recipes.items()
        if recipe is not None and recipe.evaluate.weights == "ema"
    ]
    # Worth a note only where it differs between variants.
    if not averaged or len(averaged) == sum(recipe is not None for recipe in recipes.values()):
        return []
    return [
        f"Judged by the moving average of their weights: {listed(averaged)}; the others by "
        "their last weights."
    ]


def other_runs(members: Sequence[Member], out: Path) -> list[str]:
    """Runs in the comparison's folder that are none of its own now: settings,
    seeds or code have changed."""
    mine = {member.folder.resolve() for member in members}
    others = [
        path for path in out.glob("runs/*/seed*") if path.is_dir() and path.resolve() not in mine
    ]
    if not others:
        return []
    # As the report sees it, which may be sent to where the folder has no such place.
    place = f"{out.name}/runs"
    return [
        f"{len(others)} runs in {place} are of other settings, seeds or plugin code, and are not "
        "in this report."
    ]


def same_runs(runs: dict[str, list[RunResults]]) -> list[str]:
    """Variants that are one recipe with one set of settings: nothing told them apart but their
    names."""
    names: dict[str, list[str]] = {}
    for name, seens in runs.items():
        for digest in {seen.member.digest for seen in seens} - {""}:
            names.setdefault(digest, []).append(name)
    several = [", ".join(same) for same in names.values() if len(same) > 1]
    return [f"The same recipe and settings under several names: {same}." for same in several]
