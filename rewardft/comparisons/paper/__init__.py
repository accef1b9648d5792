"""A comparison as a paper needs it: figures at the width of a column, tables for LaTeX and
Markdown, and a document that holds them all. Everything is made from the comparison's record."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from rewardft.comparisons.paper.document import captions, document
from rewardft.comparisons.paper.figures import STYLE, figures
from rewardft.comparisons.paper.tables import tables
from rewardft.contracts.records import ComparisonRecord
from rewardft.errors import ComponentError
from rewardft.files.atomic import write_folder

__all__ = ["write_paper"]

FORMATS = ("pdf", "svg", "png")
COLUMN = 3.35  # inches, of a paper with two columns
DOTS = 300  # per inch, of PNG


def write_paper(record: ComparisonRecord, folder: Path, width: float = COLUMN) -> list[Path]:
    """Write the figures, the tables and `paper.tex` into `folder`, which is replaced as a whole.

    width: of the figures, in inches. Returns the files. Raises ComponentError where matplotlib is
    missing or the width is none, CheckpointError for a folder that this has not made.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ComponentError("figures for a paper need matplotlib: pip install 'rewardft[paper]'")
    if not 1 <= width <= 20:
        raise ComponentError(f"--width: expected 1 to 20 inches, got {width:g}.")
    write_folder(folder, lambda place: fill(record, place, width))
    return sorted(path for path in folder.rglob("*") if path.suffix)


def fill(record: ComparisonRecord, folder: Path, width: float) -> None:
    """Write all files into an empty folder."""
    drawn = list(draw(record, folder, width))
    found = tables(record)
    for table in found:
        for part in table.parts():
            (folder / f"{part.name}.tex").write_text(part.latex(), encoding="utf-8")
        (folder / f"{table.name}.md").write_text(table.markdown(), encoding="utf-8")
    (folder / "paper.tex").write_text(document(record, drawn, found), encoding="utf-8")
    (folder / "README.md").write_text(captions(record, drawn, found), encoding="utf-8")


def draw(record: ComparisonRecord, folder: Path, width: float) -> Iterator[tuple[str, str]]:
    """(name, caption) of each figure, which is written in all formats."""
    import matplotlib

    for name, caption, figure in figures(record, width):
        for ending in FORMATS:
            # Without dates, so that equal records give equal files.
            none = {"pdf": "CreationDate", "svg": "Date", "png": "Software"}[ending]
            path = folder / f"{name}.{ending}"
            # The style again: how letters are embedded is decided here.
            with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
                figure.savefig(path, dpi=DOTS, metadata={none: None})
        yield name, caption
