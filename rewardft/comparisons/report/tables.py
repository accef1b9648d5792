"""The report's tables as cells of plain text, for HTML and Markdown."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

from rewardft.comparisons.report.cells import Bar, Cell, Table
from rewardft.comparisons.report.columns import COSTS, ESTIMATES, Estimate
from rewardft.comparisons.report.numbers import UNKNOWN, count, interval, number, plural
from rewardft.comparisons.report.verdicts import ranked, value_of, verdict
from rewardft.contracts.records import ComparisonRecord, Interval, Value, VariantRecord


def value_table(record: ComparisonRecord, name: str) -> Table:
    """One value in full: every number that the record has on it, with its interval."""
    estimates = [estimate.title for estimate in ESTIMATES]
    columns = ["Variant", *estimates, "Change, each seed", "Samples"]
    # Variants without this value are left out here; the overview says that they lack it.
    measured = [(variant, value_of(variant, name)) for variant in ranked(record)]
    found = [(variant, value) for variant, value in measured if value is not None]
    # One scale for the column, so that bars can be compared.
    scale = _scale([value.versus_base for _, value in found])
    rows = [_value_row(variant, value, scale) for variant, value in found]
    return Table(f"{name}, with 95 % intervals", columns, rows)


def _value_row(variant: VariantRecord, value: Value, scale: tuple[float, float]) -> list[Cell]:
    change = value.versus_base
    # Single seeds get the digits of the pooled change: more would be noise.
    width = (change.high - change.low) / 2 if change else math.nan
    seeds = ", ".join(number(seed, width, sign=True) for seed in value.seeds)
    return [
        Cell(variant.name, variant.name),
        *(_estimate_cell(value, estimate, scale) for estimate in ESTIMATES),
        Cell(seeds or UNKNOWN, fmean(value.seeds) if value.seeds else None),
        Cell(count(value.samples), value.samples),
    ]


def _estimate_cell(value: Value, estimate: Estimate, scale: tuple[float, float]) -> Cell:
    found: Interval | None = getattr(value, estimate.name)
    text = interval(found, sign=estimate.change)
    if estimate.name == "versus_best":
        text = f"{text} against {value.best}" if found and value.best else "none"
    judged = verdict(found, value.higher_is_better) if estimate.change else None
    bar = _bar(found, scale) if estimate.name == "versus_base" else None
    return Cell(text, _middle(found), judged, bar)


def overview_table(record: ComparisonRecord, names: list[str], of: str = "every value") -> Table:
    """Every variant's change from the base on the named values;
    where that is not known, the value itself."""
    rows = [
        [
            Cell(variant.name, variant.name),
            *(_overview_cell(value_of(variant, name)) for name in names),
        ]
        for variant in ranked(record)
    ]
    return Table(f"Change from the base on {of}, with 95 % intervals", ["Variant", *names], rows)


def _overview_cell(value: Value | None) -> Cell:
    if value is None:
        return Cell("not measured")
    if value.versus_base is None:
        # Without a base the value itself is all there is, and says so.
        return Cell(f"{interval(value.after)} (tuned)", _middle(value.after))
    said = verdict(value.versus_base, value.higher_is_better)
    return Cell(interval(value.versus_base, sign=True), _middle(value.versus_base), said)


def cost_table(record: ComparisonRecord) -> Table:
    """Means over a variant's runs that ended by themselves;
    the most memory that any of its runs held."""
    columns = ["Variant", "Runs ended", *(cost.title for cost in COSTS)]
    caption = "Cost of one run: means over the runs that ended"
    return Table(caption, columns, [_cost_row(v) for v in ranked(record)], "counts")


def _cost_row(variant: VariantRecord) -> list[Cell]:
    runs = [run for run in variant.runs if run.has_ended]
    spent = [(cost, cost.of(runs)) for cost in COSTS]
    return [
        Cell(variant.name, variant.name),
        Cell(f"{len(runs)} of {len(variant.runs)}", len(runs)),
        *(Cell(cost.text(amount), amount) for cost, amount in spent),
    ]


def search_table(record: ComparisonRecord) -> Table:
    """What was tried for each variant before the comparison, and what that cost."""
    searches = {one.variant: one for one in record.searches}
    tried = list(dict.fromkeys(trial.name for one in record.searches for trial in one.trials))
    rows = []
    for one in (searches[v.name] for v in ranked(record) if v.name in searches):
        values = {trial.name: trial.value for trial in one.trials}
        rows.append(
            [
                Cell(one.variant, one.variant),
                Cell(one.chosen or "none"),
                *(_plain_number(values.get(name)) for name in tried),
                *(Cell(count(one.costs[axis]), one.costs[axis]) for axis in one.costs),
            ]
        )
    first = record.searches[0] if rows else None
    of = f"{first.value} after {first.budget} each, by what was tried" if first else ""
    costs = [axis.capitalize() for axis in first.costs] if first else []
    return Table(f"Search: {of}", ["Variant", "Chosen", *tried, *costs], rows, "counts")


def _plain_number(value: float | None) -> Cell:
    known = value is not None and math.isfinite(value)
    return Cell(number(value), value if known else None)


def differences_table(record: ComparisonRecord) -> Table:
    """The settings in which the variants differ, and no others."""
    of_variants = [
        {"Recipe": v.recipe, "Algorithm": v.algorithm, **v.differences} for v in record.variants
    ]
    keys = list(dict.fromkeys(key for settings in of_variants for key in settings))
    if {"algorithm", "algorithm.use"} & set(keys):
        keys.remove("Algorithm")  # said by the setting itself
    # Only what differs: settings in common have a table of their own.
    keys = [
        key for key in keys if len({repr(settings.get(key, ...)) for settings in of_variants}) > 1
    ]
    rows = [
        [
            Cell(v.name, v.name),
            *(_setting(settings[key]) if key in settings else _unset(v) for key in keys),
        ]
        for v, settings in zip(record.variants, of_variants)
    ]
    return Table(
        "Settings in which the variants differ",
        ["Variant", *keys],
        rows if keys else [],
        kind="text",
    )


def _unset(variant: VariantRecord) -> Cell:
    """A recipe that cannot be read says nothing of its settings."""
    return Cell("unknown" if variant.algorithm == "unknown" else "not set")


def _setting(value: Any) -> Cell:
    # `True` is an int in Python, and would be sorted among numbers.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return Cell(setting(value), value if is_number else setting(value))


def setting(value: Any) -> str:
    """A setting as a recipe writes it."""
    # YAML's words, so that a setting can be copied back.
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def failure_table(record: ComparisonRecord, is_over: bool = True) -> Table:
    """The runs that did not do all that was asked: which, and in whose words why.

    is_over: whether no run is expected to end any more.
    """
    rows = [
        [
            Cell(variant.name, variant.name),
            Cell(str(run.seed), run.seed),
            Cell(run.status, run.status),
            Cell(run.reason or "no reason known"),
            Cell((run.error or "").strip(), block=True),
        ]
        for variant in record.variants
        for run in variant.runs
        # Stopped runs too: by an alarm or a plugin, which a reader wants to know of.
        if run.status != "finished" and (is_over or run.status != "missing")
    ]
    columns = ["Variant", "Seed", "Status", "Reason", "Last lines of the error"]
    return Table("Runs that did not finish", columns, rows, kind="text")


def alarm_table(record: ComparisonRecord) -> Table:
    """Alarms of variants, then those of single runs that their variant does not repeat."""
    rows = []
    for variant in record.variants:
        rows += [
            [Cell(variant.name, variant.name), Cell("all"), Cell(alarm)] for alarm in variant.alarms
        ]
        said = {alarm.split()[0] for alarm in variant.alarms}  # a sentence begins with its value
        rows += [
            [Cell(variant.name, variant.name), Cell(str(run.seed), run.seed), Cell(alarm)]
            for run in variant.runs
            for alarm in run.alarms
            if alarm.split()[0] not in said
        ]
    return Table("Alarms by variant and seed", ["Variant", "Seed", "Alarm"], rows, kind="text")


def command_table(record: ComparisonRecord) -> Table:
    """How each run is repeated alone."""
    rows = [
        [
            Cell(variant.name, variant.name),
            Cell(str(run.seed), run.seed),
            Cell(run.folder),
            Cell(run.command, block=True),
        ]
        for variant in record.variants
        for run in variant.runs
        if run.command
    ]
    return Table(
        f"{plural(len(rows), 'run')}, each alone",
        ["Variant", "Seed", "Folder", "Command"],
        rows,
        kind="text",
    )


def pairs_table(caption: str, columns: tuple[str, str], pairs: dict[str, Any]) -> Table:
    """Names and what they are set to."""
    none = UNKNOWN if columns[1] == "Version" else "null"
    rows = [
        [Cell(key, key), Cell(none if value is None else setting(value))]
        for key, value in pairs.items()
    ]
    return Table(caption, list(columns), rows, kind="text")


def _middle(estimate: Interval | None) -> float | None:
    return estimate.value if estimate is not None and math.isfinite(estimate.value) else None


def _scale(estimates: list[Interval | None]) -> tuple[float, float]:
    bounds = [
        bound
        for e in estimates
        if e is not None
        for bound in (e.low, e.high, e.value)
        if math.isfinite(bound)
    ]
    # With 0 in it, or the bars would not show which side of it they are on.
    return min([0.0, *bounds]), max([0.0, *bounds])


def _bar(estimate: Interval | None, scale: tuple[float, float]) -> Bar | None:
    low, high = scale
    if (
        estimate is None
        or high == low
        or not all(map(math.isfinite, (estimate.low, estimate.value, estimate.high)))
    ):
        return None
    return Bar(
        *(
            100 * (x - low) / (high - low)
            for x in (estimate.low, estimate.value, estimate.high, 0.0)
        )
    )
