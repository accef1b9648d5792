"""Plain tables on stdout: as wide as the terminal,
never cut when the output goes to a file or a pipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def console() -> Console:
    """Where results go. Without a terminal, lines are as long as they need be."""
    out = Console(highlight=False)
    # Wrapped lines could not be searched by `grep`.
    return out if out.is_terminal else Console(highlight=False, width=10_000)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A heading and its rows; nothing at all without rows."""
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    # As `Text`: brackets in a name would be read as markup.
    for column in columns:
        table.add_column(Text(column))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    # On a line of its own: as the table's title it would be broken at the table's width.
    console().print(Text(f"\n{title}", style="bold"))
    console().print(table)


MOST_ROWS = 12  # of the table after a run


def compared(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One line of the table: name, samples, base, tuned, difference, and what to make of it."""
    if row["count"] == 0:
        return row["name"], "0", "", "", "", "applies to no sample"
    # Infinite for a single sample, which says nothing of others.
    half = f" ± {row['half_width']:.2g}" if math.isfinite(row["half_width"]) else ""
    return (
        row["name"],
        str(row["count"]),
        f"{row['before']:.4g}",
        f"{row['after']:.4g}",
        f"{row['difference']:+.3g}{half}",
        "" if abs(row["difference"]) > row["half_width"] else "not separable",
    )


def print_comparison(
    rows: Sequence[Mapping[str, Any]],
    of_sets: Sequence[Mapping[str, Any]] = (),
    start: str = "base",
) -> None:
    """Before and after of each value, with the 95 % interval of the paired difference; those of
    groups of samples are left to `summary.json` where there are many. Then what is one number for
    all samples, such as a diversity.

    start: the name of what the tuned model is compared with.
    """
    names = {row["name"] for row in rows}
    overall = [row for row in rows if row["name"].partition("/")[2] not in names]
    # After a run one wants the result on one screen.
    kept = rows if len(rows) <= MOST_ROWS else overall
    shown = [compared(row) for row in kept]
    print_table(
        "held-out samples, same noise",
        ("value", "samples", start, "tuned", "difference (95 %)", ""),
        shown,
    )
    if len(kept) < len(rows):
        print(f"and {len(rows) - len(kept)} values of groups of samples, in summary.json")
    sets = [
        (row["name"], f"{row['before']:.4g}", f"{row['after']:.4g}", change_in_words(row))
        for row in of_sets
    ]
    print_table("all held-out samples as a set", ("value", start, "tuned", "change"), sets)


def change_in_words(row: Mapping[str, Any]) -> str:
    """'-25 %' of the base; the difference alone where the base is 0, nothing for no number."""
    difference, base = row["after"] - row["before"], row["before"]
    if math.isnan(difference):
        return ""
    return f"{difference / abs(base):+.0%}".replace("%", " %") if base else f"{difference:+.3g}"
