"""Take the pictures of docs/gallery.md from what the commands of that page have made.

    python docs/draw_gallery.py runs/gallery

Needs Pillow, and playwright with a Chromium: its own, one on the path, or the one that
REWARDFT_CHROMIUM names.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

DOCS = Path(__file__).resolve().parent
COLOURS, WIDTH = 128, 1000  # of a picture; few colours are a quarter of the bytes
TALL = 16_000  # pixels: all of a page fits, so that nothing moves when its picture is taken
PATIENCE = 120_000  # milliseconds that a page of several megabytes may take


@dataclass(frozen=True)
class Shot:
    """A picture of a part of a page. page: in the folder; an image there is taken as it is. parts:
    CSS selectors of what is shown, from the first to the last."""

    name: str
    page: str
    parts: tuple[str, ...] = ()
    scheme: str = "light"
    width: int = WIDTH


SHOTS = (
    Shot("gallery_verdict.png", "algorithms/report.html", ("header", "section:has(#summary)")),
    Shot("gallery_curves.png", "algorithms/report.html", ("#curve-plot",)),
    Shot("gallery_front.png", "front/report.html", ("#trade-plot",), "dark"),
    Shot("gallery_alarms.png", "kl/report.html", ("section:has(#alarms)",)),
    Shot("gallery_samples.png", "kl/report.html", ("section:has(#samples)",)),
    Shot("gallery_watch.png", "digits/watch.html", ("#live",)),
    Shot("gallery_paper.png", "paper/change.png"),
)


def main(folder: Path, out: Path = DOCS) -> None:
    """Write every picture whose page is there, and say which are not."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        path = chromium(started.chromium.executable_path)
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for shot in SHOTS:
            if not (folder / shot.page).is_file():
                print(f"{shot.name}: {folder / shot.page} is not there")
            elif shot.parts:
                save(take(browser, folder, shot), out / shot.name)
            else:
                save(Image.open(folder / shot.page), out / shot.name)
        browser.close()


def chromium(own: str) -> str:
    """The path of a browser; its own where there is no other."""
    named = (os.environ.get("REWARDFT_CHROMIUM"), own, shutil.which("chromium"))
    return next((path for path in named if path and Path(path).exists()), own)


def take(browser: Any, folder: Path, shot: Shot) -> Image.Image:
    """What a reader sees of the page."""
    viewport = {"width": shot.width, "height": TALL}
    context = browser.new_context(viewport=viewport, color_scheme=shot.scheme)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto((folder / shot.page).resolve().as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    page.wait_for_timeout(500)  # the figures are laid out
    whole = Image.open(io.BytesIO(page.screenshot()))
    boxes = [page.locator(part).first.bounding_box() for part in shot.parts]
    context.close()
    edges = list(edges_of(boxes))
    return whole.crop(
        (min(e[0] for e in edges), edges[0][1], max(e[2] for e in edges), edges[-1][3])
    )


def edges_of(boxes: list[Any]) -> Iterator[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each in whole pixels."""
    for box in boxes:
        left, top = int(box["x"]), int(box["y"])
        yield left, top, int(left + box["width"] + 1), int(top + box["height"] + 1)


def save(image: Image.Image, path: Path) -> None:
    """A small PNG: few colours, and no wider than the page."""
    image = image.convert("RGB")
    if image.width > WIDTH:
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)))
    few = image.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.name}: {image.width} x {image.height}, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
