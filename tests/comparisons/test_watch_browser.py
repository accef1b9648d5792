"""The page of `rewardft watch` in headless Chromium: it follows a run, comes back as it was left, and is accessible at every
point of a run's life. What it needs: see `tests/browser.py`."""

import contextlib
import json
import os
import shutil
import threading

import pytest

from rewardft.cli import main
from rewardft.comparisons.watching.server import Server
from rewardft.recipe.recipe import load_recipe
from rewardft.storage.folder import hold
from rewardft.testing import run_recipe
from tests.browser import (  # noqa: F401
    DESKTOP,
    PHONE,
    WIDE,
    browser,
    playwright,
    screenshot,
    unfold,
    violations,
)
from tests.comparisons.test_watching import MOODY, RECIPE

pytest.importorskip("plotly", reason="the page needs plotly: pip install 'rewardft[report]'")
pytestmark = pytest.mark.slow
# Until then the page is shorter.
LOADED = "((it) => it.complete && it.naturalWidth > 0)(document.getElementById('grid-picture'))"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of many steps, one that failed, one that has just started, and a comparison of which one run failed."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "moody.py").write_text(MOODY)
    (folder / "recipe.yaml").write_text(RECIPE)
    recipe = folder / "recipe.yaml"
    run_recipe(recipe, folder / "run", "train.steps=12")
    (folder / "started").mkdir()
    (folder / "started" / "recipe.yaml").write_text(load_recipe(recipe).to_yaml())
    failing = "rewards=[{use: moody, fails_at: 7}]"
    with pytest.raises(ValueError, match="no <judge> today"):
        run_recipe(recipe, folder / "failed", failing, "evaluate.every=0", "evaluate.kl=true")
    (folder / "study.yaml").write_text(
        "recipes: [recipe.yaml]\nvariants: {good: {}, bad: {rewards: [{use: moody, fails_at: 5}]}}\nseeds: 2\n"
    )
    words = ["compare", str(folder / "study.yaml"), "--pictures", "2"]
    assert main([*words, "--out", str(folder / "study")]) == 1
    return folder


def cut(run, step):
    """The run as it was at a step."""
    (run / "summary.json").unlink(missing_ok=True)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(x for x in lines if json.loads(x)["step"] <= step))
    for path in [*(run / "evaluations").iterdir(), *(run / "samples").glob("grid-*.png")]:
        if int(path.stem.split("-")[1]) > step:
            path.unlink()


@pytest.fixture
def opened(browser):
    """Serves a folder and opens it; nothing may be asked of anybody else, nor complained of."""
    ends, complaints, requests = [], [], []

    def open_page(folder, viewport=DESKTOP, scheme="light", **more):
        server = Server(folder, 0)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        context = browser.new_context(viewport=viewport, color_scheme=scheme, **more)

        def stop():
            if thread.is_alive():
                server.shutdown()
                server.server_close()
                thread.join()

        ends.extend([context.close, stop])
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.on(
            "console",
            lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((server.url, "data:")) else requests.append(r.url),
        )
        page.goto(server.url)
        page.wait_for_selector("html[data-ready]", state="attached")
        return page, stop

    open_page.complaints = complaints
    yield open_page
    for end in ends:
        end()
    assert complaints == [] and requests == []


def until(page, script):
    """Waits until a script says true; in steps, because the page's policy forbids the evaluation that Playwright waits by,
    and the page may be loading itself again."""
    for _ in range(600):
        with contextlib.suppress(playwright.Error):
            if page.evaluate(script):
                return
        page.wait_for_timeout(100)
    pytest.fail(f"in a minute it never came true: {script}")


def state_of(page):
    read = {
        "at": "Math.round(scrollY)",
        "value": "document.getElementById('curve-value').selectedOptions[0].textContent",
        "open": "[...document.querySelectorAll('details')].filter((d) => d.open).map((d) => d.id)",
        "theme": "document.documentElement.dataset.theme",
        "focus": "document.activeElement.id",
        "zoom": "document.getElementById('curve-plot').layout.xaxis.range.map((x) => +x.toFixed(6))",
        "step": "document.getElementById('grid-caption').textContent.split(' of ')[0]",
    }
    return {name: page.evaluate(script) for name, script in read.items()}


