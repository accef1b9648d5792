"""The report's texts, tables and files; what a browser makes of it is in test_report_browser.py."""

import builtins
import csv
import json
import math
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import pytest
from PIL import Image

from rewardft.comparisons.report import write_report
from rewardft.comparisons.report.columns import COSTS, ESTIMATES
from rewardft.comparisons.report.curves import columns, figure_data, points_per_curve, thin
from rewardft.comparisons.report.front import front_table, trained_rewards
from rewardft.comparisons.report.markdown import escape
from rewardft.comparisons.report.numbers import count, duration, interval, number, size
from rewardft.comparisons.report.pictures import EDGE, MOST_BYTES, Gallery
from rewardft.comparisons.report.sentences import lead, sentences
from rewardft.comparisons.report.tables import alarm_table, cost_table, value_table
from rewardft.comparisons.report.verdicts import (
    focus,
    followed,
    group_of,
    value_names,
    value_of,
    verdict,
)
from rewardft.contracts.records import (
    AXES,
    Interval,
    Picture,
    Section,
    Value,
    load_comparison,
)
from rewardft.errors import RewardftError
from tests.comparisons.fake import TARGET, fake_comparison

plotly = pytest.importorskip(
    "plotly", reason="report.html needs plotly: pip install 'rewardft[report]'"
)


class Page(HTMLParser):
    """The text outside scripts and styles, every attribute, the levels of headings."""

    def __init__(self, text):
        super().__init__()
        self.words, self.attributes, self.levels, self.tags, self._quiet = [], [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self._quiet = tag if tag in ("script", "style") else None
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))

    def handle_endtag(self, tag):
        self._quiet = None if tag == self._quiet else self._quiet

    def handle_data(self, data):
        if self._quiet is None:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    record = fake_comparison(folder)
    return record, folder, write_report(record, folder)


@pytest.fixture(scope="module")
def page(written):
    return Page((written[1] / "report.html").read_text(encoding="utf-8"))


def edited(record, index, **changes):
    variants = list(record.variants)
    variants[index] = variants[index].model_copy(update=changes)
    return record.model_copy(update={"variants": variants})


def test_three_files_are_written_and_named(written):
    _, folder, paths = written
    assert paths == [folder / "report.md", folder / "report.csv", folder / "report.html"]


def test_a_record_read_back_gives_the_same_report(written, tmp_path):
    record, folder, _ = written
    record.save(tmp_path / "comparison.json")
    shutil.copytree(folder / "pictures", tmp_path / "pictures")
    write_report(load_comparison(tmp_path / "comparison.json"), tmp_path)
    for name in ("report.md", "report.csv", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("value", "width", "expected"),
    [
        (0.41234, 0.014, "0.412"),
        (0.41234, 0.14, "0.41"),
        (12.3456, 2.0, "12.3"),
        (1234.5, 300.0, "1,234"),
        (-0.5, 0.1, "−0.50"),
        (-0.0001, 0.1, "0.00"),
        (0.0, 0.0, "0.00"),
        (math.nan, 0.1, "unknown"),
        (math.inf, 0.1, "unknown"),
        (None, 0.1, "unknown"),
        (0.123456, math.nan, "0.123"),
        (1.5e-12, math.nan, "1.50e−12"),
    ],
)
def test_a_number_has_the_digits_that_its_interval_earns(value, width, expected):
    assert number(value, width) == expected


def test_intervals_durations_sizes_and_counts():
    assert interval(Interval(value=0.4123, low=0.3981, high=0.4262)) == "0.412 [0.398, 0.426]"
    assert (
        interval(Interval(value=0.02, low=-0.01, high=0.05), sign=True) == "+0.020 [−0.010, +0.050]"
    )
    assert (
        interval(Interval(value=0.4123, low=math.nan, high=math.nan)) == "0.412 [interval unknown]"
    )
    assert interval(Interval(value=math.nan, low=0, high=1)) == interval(None) == "unknown"
    assert [duration(x) for x in (45.21, 723.0, 3840.0, math.nan)] == [
        "45.2 s",
        "12 min 3 s",
        "1 h 4 min",
        "unknown",
    ]
    assert [size(x) for x in (612 * 2**20, 1.4 * 2**30, None)] == ["612 MiB", "1.4 GiB", "unknown"]
    assert [count(x) for x in (12800, 2.5, 18181.8, math.nan)] == [
        "12,800",
        "2.5",
        "18,182",
        "unknown",
    ]


