"""What a table is made of: cells of plain text, their order, their marks and their bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rewardft.comparisons.report.verdicts import MARKS, Verdict


@dataclass(frozen=True)
class Bar:
    """An interval on a scale that its column shares: percentages of the width. zero: where
    nothing changes."""

    low: float
    middle: float
    high: float
    zero: float


@dataclass(frozen=True)
class Cell:
    """text: what is read.
    sort: what a column is ordered by.
    block: text of several lines, kept as it is."""

    text: str
    # None sorts last, in either direction.
    sort: float | str | None = None
    verdict: Verdict | None = None
    bar: Bar | None = None
    block: bool = False

    @property
    def mark(self) -> str:
        return MARKS[self.verdict] if self.verdict else ""


@dataclass(frozen=True)
class Table:
    """The first cell of a row names it. kind: what the other cells are,
    which says how they are set."""

    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    kind: Literal["intervals", "counts", "text"] = "intervals"
