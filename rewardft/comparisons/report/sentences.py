"""The summary: one sentence or two on each variant, saying no more than its intervals allow."""

from __future__ import annotations

from dataclasses import dataclass

from rewardft.comparisons.report.numbers import interval, number, plural
from rewardft.comparisons.report.verdicts import (
    Verdict,
    direction,
    focus,
    group_of,
    ranked,
    value_of,
    verdict,
)
from rewardft.comparisons.words import listed
from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord


@dataclass(frozen=True)
class Sentence:
    """The summary of a variant: `text` on the value that the comparison is about,
    detail of the rest."""

    variant: str
    text: str
    detail: str
    verdict: Verdict


def sentences(record: ComparisonRecord) -> list[Sentence]:
    """Of every variant, best estimate first."""
    name = focus(record)
    alone = len(record.variants) == 1
    return [_sentence(variant, name, alone) for variant in ranked(record)]


def lead(record: ComparisonRecord) -> list[str]:
    """What the whole comparison says: the best,
    who cannot be told from it, and what limits this."""
    name = focus(record)
    lines = [*_best(record, name)]
    if record.target is None and name is not None:
        lines.append(
            f"The variants do not all train the same reward; they are compared on {name}, which "
            "all share."
        )
    seeds = {
        len(value.seeds)
        for variant in record.variants
        if (value := value_of(variant, name)) is not None
    }
    # The commonest overclaim, so it is said up front.
    if seeds == {1} and len(record.variants) == 1:
        lines.append("One seed: the intervals cover the samples, not the seeds.")
    elif seeds == {1}:
        lines.append(
            "One seed each: the intervals cover the samples, not the seeds, so this is no ranking "
            "of methods."
        )
    elif 1 in seeds:
        lines.append("Some variants have one seed: their intervals cover the samples alone.")
    failed = sum(run.status == "failed" for variant in record.variants for run in variant.runs)
    if failed:
        lines.append(f"{plural(failed, 'run')} failed; see Failures.")
    unfair = sum(note.startswith("Not fair: ") for note in record.notes)
    if unfair:
        lines.append(
            f"The variants are not on equal terms in {plural(unfair, 'respect')}; see Notes."
        )
    return lines


def _best(record: ComparisonRecord, name: str | None) -> list[str]:
    if name is None:
        return ["No variant has a measured value yet."]
    if direction(record, name) is None:
        return [f"Neither more nor less of {name} is better, so there is no best variant."]
    found = [(variant.name, value_of(variant, name)) for variant in ranked(record)]
    measured = [(variant, value) for variant, value in found if value is not None]
    if not measured:
        return [f"No variant has a measured value of {name}."]
    (best, value), rest = measured[0], measured[1:]
    # Beside the best estimate: a reward that rose by being hacked must not be praised alone.
    alarmed = (
        f" It raised {plural(len(ranked(record)[0].alarms), 'alarm')}."
        if ranked(record)[0].alarms
        else ""
    )
    change = (
        f" ({interval(value.versus_base, sign=True)} from the base)" if value.versus_base else ""
    )
    is_best = "" if len(record.variants) == 1 else " has the best estimate of"
    lines = [f"{best}{is_best or ':'} {name}: {interval(value.after)}{change}.{alarmed}"]
    # Against the best by its pairs; ranks of estimates alone would claim too much.
    verdicts = {variant: _against_best(other, best) for variant, other in rest}
    close = [variant for variant, found in verdicts.items() if found == "not separable"]
    unknown = [variant for variant, found in verdicts.items() if found == "unknown"]
    if close:
        lines.append(f"Not separable from it within the 95 % intervals: {listed(close)}.")
    elif rest and not unknown:
        others = "other" if len(measured) == len(record.variants) else "other measured"
        lines.append(f"Every {others} variant is separably behind it.")
    if unknown:
        lines.append(f"Not compared with it, sample by sample: {listed(unknown)}.")
    return lines


def _against_best(value: Value, best: str) -> Verdict:
    if value.best not in (None, best):  # its difference is to another variant
        return "unknown"
    return verdict(value.versus_best, value.higher_is_better)


