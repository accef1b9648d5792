"""The tables of a paper: results, all values, costs."""

from __future__ import annotations

from rewardft.comparisons.paper.paper_table import PaperTable
from rewardft.comparisons.report import tables as report_tables
from rewardft.comparisons.report.numbers import UNKNOWN, interval
from rewardft.comparisons.report.verdicts import (
    direction,
    focus,
    group_of,
    ranked,
    value_names,
    value_of,
    verdict,
)
from rewardft.contracts.records import ComparisonRecord, Interval, VariantRecord

NOTE = "† raised an alarm. Bold: the best, and what cannot be told apart from it."


def tables(record: ComparisonRecord) -> list[PaperTable]:
    """Results on the value that the comparison is about, all values, and what the runs cost."""
    found = [results(record), overview(record), costs(record)]
    return [table for table in found if table is not None and table.rows]


def results(record: ComparisonRecord) -> PaperTable | None:
    """Base, tuned, change and difference to the best other, on one value."""
    name = focus(record)
    if name is None:
        return None
    rows, bold = [], set()
    measured = [variant for variant in ranked(record) if value_of(variant, name) is not None]
    for row, variant in enumerate(measured):
        value = value_of(variant, name)
        assert value is not None
        cells = (value.before, value.after)
        change, rival = value.versus_base, value.versus_best
        numbers = [*map(interval, cells), interval(change, True), interval(rival, True)]
        rows.append([named(variant), *map(plain, numbers)])
        if rival is not None and verdict(rival, value.higher_is_better) != "worse":
            bold |= {(row, column) for column in (2, 3)}
    seeds = ", ".join(map(str, record.seeds))
    budget = f", budget {record.budget}" if record.budget else ""
    better = arrow(direction(record, name))
    caption = f"{name} {better} with 95 % intervals (seeds {seeds}{budget})."
    columns = ["Variant", "Base", "Tuned", "Change", "To the best other"]
    note = NOTE + apart(record, name)
    return PaperTable("results", caption, columns, rows, frozenset(bold), note)


def apart(record: ComparisonRecord, name: str) -> str:
    """A sentence where not all variants are compared with each other: each is with its best other
    one, and so with all that these lead to."""
    group: dict[str, str] = {}
    for variant in ranked(record):
        value = value_of(variant, name)
        if value is not None:
            mine, best = group.setdefault(variant.name, variant.name), value.best or variant.name
            theirs = group.setdefault(best, mine)
            group |= {other: mine for other, of in group.items() if of == theirs}
    count = len(set(group.values()))
    if count < 2:
        return ""
    return (
        f" There are {count} groups of variants, each with a best of its own: base model, sampler "
        "or samples differ between them."
    )


def overview(record: ComparisonRecord) -> PaperTable | None:
    """The change of every value over all samples."""
    known = set(value_names(record))
    names = [name for name in value_names(record) if group_of(name, known) is None]
    rows = [
        [named(variant), *(change_of(variant, name) for name in names)]
        for variant in ranked(record)
        if variant.values
    ]
    columns = ["Variant", *(f"{name} {arrow(direction(record, name))}".strip() for name in names)]
    caption = "Change from the base on every value, with 95 % intervals."
    note = "† raised an alarm."
    return PaperTable("values", caption, columns, rows, note=note) if len(names) > 1 else None


def costs(record: ComparisonRecord) -> PaperTable:
    """What one run of each variant spent."""
    table = report_tables.cost_table(record)
    rows = [[plain(cell.text) for cell in row] for row in table.rows]
    return PaperTable("costs", f"{table.caption}.", table.columns, rows)


def change_of(variant: VariantRecord, name: str) -> str:
    """A variant's change from the base on a value, with its interval."""
    value = value_of(variant, name)
    found: Interval | None = None if value is None else value.versus_base
    return plain(interval(found, sign=True))


def named(variant: VariantRecord) -> str:
    """Its name, with a dagger for an alarm."""
    return f"{variant.name} †" if variant.alarms else variant.name


def plain(text: str) -> str:
    """A dash for what is not known."""
    return "–" if text == UNKNOWN else text


def arrow(higher_is_better: bool | None) -> str:
    """Which way is better."""
    return {None: "", True: "↑", False: "↓"}[higher_is_better]
