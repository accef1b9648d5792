"""The page of a folder that is watched: its report, and above it how far the runs are."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path

from rewardft.comparisons.read_runs import RunResults
from rewardft.comparisons.report.curves import thin
from rewardft.comparisons.report.html_page import Live, html_page
from rewardft.comparisons.report.pictures import embed
from rewardft.comparisons.watching.status import in_words, status_of, status_table
from rewardft.comparisons.watching.watched import Watched, look
from rewardft.files.atomic import write_text
from rewardft.storage.folder import grids_in

SERVED = 200  # pictures of a run that the page offers; all are in the folder
EMBEDDED, EDGE = 24, 1200  # pictures in a file that stands alone, and their pixels

# The address of a picture: of which run, at which step.
Address = Callable[[int, int, Path], str]


def served_page(folder: Path, version: str) -> str:
    """The page for the server: pictures are asked for when they are looked at."""
    watched = look(folder)
    return page(watched, live_of(watched, SERVED, address, version))


def address(run: int, step: int, path: Path) -> str:
    """By numbers alone: no part of a path comes from the browser. With the time of the file, so
    that a picture that was drawn again is fetched again."""
    return f"samples/{run}/{step}.png?{path.stat().st_mtime_ns}"


def write_once(folder: Path) -> Path:
    """`watch.html` in the folder: the page as it is now, which needs no network and no server."""
    watched = look(folder)
    runs = max(sum(bool(pictures_of(seen.member.folder)) for seen in watched.runs), 1)
    most = max(EMBEDDED // runs, 2)

    def embedded(run: int, step: int, path: Path) -> str:
        return embed(path, EDGE)

    path = folder / "watch.html"
    write_text(path, page(watched, live_of(watched, most, embedded, "")))
    return path


def page(watched: Watched, live: Live) -> str:
    """The report with its live part."""
    return html_page(watched.record, watched.folder, live)


def live_of(watched: Watched, most: int, address: Address, version: str) -> Live:
    """How far the runs are, and their pictures."""
    found = [status_of(seen) for seen in watched.runs]
    grids = [
        {"run": seen.member.label, "pictures": addressed(index, seen, most, address)}
        for index, seen in enumerate(watched.runs)
    ]
    return Live(
        summary=in_words(found) if found else "The comparison is over.",
        table=status_table(found),
        grids=[grid for grid in grids if grid["pictures"]],
        version=version,
    )


def addressed(
    index: int, seen: RunResults, most: int, address: Address
) -> list[dict[str, int | str]]:
    """The pictures of a run with their addresses, `most` of them at equal distances."""
    found = thin(list(pictures_of(seen.member.folder).items()), most)
    return [{"step": step, "source": address(index, step, path)} for step, path in found]


def pictures_of(folder: Path) -> dict[int, Path]:
    """The grids of a run by their steps; without any, what plugins have painted."""
    found = grids_in(folder) or grids_in(folder, "step")
    # A link could lead anywhere on this machine, also from a page that is sent to somebody.
    return {step: path for step, path in found.items() if not path.is_symlink()}


def problem_page(text: str) -> str:
    """What is said while the folder cannot be read."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>rewardft watch</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # It may be a moment between two writes: whoever follows a run goes on following it.
        '<meta http-equiv="refresh" content="5">'
        "</head><body><main><h1>The folder cannot be read now</h1>"
        f'<p>{html.escape(text)}</p><p><a href="/">Try again</a></p></main></body></html>'
    )
