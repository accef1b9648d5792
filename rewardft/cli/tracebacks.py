"""What is printed when something raises that is no `RewardftError`: the code that raised,
without the way to it."""

from __future__ import annotations

import os
import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

# Libraries whose frames stand between the command and a plugin's code.
LIBRARIES = (
    "rewardft",
    "typer",
    "click",
    "pluggy",
    "torch",
    "accelerate",
)
WHOLE = "REWARDFT_TRACEBACK"


def format_unexpected(error: BaseException) -> str:
    """The traceback from the first frame of a plugin on; all of it where none is in it, or
    REWARDFT_TRACEBACK=full."""
    first = None if os.environ.get(WHOLE) == "full" else first_of_plugin(error.__traceback__)
    if first is None:
        return "".join(traceback.format_exception(error)).rstrip()
    # chain=False: causes would come with all their frames, of the core too.
    lines = traceback.format_exception(type(error), error, first, chain=False)
    lines[0] = (
        f"a plugin's code raised (most recent call last; {WHOLE}=full shows the way to it):\n"
    )
    return "".join(lines).rstrip()


def first_of_plugin(found: TracebackType | None) -> TracebackType | None:
    """Where the traceback enters code that is neither ours nor a library's on the way;
    None where it never does."""
    folders = on_the_way()
    while found is not None:
        file = Path(found.tb_frame.f_code.co_filename)
        if (
            not any(file.is_relative_to(folder) for folder in folders)
            and file.is_file()
            and not is_script(file)
        ):
            return found
        found = found.tb_next
    return None


def on_the_way() -> list[Path]:
    """Folders of the core, of the libraries between it and plugins, and of Python's own modules."""
    core = Path(__file__).resolve().parents[1]
    libraries = [
        Path(sysconfig.get_path(kind)) / name
        for kind in ("purelib", "platlib")
        for name in LIBRARIES
    ]
    standard = Path(sysconfig.get_path("stdlib"))
    modules = [
        # Installed packages lie inside the standard library's folder, and plugins among them.
        path
        for path in standard.iterdir()
        if path.name not in ("site-packages", "dist-packages")
    ]
    return [core, *libraries, *modules]


def is_script(file: Path) -> bool:
    """The console script that pip writes."""
    return file.parent == Path(sysconfig.get_path("scripts"))