@pytest.mark.parametrize(
    ("low", "high", "better", "expected"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (0.1, 0.2, None, "higher"),
        (-0.2, -0.1, None, "lower"),
        (-0.1, 0.2, True, "not separable"),
        (0.0, 0.2, True, "not separable"),
        (math.nan, 0.2, True, "unknown"),
    ],
)
def test_a_verdict_needs_an_interval_that_leaves_out_zero(low, high, better, expected):
    assert verdict(Interval(value=0.0, low=low, high=high), better) == expected


def test_groups_are_told_from_names_with_slashes():
    names = {"reward/a", "standing/reward/a", "diversity/latents"}
    assert [group_of(name, names) for name in sorted(names)] == [None, None, "standing"]


def test_the_target_comes_first_then_held_out_then_sets_then_groups(written):
    assert value_names(written[0]) == [
        TARGET,
        "metric/aesthetic",
        "metric/joint_error",
        "diversity/latents",
        "kl/trajectory",
        "image/saturation",
        f"acrobatic/{TARGET}",
        f"standing/{TARGET}",
    ]


def test_summary_says_direction_interval_and_what_is_not_separable(written):
    said = {one.variant: one.text for one in sentences(written[0])}
    rest = {one.variant: one.detail for one in sentences(written[0])}
    assert list(said) == [
        "alignprop",
        "drtune",
        "draft_lv",
        "draft_1",
        "refl",
        "ddpo",
        "grpo",
        "online_dpo",
    ]
    assert said["alignprop"] == (
        "raises reward/pose_score by 0.262 [0.241, 0.285], from 0.420 to 0.682. "
        "Not separable from drtune, the best other variant (+0.012 [−0.009, +0.035]). 2 alarms; see Alarms."
    )
    assert said["grpo"].startswith(
        "is not separable from the base on reward/pose_score (change +0.004 [−0.017, +0.027]). Behind alignprop,"
    )
    assert said["online_dpo"].startswith(
        "lowers reward/pose_score by 0.060 [0.037, 0.081], from 0.420 to 0.360, which is worse."
    )
    assert (
        rest["alignprop"]
        == "Values not trained: better metric/joint_error; worse metric/aesthetic; higher kl/trajectory, image/saturation; lower diversity/latents."
    )
    assert said["ddpo"].endswith("1 of 3 seeds failed.") and rest["ddpo"].startswith(
        "Values not trained: higher kl/trajectory; lower diversity/latents; no separable change metric/aesthetic,"
    )
    assert lead(written[0]) == [
        "alignprop has the best estimate of reward/pose_score: 0.682 [0.661, 0.705] (+0.262 [+0.241, +0.285] from the base). It raised 2 alarms.",
        "Not separable from it within the 95 % intervals: drtune, draft_lv.",
        "2 runs failed; see Failures.",
    ]


def test_a_lower_value_can_be_better():
    value = Value(
        name="error",
        role="reward",
        higher_is_better=False,
        samples=4,
        after=Interval(value=1, low=0.9, high=1.1),
        versus_base=Interval(value=-2, low=-3, high=-1),
        seeds=[-2.1, -1.9],
    )
    record = fake_comparison(variants=1).model_copy(update={"target": "error"})
    (said,) = sentences(edited(record, 0, values=[value], runs=record.variants[0].runs, alarms=[]))
    assert said.text == "lowers error by 2.0 [1.0, 3.0], which is better."
    assert said.verdict == "better"