def test_the_page_follows_a_run_and_comes_back_as_it_was_left(opened, made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    cut(run, 6)
    handle = hold(run, make=False)
    try:
        # Low, so that the page is much longer than what is seen of it.
        page, _ = opened(run, {"width": 1280, "height": 400})
        assert page.locator("#live .lead").text_content() == "Running. Step 6, 50 %."
        page.get_by_role("button", name="Dark colours").click()
        page.select_option("#curve-value", label="loss")
        page.locator("#curve-table summary").click()
        page.get_by_role("group", name="Zoom the curves").get_by_role(
            "button", name="Zoom in"
        ).click()
        page.locator("#grid-step").focus()
        page.keyboard.press("Home")
        until(page, LOADED)
        page.evaluate("scrollTo({top: 300, behavior: 'instant'})")
        before, version = state_of(page), page.locator("#live").get_attribute("data-version")
        assert before["step"] == "Step 0" and before["focus"] == "grid-step"
        # Not to the pixel: the browser moves along where something above changes its height.
        assert abs(before["at"] - 300) < 60
        for name in ("metrics.jsonl", "summary.json"):
            shutil.copy(made / "run" / name, run / name)
        for name in ("evaluations", "samples"):
            shutil.copytree(made / "run" / name, run / name, dirs_exist_ok=True)
        until(
            page,
            f"document.getElementById('live')?.dataset.version !== {version!r} && document.documentElement.dataset.ready",
        )
        until(page, "!document.documentElement.classList.contains('restoring')")
    finally:
        os.close(handle)
    assert page.locator("#live .lead").text_content() == "Finished. Step 12, 100 %."
    # It may be loading itself a second time, as files came one by one.
    until(page, "document.getElementById('grid-step')?.max === '6' && scrollY > 0")
    after = state_of(page)
    assert abs(after.pop("at") - before.pop("at")) < 60
    assert after == before


def test_the_newest_grid_stays_the_newest_and_following_can_be_switched_off(opened, made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    cut(run, 6)
    page, stop = opened(run)
    assert page.locator("#grid-caption").text_content() == "Step 6 of run seed 3, picture 4 of 4."
    until(page, LOADED)
    page.get_by_label("Follow").uncheck()
    shutil.copytree(made / "run" / "samples", run / "samples", dirs_exist_ok=True)
    page.wait_for_timeout(6_000)
    assert page.locator("#grid-step").get_attribute("max") == "3"
    page.get_by_label("Follow").check()
    until(page, "document.getElementById('grid-step')?.max === '6'")
    assert page.locator("#grid-caption").text_content() == "Step 12 of run seed 3, picture 7 of 7."
    stop()
    until(
        page,
        "document.getElementById('follow-said').textContent.startsWith('Not up to date: the server has gone')",
    )
    assert all("ERR_CONNECTION_REFUSED" in text for text in opened.complaints)
    opened.complaints.clear()


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["started", "run", "failed", "study"])
def test_the_page_is_accessible_and_fits(opened, made, name, scheme, viewport):
    page, _ = opened(made / name, viewport, scheme)
    assert violations(page) == []
    if viewport is PHONE:
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate(WIDE) == []
    unfold(page, "false")
    screenshot(page, f"watch-{name}-{viewport['width']}-{scheme}")


def test_the_page_that_stands_alone(browser, made, tmp_path):
    run = shutil.copytree(made / "run", tmp_path / "run")
    assert main(["watch", str(run), "--once"]) == 0
    context = browser.new_context(viewport=DESKTOP, offline=True)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((run / "watch.html").as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    until(page, LOADED)
    assert page.get_by_label("Follow").count() == 0 and complaints == []
    context.close()