def _sentence(variant: VariantRecord, name: str | None, alone: bool) -> Sentence:
    value = value_of(variant, name)
    if value is None:
        return Sentence(
            variant.name,
            " ".join([_nothing(variant, name), *_limits(variant, None)]),
            "",
            "unknown",
        )
    said = verdict(value.versus_base, value.higher_is_better)
    rival = [] if alone else [_against_rival(value)]
    text = " ".join([_against_base(value), *rival, *_limits(variant, value)])
    return Sentence(variant.name, text, " ".join(_other_values(variant, value.name)), said)


def _nothing(variant: VariantRecord, name: str | None) -> str:
    reasons = [run.reason for run in variant.runs if run.reason]
    if variant.runs and all(run.status == "failed" for run in variant.runs):
        return f"failed on {plural(len(variant.runs), 'seed')}" + (
            f": {reasons[0].rstrip('.')}." if reasons else "."
        )
    return f"has no measured value of {name}." if name else "has no measured value."


def _against_base(value: Value) -> str:
    said = verdict(value.versus_base, value.higher_is_better)
    if value.versus_base is None or said == "unknown":
        return (
            f"{value.name} is {interval(value.after)} after training; its change from the base is "
            "not known."
        )
    if said == "not separable":
        # With its interval: "not separable" must not be read as "no change".
        change = interval(value.versus_base, sign=True)
        return f"is not separable from the base on {value.name} (change {change})."
    verb = "raises" if value.versus_base.value > 0 else "lowers"
    judged = {"better": ", which is better", "worse": ", which is worse"}.get(said, "")
    # "raises ..., which is better" says it twice.
    if said == "better" and value.higher_is_better:
        judged = ""
    return (
        f"{verb} {value.name} by {interval(_magnitude(value.versus_base))}{_levels(value)}{judged}."
    )


def _magnitude(change: Interval) -> Interval:
    if change.value > 0:
        return change
    # Turned round, its bounds change places.
    return Interval(value=-change.value, low=-change.high, high=-change.low)


def _levels(value: Value) -> str:
    if value.before is None or value.after is None:
        return ""
    # Both levels with the digits that the tuned one's interval earns.
    width = (value.after.high - value.after.low) / 2
    before, after = (number(estimate.value, width) for estimate in (value.before, value.after))
    return f", from {before} to {after}"


def _against_rival(value: Value) -> str:
    if value.versus_best is None or value.best is None:
        return (
            "It cannot be compared with the others sample by sample (no rival, or other samples or "
            "noise)."
        )
    difference = interval(value.versus_best, sign=True)
    said = verdict(value.versus_best, value.higher_is_better)
    return {
        "better": (
            f"Ahead of every other variant: {difference} against {value.best}, the best of them."
        ),
        "worse": f"Behind {value.best}, the best other variant: {difference}.",
        "not separable": f"Not separable from {value.best}, the best other variant ({difference}).",
    }.get(said, f"Against {value.best}: {difference}.")


def _other_values(variant: VariantRecord, name: str) -> list[str]:
    """How the values that it did not train, and the set's, went."""
    names = {value.name for value in variant.values}
    others = [
        v
        for v in variant.values
        # Groups would make the sentence a table.
        if v.name != name and v.role != "reward" and group_of(v.name, names) is None
    ]
    said: dict[Verdict, list[str]] = {}
    for value in others:
        said.setdefault(verdict(value.versus_base, value.higher_is_better), []).append(value.name)
    words = {
        "better": "better",
        "worse": "worse",
        "higher": "higher",
        "lower": "lower",
        "not separable": "no separable change",
    }
    parts = [f"{word} {listed(said[key])}" for key, word in words.items() if key in said]
    return [f"Values not trained: {'; '.join(parts)}."] if parts else []


def _limits(variant: VariantRecord, value: Value | None) -> list[str]:
    parts = []
    failed = sum(run.status == "failed" for run in variant.runs)
    if value is not None and len(value.seeds) == 1:
        parts.append("From one seed.")
    if failed and (value is not None or failed < len(variant.runs)):
        parts.append(f"{failed} of {plural(len(variant.runs), 'seed')} failed.")
    if variant.alarms:
        parts.append(f"{plural(len(variant.alarms), 'alarm')}; see Alarms.")
    return parts