def test_a_run_alone_is_compared_with_no_other():
    """As `rewardft watch` shows it."""
    record = fake_comparison(variants=1, seeds=1)
    (said,) = sentences(record)
    assert "other" not in said.text and said.text.startswith("raises reward/pose_score by")
    first, second = lead(record)
    assert first.startswith("draft_1: reward/pose_score: ") and first.endswith(" from the base).")
    assert second == "One seed: the intervals cover the samples, not the seeds."
    two = fake_comparison(variants=2)
    values = [value.model_copy(update={"versus_best": None}) for value in two.variants[0].values]
    said = {one.variant: one.text for one in sentences(edited(two, 0, values=values))}
    assert said["draft_1"].endswith(
        "It cannot be compared with the others sample by sample (no rival, or other samples or "
        "noise)."
    )


def test_one_seed_is_said_plainly():
    record = fake_comparison(seeds=1)
    assert (
        "One seed each: the intervals cover the samples, not the seeds, so this is no ranking of methods."
        in lead(record)
    )
    assert all("From one seed." in one.text for one in sentences(record))


def test_one_seed_among_several_is_said_too_whatever_seeds_the_runs_have():
    record = fake_comparison(variants=2, seeds=1)
    other = record.variants[1]
    runs = [run.model_copy(update={"seed": 7}) for run in other.runs]
    record = edited(record.model_copy(update={"seeds": [0, 7]}), 1, runs=runs)
    assert lead(record)[-1].startswith("One seed each:")
    values = [value.model_copy(update={"seeds": [0.1, 0.2]}) for value in other.values]
    assert (
        lead(edited(record, 1, values=values))[-1]
        == "Some variants have one seed: their intervals cover the samples alone."
    )


def test_a_variant_without_a_result_is_not_said_to_be_behind():
    def said(record):
        return next(line for line in lead(record) if "separably behind" in line)

    record = fake_comparison(variants=3)
    far = Interval(value=-1.0, low=-1.1, high=-0.9)
    for i in (1, 2):
        values = [
            value.model_copy(
                update={"versus_best": far, "after": far, "best": record.variants[0].name}
            )
            for value in record.variants[i].values
        ]
        record = edited(record, i, values=values)
    assert said(record) == "Every other variant is separably behind it."
    assert (
        said(edited(record, 2, values=[])) == "Every other measured variant is separably behind it."
    )


def test_a_comparison_without_a_target_is_about_a_value_with_a_better_direction():
    record = fake_comparison(variants=2).model_copy(update={"target": None})
    for i in (0, 1):
        values = record.variants[i].values
        first = values[1].model_copy(update={"name": "kl/gaussian", "higher_is_better": None})
        record = edited(record, i, values=[first, *values])
    assert focus(record) == "metric/aesthetic"
    values = [
        v.model_copy(update={"role": "reward"}) if v.name == "metric/aesthetic" else v
        for v in record.variants[1].values
    ]
    assert focus(edited(record, 1, values=values)) == "metric/joint_error", (
        "nobody was trained for it"
    )


def test_an_alarm_of_several_seeds_is_one_row():
    record = fake_comparison(variants=1, seeds=2)
    runs = [
        run.model_copy(update={"alarms": ["a/b fell to 3%", "c rose"][: 2 - i]})
        for i, run in enumerate(record.variants[0].runs)
    ]
    record = edited(record, 0, runs=runs, alarms=["a/b fell to 3% (seed 0, and in seed 1 too)"])
    cells = [[cell.text for cell in row[1:]] for row in alarm_table(record).rows]
    assert cells == [["all", "a/b fell to 3% (seed 0, and in seed 1 too)"], ["0", "c rose"]]


def test_a_variant_without_values_and_a_comparison_without_a_target():
    record = fake_comparison()
    broken = [
        run.model_copy(update={"status": "failed", "reason": "out of memory"})
        for run in record.variants[0].runs
    ]
    record = edited(record, 0, values=[], runs=broken).model_copy(update={"target": None})
    last = sentences(record)[-1]
    assert (last.variant, last.text) == ("draft_1", "failed on 3 seeds: out of memory.")
    assert (
        "The variants do not all train the same reward; they are compared on metric/aesthetic, which all share."
        in lead(record)
    )


