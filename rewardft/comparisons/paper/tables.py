"""The tables of a paper, in LaTeX (booktabs) and Markdown, from one description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rewardft.comparisons.report import tables as report_tables
from rewardft.comparisons.report.markdown import escape
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

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Other signs in LaTeX's first encoding of fonts.
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{each: f"\\{each}" for each in "&%$#_{}"},
}
# What is set in mathematics, or is a dash of its own in text.
SIGNS = {"\N{MINUS SIGN}": "$-$", "±": r"$\pm$", "†": r"$^\dagger$", "↑": r"$\uparrow$"}
SIGNS |= {"↓": r"$\downarrow$", "–": "--"}
NOTE = "† raised an alarm. Bold: the best, and what cannot be told apart from it."


@dataclass(frozen=True)
class PaperTable:
    """Cells of plain text; those at `bold` (row, column) stand out. note: below the table."""

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    note: str = ""

    def latex(self) -> str:
        """A `tabular` with booktabs' rules, for `\\input` in a `table`; needs graphicx too."""
        body = [
            " & ".join(
                rf"\textbf{{{tex(cell)}}}" if (r, c) in self.bold else tex(cell)
                for c, cell in enumerate(row)
            )
            for r, row in enumerate(self.rows)
        ]
        head = " & ".join(map(tex, self.columns))
        form = "l" + "r" * (len(self.columns) - 1)
        lines = [
            rf"% {self.caption}",
            # Never wider than the place that it is put in.
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{form}@{{}}}}",
            r"\toprule",
            rf"{head} \\",
            r"\midrule",
            *(rf"{line} \\" for line in body),
            r"\bottomrule",
            r"\end{tabular}}",
        ]
        # In a paragraph of its own, so that it does not stand beside the table.
        note = [r"\par\smallskip", rf"\footnotesize {tex(self.note)}"] if self.note else []
        return "\n".join([*lines, *note]) + "\n"

    def markdown(self) -> str:
        """The same for a repository."""
        rows = [
            [f"**{escape(x)}**" if (r, c) in self.bold else escape(x) for c, x in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        rule = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [list(map(escape, self.columns)), rule, *rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        note = f"\n\n{escape(self.note)}" if self.note else ""
        return f"{escape(self.caption)}\n\n{table}{note}\n"


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
    return PaperTable("results", caption, columns, rows, frozenset(bold), NOTE)


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
    return "" if higher_is_better is None else "↑" if higher_is_better else "↓"


def tex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    pattern = "|".join(map(re.escape, (*SPECIAL, *SIGNS)))
    return re.sub(pattern, lambda match: {**SPECIAL, **SIGNS}[match[0]], text)
