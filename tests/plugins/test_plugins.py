"""Plugins that load: from a file, a folder, a module and an installed package; one manager per run."""

import dataclasses
import os
import pickle
import shutil
import sys
import textwrap

import pytest
import torch

from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.entries import KINDS, Entry
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.plugins.sources import installed
from rewardft.recipe.recipe import load_recipe
from tests.bench import Bench

STRANGER = '''\
from rewardft import hookimpl

def color_balance(rollout, batch, *, channel: int = 0):
    """Mean of one colour channel."""
    return rollout.decoded[:, channel].flatten(1).mean(1)

@hookimpl
def register_rewards():
    return {"ColorBalance": color_balance}
'''

TINY = """\
from rewardft import hookimpl
from rewardft.testing.tiny import TinyBlobs, TinyModel

@hookimpl
def register_models():
    return {"tiny": TinyModel}

@hookimpl
def register_datasets():
    return {"blobs": TinyBlobs}
"""


@pytest.fixture
def folder(tmp_path):
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("rewardft_file_", "stranger")):
            del sys.modules[name]


def reward_text(name):
    return f"from rewardft import hookimpl\n@hookimpl\ndef register_rewards():\n    return {{'{name}': print}}\n"


def test_no_source_is_parsed_until_a_message_needs_a_line(folder, monkeypatch):
    """Which takes longer than all else in opening a recipe."""
    asked = []
    monkeypatch.setattr(Entry, "line", property(lambda entry: asked.append(entry.name)))
    assert Bench(folder).run("train.steps=1").summary["step"] == 1
    assert asked == []


def test_core_comes_first_and_nothing_else_without_being_asked(folder):
    loaded = load_plugins([], folder).loaded
    assert [plugin.name for plugin in loaded] == ["builtin"]
    assert set(build_catalog(load_plugins([], folder)).entries) == set(KINDS)


def test_a_strangers_file_of_eleven_lines_with_a_mixed_case_name(folder):
    assert len([line for line in STRANGER.splitlines() if line.strip()]) <= 11
    (folder / "Stranger.py").write_text(STRANGER)
    (folder / "tiny.py").write_text(TINY)
    (folder / "recipe.yaml").write_text(
        "plugins: [./tiny.py, ./Stranger.py]\nmodel: {use: TINY}\nsampler: {use: Ddim, steps: 2}\n"
        "data: {use: blobs}\nrewards: [{use: colorbalance, channel: 1}]\nalgorithm: {use: draft}\n"
        "optimizer: {lr: 1e-3}\ntrain: {steps: 1}\n"
    )
    recipe = load_recipe(folder / "recipe.yaml")
    resolved = resolve(recipe, load_plugins(recipe.plugins, recipe.base))
    _, component = resolved.rewards[0]
    assert (component.entry.name, component.entry.plugin) == ("ColorBalance", "Stranger")
    assert component.entry.location == f"{folder / 'Stranger.py'}:3"
    assert component.entry.summary == "Mean of one colour channel."

    class Rollout:
        decoded = torch.stack([torch.full((2, 2), 0.25), torch.full((2, 2), 0.75)])[None]

    assert component.build()(Rollout, None).tolist() == [0.75]


def test_a_pip_installed_package(folder, monkeypatch):
    site = folder / "site"
    (site / "stranger_package").mkdir(parents=True)
    (site / "stranger_package" / "__init__.py").write_text(STRANGER)
    info = site / "rewardft_stranger-2.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rewardft-stranger\nVersion: 2.1\n")
    (info / "entry_points.txt").write_text("[rewardft]\nStranger = stranger_package\n")
    monkeypatch.syspath_prepend(str(site))
    plugins = load_plugins(["stranger>=2"], folder)
    loaded = plugins.loaded[1]
    assert (loaded.name, loaded.version, loaded.hooks) == ("Stranger", "2.1", ("register_rewards",))
    assert loaded.file == site / "stranger_package" / "__init__.py"
    assert build_catalog(plugins).get("rewards", "COLORBALANCE").plugin == "Stranger"


def test_a_package_that_comes_and_goes_while_the_process_runs(folder, monkeypatch):
    """What is installed is kept, for as long as nothing is put into a folder of `sys.path` or taken out."""
    site, info = folder / "site", folder / "site" / "late-1.0.dist-info"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    os.utime(site, ns=(1, 1))  # a clock ticks too slowly to tell what follows from it
    assert "late" not in installed() and installed() is installed()
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rewardft]\nLate = late_package\n")
    os.utime(site, ns=(2, 2))
    assert [point.value for point in installed()["late"]] == ["late_package"]
    shutil.rmtree(info)
    assert "late" not in installed()


