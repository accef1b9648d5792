"""A table of results: plain rows that a notebook shows as one."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ROWS = 20  # of a table in a terminal


@dataclass(frozen=True, repr=False)
class Table:
    """Rows with named columns; a row may lack some of them.

    `pandas.DataFrame(table)` takes it as it is.
    """

    rows: Sequence[Mapping[str, Any]]

    @property
    def columns(self) -> list[str]:
        """Every name, in the order of its first appearance."""
        # A set would lose the order.
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]

    def column(self, name: str) -> list[Any]:
        """One column, without the rows that lack it. Raises KeyError for a name that no row has."""
        if name not in self.columns:
            raise KeyError(f"there is no column {name!r}; the columns are {self.columns}")
        # Evaluations and steps have different columns; a missing one is not a NaN.
        return [row[name] for row in self.rows if name in row]

    def __repr__(self) -> str:
        """The first rows in aligned columns."""
        if not self.rows:
            return "Table([])"
        cells = [[shown(row.get(name)) for name in self.columns] for row in self.rows[:MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(self.columns, *cells)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in (self.columns, *cells)
        ]
        more = len(self.rows) - len(cells)
        return "\n".join([*lines, *([f"and {more:,} more rows"] if more else [])])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(shown(row.get(name)))}</td>" for name in self.columns)
            + "</tr>"
            for row in self.rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def shown(value: Any) -> str:
    """Four digits of a number; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def difference_of(row: Any) -> str:
    """With its interval, where there are samples enough for one; '' where there are none."""
    if row.count == 0:
        return ""
    # Infinite for fewer than two pairs.
    half = f" ± {row.half_width:.2g}" if math.isfinite(row.half_width) else ""
    return f"{row.difference:+.3g}{half}"


def paired_table(rows: Sequence[Any], start: str = "base") -> Table:
    """`rewardft.evaluation.evaluate.Paired` rows as a reader wants them.

    start: the name of what the tuned model is compared with. `separable`: whether the interval
    leaves 0 out; None of a value that applies to no sample.
    """
    return Table(
        [
            {
                "value": row.name,
                "samples": row.count,
                start: row.before,
                "tuned": row.after,
                "difference (95 %)": difference_of(row),
                "separable": row.separable if row.count else None,
            }
            for row in rows
        ]
    )