def test_the_page_shows_the_records_numbers(written, page):
    for words in (
        "Which algorithm for PoseScore, at equal denoiser calls?",
        "+0.262 [+0.241, +0.285]",
        "+0.012 [−0.009, +0.035] against drtune",
        "RewardError: pose_score returned NaN for 2 of 8 samples",
        "diversity/latents is at 46 % of the base's",
        "5 min 16 s",
        "18,182",
        "algorithm.clip",
        "sampler.steps",
        "rewardft compare drpose_mini.yaml",
        "elbow 3.1",
        "From the plugin drpose.",
        "0.33.1",
        "unknown",
        "Rewards are in [0, 1]; the held-out samples are 64 poses that no variant was trained on.",
    ):
        assert words in page.text
    assert ("b", "id", "joints") in page.attributes  # a plugin's section stands as it was given


def test_headings_descend_one_level_at_a_time(page):
    assert page.levels[0] == 1 and page.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(page.levels, page.levels[1:]))


def test_nothing_is_loaded_from_anywhere(page):
    loaded = [
        value
        for _, name, value in page.attributes
        if name in ("src", "href", "srcset", "data", "action", "poster")
    ]
    assert loaded and all(re.match(r"#|data:", value) for value in loaded), loaded
    assert "iframe" not in page.tags and "object" not in page.tags
    (policy,) = [
        v
        for tag, name, v in page.attributes
        if tag == "meta" and name == "content" and "default-src" in v
    ]
    assert policy.startswith("default-src 'none'") and "http" not in policy


