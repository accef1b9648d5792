"""`watch`: the report of a run or a comparison, served to this machine while it goes on."""

from __future__ import annotations

from pathlib import Path

from rewardft.comparisons.api import require_report
from rewardft.comparisons.watching.page import write_once
from rewardft.comparisons.watching.server import Server
from rewardft.comparisons.watching.watched import look
from rewardft.files.paths import given_folder


def watch_folder(folder: Path, port: int, once: bool) -> None:
    """Serve until Ctrl-C, or write the page once and say where it is."""
    require_report("watch")
    folder = given_folder(folder).absolute()
    look(folder)  # what is wrong with the folder is an error here, and not a page
    if once:
        print(write_once(folder))
        return
    with Server(folder, port) as server:
        print(f"{folder}: {server.url} (Ctrl-C ends it, not the training)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("no longer watching")
