"""Chromium without a head, for the pages that this project makes.

Needs playwright and a Chromium: playwright's own, one on the path, or the one that REWARDFT_CHROMIUM names. The
accessibility checks need axe-core: the file that REWARDFT_AXE names (axe.min.js), or the package axe-core-python.
Screenshots are kept in the folder that REWARDFT_SCREENSHOTS names.
"""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need playwright: pip install playwright"
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# What is wider than a phone, but what may scroll by itself.
WIDE = (
    "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 391"
    " && !e.closest('.scroll, .chips, svg, .hidden')).map((e) => e.outerHTML.slice(0, 80))"
)


def chromium(browser_type):
    """The path of a Chromium, or a skip that says what would be needed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    for path in (
        os.environ.get("REWARDFT_CHROMIUM"),
        browser_type.executable_path,
        *map(shutil.which, names),
    ):
        if path and Path(path).exists():
            return path
    pytest.skip("no Chromium found: install one (Debian: chromium) or name it in REWARDFT_CHROMIUM")


def axe():
    if path := os.environ.get("REWARDFT_AXE"):
        return Path(path)
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip(
            "no axe-core found: pip install axe-core-python, or name axe.min.js in REWARDFT_AXE"
        )
    return Path(found.origin).parent / "axe.min.js"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=chromium(started.chromium), args=["--no-sandbox"]
        )
        yield launched
        launched.close()


def violations(page):
    """What axe-core finds on the page with everything unfolded."""
    unfold(page)
    page.evaluate(axe().read_text(encoding="utf-8") + "; 0")
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(v["id"], v["nodes"][0]["html"][:120], len(v["nodes"])) for v in found["violations"]]


def unfold(page, is_open="true"):
    page.evaluate(
        f"document.querySelectorAll('details').forEach((details) => (details.open = {is_open}))"
    )


def screenshot(page, name):
    if folder := os.environ.get("REWARDFT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
