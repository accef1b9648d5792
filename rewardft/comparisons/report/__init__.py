"""The report of a comparison: report.html, report.md and report.csv, from its record and the
pictures beside it."""

from __future__ import annotations

from pathlib import Path

from rewardft.comparisons.report.csv_table import csv_text
from rewardft.comparisons.report.html_page import html_page
from rewardft.comparisons.report.markdown import markdown
from rewardft.contracts.records import ComparisonRecord
from rewardft.files.atomic import make_folder, write_text

__all__ = ["write_report"]


def write_report(record: ComparisonRecord, folder: Path) -> list[Path]:
    """Write `report.md`, `report.csv` and `report.html` into `folder`, which holds the record's
    pictures.

    Returns the three paths. Raises RewardftError where the packages for the HTML are not installed;
    the other two files are written all the same.
    """
    make_folder(folder)
    texts = {
        "report.md": markdown,
        "report.csv": csv_text,
        # Last, because it alone needs packages that may be missing.
        "report.html": lambda record: html_page(record, folder),
    }
    paths = []
    for name, make in texts.items():
        path = folder / name
        # The same bytes on every system.
        write_text(path, make(record))
        paths.append(path)
    return paths