def test_folder_and_module(folder, monkeypatch):
    (folder / "pack").mkdir()
    (folder / "pack" / "__init__.py").write_text(
        reward_text("from_folder").replace("print", "scale")
    )
    (folder / "pack" / "part.py").write_text("def scale(rollout, batch): return 3\n")
    text = (folder / "pack" / "__init__.py").read_text()
    (folder / "pack" / "__init__.py").write_text("from .part import scale\n" + text)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "stranger_module.py").write_text("__version__ = '3.0'\n" + reward_text("from_module"))
    plugins = load_plugins(["./pack", "stranger_module>=3"], folder)
    assert [(p.name, p.version) for p in plugins.loaded[1:]] == [
        ("pack", None),
        ("stranger_module", "3.0"),
    ]
    catalog = build_catalog(plugins)
    assert catalog.get("rewards", "from_folder").factory(None, None) == 3
    assert catalog.get("rewards", "from_module").version == "3.0"


def test_dataclasses_with_postponed_annotations_and_pickling_work_in_a_file(folder):
    (folder / "data.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        + reward_text("Point").replace("print", "Point")
        + "@dataclass\nclass Point:\n    x: int = 1\n"
    )
    point = build_catalog(load_plugins(["./data.py"], folder)).get("rewards", "point").factory(x=3)
    assert dataclasses.asdict(point) == {"x": 3}
    assert pickle.loads(pickle.dumps(point)) == point
    assert not (folder / "__pycache__").exists()


def test_an_edited_file_is_read_anew_and_an_unchanged_one_is_not(folder):
    path = folder / "edited.py"
    path.write_text(reward_text("one"))
    first = load_plugins(["./edited.py"], folder)
    assert load_plugins(["./edited.py"], folder).loaded[1].module is first.loaded[1].module
    path.write_text(reward_text("two"))
    second = load_plugins(["./edited.py"], folder)
    assert [entry.name for entry in build_catalog(first).of_kind("rewards")] == ["one"]
    assert [entry.name for entry in build_catalog(second).of_kind("rewards")] == ["two"]


def test_managers_do_not_know_each_other(folder):
    (folder / "p.py").write_text(reward_text("one"))
    with_it, without = load_plugins(["./p.py"], folder), load_plugins([], folder)
    assert with_it.manager is not without.manager
    assert len(build_catalog(with_it).of_kind("rewards")) == 1
    assert build_catalog(without).of_kind("rewards") == []


def test_results_say_who_answered_in_order_of_loading(folder):
    text = "from rewardft import hookimpl\n@hookimpl\ndef on_run_end(run):\n    return {}\n"
    for name, answer in (("a", ["no"]), ("b", None), ("c", [])):
        (folder / f"{name}.py").write_text(text.format(repr(answer)))
    plugins = load_plugins(["./c.py", "./b.py", "./a.py"], folder)
    assert plugins.results("on_run_end", run=None, summary={}) == [("c", []), ("a", ["no"])]


def test_first_answer_wins_and_the_core_answers_last(folder):
    text = "from rewardft import hookimpl\n@hookimpl\ndef stop_run(step):\n    return {}\n"
    (folder / "a.py").write_text(text.format("'a' if step > 1 else None"))
    (folder / "b.py").write_text(text.format("'b' if step > 2 else None"))
    plugins = load_plugins(["./a.py", "./b.py"], folder)
    nan = {"loss": float("nan")}
    reasons = [plugins.call("stop_run", run=None, step=step, metrics=nan) for step in (1, 2, 3)]
    assert reasons == ["the loss is NaN", "a", "b"]
    assert plugins.results("stop_run", run=None, step=3, metrics={}) == [("a", "a"), ("b", "b")]


def test_catalog_says_what_it_has(folder):
    (folder / "doc.py").write_text(
        textwrap.dedent('''\
        import functools
        from dataclasses import dataclass
        from rewardft import hookimpl

        @dataclass
        class Plain:
            x: int = 1

        def score(rollout, batch, *, target=1.0):
            """A score of x, as in Wu et al. 2023, at 2.5
            times its size. More of it.

            Second.
            """

        preset = functools.partial(score, target=2.0)
        preset.__doc__ = "A preset."

        @hookimpl
        def register_rewards():
            return {"plain": Plain, "score": score, "preset": preset}
        ''')
    )
    entries = build_catalog(load_plugins(["./doc.py"], folder)).of_kind("rewards")
    assert [(e.name, e.summary, e.line) for e in entries] == [
        ("plain", "", 5),
        ("preset", "A preset.", 9),
        ("score", "A score of x, as in Wu et al. 2023, at 2.5 times its size.", 9),
    ]
