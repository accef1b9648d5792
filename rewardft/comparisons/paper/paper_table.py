"""A table of a paper, in LaTeX (booktabs) and Markdown, and in parts where it is larger than a
page."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rewardft.comparisons.report.markdown import escape

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
# Characters across both columns of a page, at the smallest letters that are read with ease, about
# 6.5 points; and rows on a page.
LINE, PAGE = 145, 60
BETWEEN = 3  # characters' room between two columns
NARROW = 12  # characters that every heading may have on a line


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
        """A `tabular` with booktabs' rules, for `\\input` in a `table`; needs graphicx too. See
        `parts` for one that is larger than a page."""
        body = [
            " & ".join(
                rf"\textbf{{{tex(cell)}}}" if (r, c) in self.bold else tex(cell)
                for c, cell in enumerate(row)
            )
            for r, row in enumerate(self.rows)
        ]
        head = " & ".join(map(self._heading, range(len(self.columns))))
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

    def parts(self) -> Sequence[PaperTable]:
        """The table as a page has room for it in letters that can be read: itself, or several, each
        with the first column."""
        blocks = [range(i, min(i + PAGE, len(self.rows))) for i in range(0, len(self.rows), PAGE)]
        wanted = [(rows, columns) for columns in self._columns_together() for rows in blocks]
        if len(wanted) < 2:  # also one without rows
            return [self]
        return [
            replace(
                self._cut(rows, [0, *columns]),
                name=self.name if number == 1 else f"{self.name}_{number}",
                caption=f"{self.caption} Part {number} of {len(wanted)}.",
            )
            for number, (rows, columns) in enumerate(wanted, 1)
        ]

    def _columns_together(self) -> list[range]:
        """The columns after the first, in as few groups of about the same size as fit on a line."""
        last = len(self.columns)
        widths = [self._width(column) + BETWEEN for column in range(last)]
        for count in range(1, last):
            size = -(-(last - 1) // count)
            groups = [range(i, min(i + size, last)) for i in range(1, last, size)]
            if all(widths[0] + sum(widths[c] for c in group) <= LINE for group in groups):
                return groups
        return [range(i, i + 1) for i in range(1, last)]

    def _cut(self, rows: Sequence[int], columns: Sequence[int]) -> PaperTable:
        """Some rows and columns of it."""
        bold = {
            (row, column)
            for row, r in enumerate(rows)
            for column, c in enumerate(columns)
            if (r, c) in self.bold
        }
        cells = [[self.rows[row][column] for column in columns] for row in rows]
        head = [self.columns[column] for column in columns]
        return replace(self, columns=head, rows=cells, bold=frozenset(bold))

    def _lines(self, column: int) -> list[str]:
        """Its heading, broken where it is longer than what is below it."""
        width = max([NARROW, *(len(row[column]) for row in self.rows)])
        # An arrow stays with the word before it.
        whole = re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", self.columns[column])
        found = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
        return [line.replace("\N{NO-BREAK SPACE}", " ") for line in found] or [""]

    def _width(self, column: int) -> int:
        return max(map(len, [*self._lines(column), *(row[column] for row in self.rows)]))

    def _heading(self, column: int) -> str:
        lines = [tex(line) for line in self._lines(column)]
        if len(lines) == 1:
            return lines[0]
        side, whole = "r" if column else "l", r" \\ ".join(lines)
        return rf"\begin{{tabular}}[b]{{@{{}}{side}@{{}}}}{whole}\end{{tabular}}"

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


def tex(text: str) -> str:
    """Text that LaTeX sets as it is."""
    pattern = "|".join(map(re.escape, (*SPECIAL, *SIGNS)))
    return re.sub(pattern, lambda match: {**SPECIAL, **SIGNS}[match[0]], text)