def test_text_of_the_record_is_never_markup(tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    record = fake_comparison(variants=2)
    record = edited(
        record,
        0,
        name=evil,
        recipe=evil,
        algorithm=evil,
        differences={evil: evil},
        alarms=[evil],
        runs=[
            run.model_copy(
                update={"reason": evil, "error": evil, "status": "failed", "command": evil}
            )
            for run in record.variants[0].runs
        ],
    )
    record = record.model_copy(
        update={
            "title": evil,
            "command": evil,
            "notes": [evil],
            "common": {evil: evil},
            "versions": {evil: evil},
            "date": evil,
            "budget": evil,
        }
    )
    clean = fake_comparison(variants=2)
    write_report(clean, tmp_path)
    expected = Page((tmp_path / "report.html").read_text(encoding="utf-8")).tags
    write_report(record, tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.tags.count("script") == expected.count("script") and "img" not in page.tags
    assert not [attribute for attribute in page.attributes if attribute[1].startswith("onerror")]
    assert page.text.count("<script>alert(1)</script>") >= 10
    markdown = re.sub(
        r"```.*?```", "", (tmp_path / "report.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )
    assert not re.search(r"(?<!\\)<(script|img)", markdown)


def test_csv_holds_every_number_in_full(written):
    record, folder, _ = written
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = {(row["variant"], row["value"]): row for row in csv.DictReader(file)}
    assert len(rows) == sum(len(variant.values) for variant in record.variants)
    for variant in record.variants:
        for value in variant.values:
            row = rows[variant.name, value.name]
            for name in ("before", "after", "iqm", "versus_base", "versus_best", "probability"):
                estimate = getattr(value, name)
                read = [row[name], row[f"{name}_low"], row[f"{name}_high"]]
                assert read == (
                    [""] * 3
                    if estimate is None
                    else [repr(x) for x in (estimate.value, estimate.low, estimate.high)]
                )
            assert [float(x) for x in row["seed_changes"].split()] == value.seeds
            assert (row["samples"], row["best"]) == (str(value.samples), value.best or "")
    assert [rows["ddpo", TARGET][k] for k in ("runs", "runs_ended", "runs_failed")] == [
        "3",
        "2",
        "1",
    ]
    assert rows["draft_1", TARGET]["mean_seconds"] == "316.2"


def test_tables_and_csv_have_the_same_numbers(written):
    """What a reader sorts a column by is what the spreadsheet has, for each cost and each estimate."""
    record, folder, _ = written
    with open(folder / "report.csv", encoding="utf-8", newline="") as file:
        rows = {row["variant"]: row for row in csv.DictReader(file) if row["value"] == TARGET}
    for table, names in (
        (cost_table(record), {cost.title: cost.name for cost in COSTS}),
        (value_table(record, TARGET), {one.title: one.name for one in ESTIMATES}),
    ):
        assert set(names) <= set(table.columns) and len(table.rows) == 8
        for cells in table.rows:
            shown = dict(zip(table.columns, cells))
            of_csv = {title: rows[cells[0].text][name] for title, name in names.items()}
            assert {title: shown[title].sort for title in names} == {
                title: float(text) if text else None for title, text in of_csv.items()
            }
    assert {cost.name for cost in COSTS} == {f"mean_{axis}" for axis in AXES} | {
        "peak_memory_bytes"
    }
    ended = [run for run in record.variants[0].runs if run.status == "finished"]
    name = record.variants[0].name
    assert len(ended) == 3 and rows[name]["mean_calls"] == repr(
        sum(run.axes["calls"] for run in ended) / 3
    )
    assert rows[name]["peak_memory_bytes"] == str(max(run.peak_memory for run in ended))


def test_csv_formulas_and_unknown_numbers(tmp_path):
    record = fake_comparison(variants=2)
    unknown = (
        record.variants[1]
        .values[0]
        .model_copy(update={"after": Interval(value=math.nan, low=math.nan, high=math.nan)})
    )
    record = edited(edited(record, 0, name="=1+1", values=[]), 1, values=[unknown])
    write_report(record, tmp_path)
    rows = list(csv.DictReader((tmp_path / "report.csv").read_text(encoding="utf-8").splitlines()))
    assert (rows[0]["variant"], rows[0]["value"], rows[0]["runs"]) == ("'=1+1", "", "3")
    assert (rows[1]["after"], rows[1]["probability"] != "") == ("nan", True)


def test_markdown_tables_are_whole_and_hold_the_numbers(written):
    text = (written[1] / "report.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        assert (
            len({len(re.findall(r"(?<!\\)\|", line)) for line in block.strip().splitlines()}) == 1
        )
    row = next(line for line in text.splitlines() if line.startswith("| alignprop | ▲ +0.262"))
    assert r"0.420 \[0.399, 0.443\] | 0.682 \[0.661, 0.705\]" in row
    assert "![pose-0, drtune](pictures/2-0.png)" in text
    for heading in (
        "Summary",
        "Results",
        "Samples",
        "Alarms",
        "Failures",
        "Cost",
        "What differs",
        "Skeletons",
        "Reproduce",
        "Notes",
        "Versions",
    ):
        assert f"\n## {heading}\n" in text


def test_markdown_shows_pipes_stars_and_fences_as_they_are(tmp_path):
    record = edited(fake_comparison(variants=2), 0, name="a|b *c*\nd")
    write_report(record.model_copy(update={"command": "echo ```"}), tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert r"| a\|b \*c\* d |" in text and "````text\necho ```\n````" in text


def test_missing_pieces_leave_their_sections_out(tmp_path):
    record = fake_comparison(variants=1, seeds=1)
    bare = (
        record.variants[0]
        .runs[0]
        .model_copy(
            update={
                "training": [],
                "evaluations": [],
                "axes": {},
                "peak_memory": None,
                "command": "",
            }
        )
    )
    record = edited(record, 0, runs=[bare], values=[], differences={}).model_copy(
        update={"common": {}, "notes": [], "sections": [], "versions": {}, "target": None}
    )
    paths = write_report(record, tmp_path)
    page = Page(paths[2].read_text(encoding="utf-8"))
    assert {"curves", "tradeoffs", "samples", "alarms", "failures", "results"}.isdisjoint(
        v for _, name, v in page.attributes if name == "id"
    )
    assert "No variant has a measured value yet." in page.text
    assert "draft_1 1 of 1 unknown unknown unknown unknown unknown unknown" in page.text
    assert paths[2].stat().st_size < 100_000  # no figure, no chart library


def test_pictures_are_embedded_once_and_no_larger_than_needed(tmp_path):
    record = fake_comparison(tmp_path)
    big = tmp_path / "pictures/big.png"
    Image.effect_noise((900, 600), 60).save(big)
    pictures = [
        *record.variants[0].pictures,
        Picture(sample="big", base="pictures/base-0.png", tuned="pictures/big.png"),
    ]
    gallery = Gallery(edited(record, 0, pictures=pictures), tmp_path)
    assert len(gallery.pairs) == 8 * 4 + 1 and len(gallery.images) <= 4 + 8 * 4 + 1
    assert len(set(gallery.images)) == len(gallery.images)
    assert {pair["base"] for pair in gallery.pairs if pair["sample"] == "pose-0"} == {
        gallery.pairs[0]["base"]
    }
    assert gallery.images[gallery.pairs[-1]["tuned"]].startswith("data:image/webp;base64,")
    assert EDGE == 320 and max(map(len, gallery.images)) < 80_000 < big.stat().st_size


def test_pictures_stop_where_the_page_is_full(tmp_path, monkeypatch):
    record = fake_comparison(tmp_path)
    monkeypatch.setattr("rewardft.comparisons.report.pictures.MOST_BYTES", 10_000)
    gallery = Gallery(record, tmp_path)
    assert MOST_BYTES > sum(map(len, gallery.images)) > 0
    assert gallery.left_out == 32 - len(gallery.pairs) > 0
    assert (
        len({pair["variant"] for pair in gallery.pairs}) == 8
    )  # every variant's first picture goes before any second


def test_unreadable_pictures_are_named(tmp_path):
    record = fake_comparison(tmp_path)
    (tmp_path / "pictures/0-0.png").write_text("not a picture")
    (tmp_path / "pictures/1-0.png").unlink()
    page = Page(write_report(record, tmp_path)[2].read_text(encoding="utf-8"))
    assert "Pictures that could not be read: " in page.text
    assert (
        "pictures/0-0.png (UnidentifiedImageError)" in page.text
        and "pictures/1-0.png (FileNotFoundError)" in page.text
    )


def test_curves_are_thinned_to_evenly_spaced_points_and_keep_their_ends():
    points = fake_comparison(variants=1, points=1000).variants[0].runs[0].training
    kept = thin(points, 40)
    assert len(kept) == 40 and kept[0] is points[0] and kept[-1] is points[-1]
    assert thin(points[:30], 40) == points[:30]
    assert [points_per_curve(runs) for runs in (1, 24, 200, 5000)] == [300, 300, 200, 40]
    first = kept[0].model_copy(update={"values": {"other": math.nan}})
    drawn = columns([first, kept[1]])
    assert drawn["values"] == {
        "other": [None, None],
        TARGET: [None, pytest.approx(kept[1].values[TARGET], rel=1e-5)],
        "loss": [None, pytest.approx(kept[1].values["loss"], rel=1e-5)],
    }
    assert drawn["axes"]["calls"][0] == pytest.approx(points[0].axes["calls"], rel=1e-5)


def test_a_missing_chart_library_is_named_after_the_other_files_are_written(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args):
        if name.startswith("plotly"):
            raise ImportError("No module named 'plotly'")
        return real(name, *args)

    monkeypatch.setattr("importlib.import_module", lambda name: refuse(name))
    with pytest.raises(RewardftError) as caught:
        write_report(fake_comparison(variants=1), tmp_path)
    assert str(caught.value) in (
        "report.html needs plotly, which cannot be imported (No module named 'plotly'). Install it with `pip install 'rewardft[report]'`, then write the report again; report.md and report.csv need nothing more.",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.csv", "report.md"]


def test_sections_are_inserted_as_given_and_titles_escaped(tmp_path):
    record = fake_comparison(variants=1).model_copy(
        update={"sections": [Section(title="a < b", html="<svg id='drawn'></svg>", plugin="p")]}
    )
    text = write_report(record, tmp_path)[2].read_text(encoding="utf-8")
    assert '<h2 id="section-1">a &lt; b</h2>' in text and "<svg id='drawn'></svg>" in text


def test_the_report_imports_nothing_but_records_words_budgets_errors_and_atomic_files():
    code = "import ast, pathlib, rewardft.comparisons.report as r\nfor p in pathlib.Path(r.__file__).parent.glob('*.py'):\n  for n in ast.walk(ast.parse(p.read_text())):\n    if isinstance(n, ast.ImportFrom): print(n.module)"
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    own = {
        name
        for name in printed
        if name.startswith("rewardft") and not name.startswith("rewardft.comparisons.report")
    }
    assert own == {
        "rewardft.comparisons.words",
        "rewardft.contracts.records",
        "rewardft.errors",
        "rewardft.files.atomic",
        "rewardft.recipe.budget",
    }


def test_two_hundred_runs_in_time_and_size(tmp_path):
    record = fake_comparison(tmp_path, variants=67)
    assert sum(len(variant.runs) for variant in record.variants) == 201
    start = time.process_time()
    paths = write_report(record, tmp_path)
    assert time.process_time() - start < 20
    assert paths[2].stat().st_size < 30e6
    data = re.search(
        r'<script type="application/json" id="data">(.*?)</script>',
        paths[2].read_text(encoding="utf-8"),
        re.DOTALL,
    )
    assert len(json.loads(data[1])["variants"]) == 67


# -- several trained rewards ---------------------------------------------------------------------------------------


def two_rewards(points):
    """A record of variants by the estimates of two rewards, the second one of weight 0 in the first variant."""
    variants = []
    for place, (name, values) in enumerate(points.items()):
        measured = [
            Value(
                name=f"reward/{reward}",
                role="held_out" if place == 0 and reward == "red" else "reward",
                samples=8,
                after=Interval(value=value, low=value - 0.1, high=value + 0.1),
            )
            for reward, value in zip(("bright", "red"), values)
        ]
        first = fake_comparison(variants=1).variants[0]
        variants.append(first.model_copy(update={"name": name, "values": measured}))
    return fake_comparison(variants=1).model_copy(update={"variants": variants, "target": None})


def test_the_front_of_several_rewards_names_who_beats_whom(tmp_path):
    points = {"a": (1.0, 0.0), "b": (0.6, 0.6), "c": (0.5, 0.6), "d": (0.0, 1.0)}
    table = front_table(two_rewards(points))
    assert table.columns == ["Variant", "reward/bright", "reward/red", "On the front"]
    said = {row[0].text: row[-1].text for row in table.rows}
    assert said == {"a": "yes", "b": "yes", "c": "no, beaten by b", "d": "yes"}
    write_report(two_rewards(points), tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Pareto front of the trained rewards, tuned, with 95 % intervals" in page.text
    rows = [[cell.text for cell in row] for row in table.rows]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert all(f"| {' | '.join(map(escape, row))} |" in text for row in rows)
    assert rows[2][1] == interval(Interval(value=0.5, low=0.4, high=0.6))


def test_equal_variants_beat_nobody_and_one_reward_has_no_front():
    equal = front_table(two_rewards({"a": (0.5, 0.5), "b": (0.5, 0.5)}))
    assert [row[-1].text for row in equal.rows] == ["yes", "yes"]
    assert front_table(fake_comparison(variants=3)).rows == []


def test_a_reward_of_each_group_is_no_reward_of_its_own():
    record = two_rewards({"a": (1.0, 0.0), "b": (0.6, 0.6)})
    for variant in record.variants:
        again = [v.model_copy(update={"name": f"tall/{v.name}"}) for v in variant.values]
        variant.values.extend(again)
    assert trained_rewards(record) == ["reward/bright", "reward/red"]


def test_less_of_a_reward_may_be_better():
    record = two_rewards({"a": (0.5, 0.2), "b": (0.5, 0.6)})
    for variant in record.variants:
        variant.values[1] = variant.values[1].model_copy(update={"higher_is_better": False})
    assert {row[0].text: row[-1].text for row in front_table(record).rows} == {
        "a": "yes",
        "b": "no, beaten by a",
    }


def test_curves_of_a_match_are_of_the_value_itself():
    """What is read at equal divergence has no course of its own."""
    record = fake_comparison(variants=2)
    name = f"{TARGET} at kl/gaussian 0.1"
    variants = [
        variant.model_copy(
            update={"values": [value_of(variant, TARGET).model_copy(update={"name": name})]}
        )
        for variant in record.variants
    ]
    matched = record.model_copy(update={"variants": variants, "target": name})
    assert (focus(matched), followed(matched)) == (name, TARGET)
    assert figure_data(matched)["followed"] == TARGET
    assert followed(record) == TARGET
