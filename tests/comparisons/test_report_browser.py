"""The report in headless Chromium without a network: drawn, usable with a keyboard, readable on a phone, accessible.
What it needs: see `tests/browser.py`."""

import json
import time

import pytest
from PIL import Image

from rewardft.comparisons.report import write_report
from tests.browser import DESKTOP, PHONE, WIDE, browser, screenshot, unfold, violations  # noqa: F401
from tests.comparisons.fake import TARGET, fake_comparison

pytest.importorskip("plotly", reason="report.html needs plotly: pip install 'rewardft[report]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    return write_report(fake_comparison(folder), folder)[2]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    return write_report(fake_comparison(folder, variants=67, pictures=2), folder)[2]


@pytest.fixture
def opened(browser):
    """Opens a report with the network off; at the end nothing may have been requested or complained of."""
    contexts, complaints, requests = [], [], []

    def open_page(path, viewport=DESKTOP, scheme="light", **more):
        context = browser.new_context(viewport=viewport, color_scheme=scheme, offline=True, **more)
        contexts.append(context)
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on(
            "console",
            lambda message: (
                complaints.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                requests.append(request.url) if request.url.startswith(("http", "ws")) else None
            ),
        )
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == [] and requests == []


def drawn(page, plot):
    """How many lines and marked points the figure shows."""
    lines = page.locator(f"#{plot} .scatterlayer path.js-line").count()
    return lines, page.locator(f"#{plot} .scatterlayer .points path").count()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_figure_draws(opened, report, scheme):
    page = opened(report, scheme=scheme)
    lines, points = drawn(page, "curve-plot")
    assert lines >= 16 and points >= 8 * 5
    lines, points = drawn(page, "trade-plot")
    assert lines == 1 and points == 9  # the front; eight variants and the base
    assert page.evaluate(
        "[...document.images].every((image) => image.complete && image.naturalWidth > 0)"
    )
    assert page.locator("#grid li").count() == 8
    labels = page.locator("#curve-plot .annotation").all_text_contents()
    assert sorted(label.split()[-1] for label in labels) == sorted(
        ["alignprop", "drtune", "draft_lv", "draft_1", "refl", "ddpo", "grpo", "online_dpo"]
    )
    screenshot(page, f"desktop-{scheme}")


def test_an_axis_switch_changes_the_curves_their_caption_and_their_table(opened, report):
    page = opened(report)
    before = page.evaluate("document.getElementById('curve-plot').data[1].x.at(-1)")
    page.select_option("#curve-axis", "seconds")
    assert before == 20_000
    assert page.evaluate("document.getElementById('curve-plot').data.at(-1).x.at(-1)") == 640
    assert page.locator("#curve-plot .xtitle").text_content() == "training time (s)"
    assert (
        page.locator("#curve-caption")
        .text_content()
        .startswith(f"Held-out evaluations of {TARGET} against training time (s).")
    )
    page.select_option("#curve-value", label="loss")
    assert page.locator("#curve-plot .ytitle").text_content() == "loss"
    page.locator("#curve-table summary").click()
    assert page.locator("#curve-table tbody tr").count() == 8


def test_variants_can_be_taken_out_and_points_read_as_a_table(opened, report):
    page = opened(report)
    page.get_by_label("alignprop", exact=True).uncheck()
    assert page.locator("#curve-plot .annotation").count() == 7
    assert drawn(page, "trade-plot")[1] == 8
    page.select_option("#trade-x", label="training time (s)")
    page.locator("#trade-table summary").click()
    first = page.locator("#trade-table tbody tr").first.locator("th, td").all_text_contents()
    assert first == ["alignprop", "0.682 [0.661, 0.7051]", "652.8 [652.8, 652.8]", "yes"]
    page.get_by_role("button", name="None", exact=True).click()
    assert page.locator("#curve-plot .annotation").count() == 0


@pytest.mark.parametrize(
    ("budget", "axis"),
    [("2000-rewards", "rewards"), ("10m", "seconds"), ("300-steps", "steps"), (None, "calls")],
)
def test_curves_begin_on_the_axis_of_the_budget(opened, tmp_path, budget, axis):
    record = fake_comparison(tmp_path, variants=2, points=10).model_copy(update={"budget": budget})
    page = opened(write_report(record, tmp_path)[2])
    assert page.locator("#curve-axis").input_value() == axis


def test_two_trained_rewards_are_traded_against_each_other(opened, tmp_path):
    """The front is theirs, not once more of each group of samples, and by the table's own words."""
    record = fake_comparison(tmp_path, pictures=1)
    variants = [
        variant.model_copy(
            update={
                "values": [
                    value.model_copy(update={"role": "reward"})
                    if value.name == "metric/joint_error"
                    else value
                    for value in variant.values
                ]
            }
        )
        for variant in record.variants
    ]
    page = opened(write_report(record.model_copy(update={"variants": variants}), tmp_path)[2])
    assert page.locator("#trade-y").input_value() == json.dumps(
        ["value", TARGET], separators=(",", ":")
    )
    assert page.locator("#trade-x").input_value() == '["value","metric/joint_error"]'
    page.locator("#trade-table summary").click()
    rows = page.locator("#trade-table tbody tr").all()
    drawn = {
        row.locator("th").text_content(): row.locator("td").last.text_content() for row in rows
    }
    # More of the target is better, less of the error.
    after = {
        v.name: {value.name: value.after.value for value in v.values if value.after}
        for v in variants
    }
    best = {
        name
        for name, mine in after.items()
        if not any(
            other[TARGET] > mine[TARGET]
            and other["metric/joint_error"] < mine["metric/joint_error"]
            for other in after.values()
        )
    }
    assert {name for name, on in drawn.items() if on == "yes"} == best
    front = page.get_by_role("region", name="Pareto front of the trained rewards")
    told = {
        row.locator("th").text_content()
        for row in front.locator("tbody tr").all()
        if row.locator("td").last.text_content().strip() == "yes"
    }
    assert told == best and len(best) < len(after)


def test_zooming_by_buttons_and_back(opened, report):
    page = opened(report)
    read = "document.getElementById('curve-plot').layout.xaxis.range.slice()"
    whole = page.evaluate(read)
    zoom = page.get_by_role("group", name="Zoom the curves")
    zoom.get_by_role("button", name="Zoom in").press("Enter")
    low, high = page.evaluate(read)
    assert high - low == pytest.approx(0.6 * (whole[1] - whole[0]))
    zoom.get_by_role("button", name="Reset").press("Enter")
    assert page.evaluate(read) == whole


def test_the_slider_wipes_from_base_to_tuned_by_keyboard(opened, report):
    page = opened(report)
    slider, pair = page.locator("#wipe"), page.locator("#grid .pair").first
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "base"
    base = pair.screenshot()
    page.keyboard.press("End")
    assert slider.get_attribute("aria-valuetext") == "tuned"
    tuned = pair.screenshot()
    page.keyboard.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") == "95 % tuned"
    assert base != tuned
    page.select_option("#sample-view", label="grpo")
    assert page.locator("#grid p").all_text_contents() == [
        f"Sample pose-{i}, {'standing' if i % 2 else 'acrobatic'}" for i in range(4)
    ]
    assert (
        page.locator("#grid img").first.get_attribute("alt")
        == "sample pose-0, acrobatic, from the base model"
    )


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_strip_of_views_has_a_row_of_its_own(opened, tmp_path, viewport):
    """In a cell of the grid twelve views would be 13 pixels high."""
    record = fake_comparison(tmp_path, variants=3, pictures=2)
    for picture in (one for variant in record.variants for one in variant.pictures):
        for name in (picture.base, picture.tuned):
            Image.new("RGB", (768, 64), (90, 120, 200)).save(tmp_path / name)
    page = opened(write_report(record, tmp_path)[2], viewport)
    page.wait_for_selector("#grid li.wide:last-child")
    frames = page.locator("#grid .frame")
    assert frames.count() == 3
    for index in range(3):
        assert frames.nth(index).locator("img").first.bounding_box()["height"] >= 64
    tops = [frames.nth(index).bounding_box()["y"] for index in range(3)]
    assert tops == sorted(set(tops))
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"]
    fits = page.evaluate("document.querySelector('.frame').scrollWidth <= window.innerWidth")
    assert fits == (viewport == DESKTOP)
    assert violations(page) == []


def test_tables_of_values_fit_a_desktop(opened, report):
    """All but the one of groups, which has a column for each of them."""
    page = opened(report)
    unfold(page)
    wide = page.evaluate(
        "[...document.querySelectorAll('.scroll > table.intervals')]"
        ".filter((t) => t.scrollWidth > t.parentElement.clientWidth + 1).map((t) => t.caption.textContent)"
    )
    assert [name for name in wide if "groups of samples" not in name] == []


def test_tables_are_ordered_by_a_press_on_a_heading(opened, report):
    page = opened(report)
    table = page.get_by_role("region", name="Cost of one run: means over the runs that ended")
    table.get_by_role("button", name="Training time").press("Enter")
    assert table.locator("tbody th").first.text_content() == "alignprop"
    table.get_by_role("button", name="Training time").press("Enter")
    assert table.locator("tbody th").first.text_content() == "refl"
    assert table.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"


def test_colours_follow_the_toggle(opened, report):
    page = opened(report)
    read = "getComputedStyle(document.body).backgroundColor + document.getElementById('curve-plot').layout.font.color"
    light = page.evaluate(read)
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(read) != light
    page.get_by_role("button", name="Light colours").click()
    assert page.evaluate(read) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_page_without_scrolling_sideways(opened, report, scheme):
    page = opened(report, PHONE, scheme, has_touch=True, is_mobile=True, device_scale_factor=2)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate(WIDE) == []
    unfold(page, "false")
    screenshot(page, f"phone-{scheme}")


@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(opened, report, scheme, viewport):
    assert violations(opened(report, viewport, scheme)) == []


def test_two_hundred_runs_stay_usable(opened, large):
    page = opened(large)
    ready = int(page.locator("html").get_attribute("data-ready"))
    times = {"ready": ready / 1000}
    for name, act in {
        "all": lambda: page.get_by_role("button", name="All", exact=True).click(),
        "axis": lambda: page.select_option("#curve-axis", "seconds"),
        "value": lambda: page.select_option("#curve-value", label="loss"),
    }.items():
        start = time.monotonic()
        act()
        page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        times[name] = time.monotonic() - start
    print({name: round(seconds, 2) for name, seconds in times.items()})
    assert drawn(page, "curve-plot")[0] >= 2 * 67
    screenshot(page, "large-all")


def test_hostile_names_stay_text_in_the_browser(opened, tmp_path):
    evil = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>"
    record = fake_comparison(tmp_path, variants=2)
    variants = [record.variants[0].model_copy(update={"name": evil}), record.variants[1]]
    page = opened(write_report(record.model_copy(update={"variants": variants}), tmp_path)[2])
    page.select_option("#sample-view", index=1)
    assert page.title() == record.title
    assert page.locator(".chips span").all_text_contents().count(evil) == 1
    assert (
        page.locator("#trade-plot .annotation")
        .first.text_content()
        .startswith(("<img", "draft", "base"))
    )
    assert page.locator("img[src=x]").count() == 0
