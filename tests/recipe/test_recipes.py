"""Every shipped recipe is right, and the toy ones teach the model what they say."""

import re
import time
from pathlib import Path

import pytest

from rewardft.cli.comparing import Options, build_request
from rewardft.comparisons.members import expand
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe

ROOT = Path(__file__).resolve().parents[2]
COMPARISONS = sorted((ROOT / "recipes").glob("compare_*.yaml"))
RECIPES = sorted(set((ROOT / "recipes").rglob("*.yaml")) - set(COMPARISONS))
TOYS = [path for path in RECIPES if path.stem.startswith("toy_")]
LIMIT = 60.0  # processor seconds for a toy recipe; they stretch where cores are shared


def stem(path):
    return path.stem


def test_the_presets_of_the_direct_family_have_a_toy_recipe_each():
    assert {"toy_draft", "toy_draft_lv", "toy_alignprop", "toy_refl", "toy_drtune"} <= {
        path.stem for path in TOYS
    }


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_a_shipped_recipe_resolves(path):
    recipe = load_recipe(path)
    resolved = resolve(recipe, load_plugins(recipe.plugins, recipe.base))
    assert resolved.model.entry.name.casefold() == recipe.model.use.casefold()
    assert [spec.name for spec, _ in resolved.rewards] == [spec.name for spec in recipe.rewards]
    assert recipe.plugins and recipe.save.keep >= 1


@pytest.mark.parametrize("path", RECIPES, ids=stem)
def test_a_shipped_recipe_opens_with_what_it_trains_and_how_to_run_it(path):
    """What it trains, the exact command, and one override as an example."""
    head = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert len(head[0]) > 20
    assert any(re.search(rf"rewardft run {path.stem}\b", line) for line in head)
    assert any("--set " in line for line in head)


@pytest.mark.parametrize("path", COMPARISONS, ids=stem)
def test_every_run_of_a_shipped_comparison_can_be_made(path, tmp_path):
    request = build_request([str(path)], Options())
    members = expand(request, tmp_path)
    assert [member.problem for member in members if member.problem] == []
    assert len({member.variant.name for member in members}) >= (
        8 if path.stem in ("compare_mini", "compare_drpose") else 3
    )
    assert len(members) == len(request.variants) * request.seeds
    assert f"rewardft compare {path.stem}" in path.read_text(encoding="utf-8")


def raises_the_held_out_reward(path, out, *overrides):
    """By more than the paired 95 % interval, on the recipe's own seed."""
    run = run_recipe(path, out, *overrides)
    recipe = load_recipe(path)
    name = [*recipe.rewards, *recipe.evaluate.rewards][0].name
    (row,) = [row for row in run.summary["evaluation"] if row["name"] == f"reward/{name}"]
    print(f"{path.stem}: {row['before']:.4f} -> {row['after']:.4f} (+- {row['half_width']:.4f})")
    assert run.summary["status"] in ("finished", "stopped")
    assert len(run.steps) == run.summary["step"]
    assert row["count"] == recipe.evaluate.samples >= 32
    assert row["difference"] > row["half_width"] > 0


@pytest.mark.parametrize("path", TOYS, ids=stem)
def test_a_sixth_of_a_toy_recipe_raises_the_held_out_reward(path, tmp_path):
    """Each by more than twice what it must, so that rounding does not decide."""
    steps = load_recipe(path).train.steps // 6
    overrides = [f"train.steps={steps}", f"evaluate.every={steps}", "evaluate.batch_size=64"]
    raises_the_held_out_reward(path, tmp_path / "run", *overrides)


@pytest.mark.slow
@pytest.mark.parametrize("path", TOYS, ids=stem)
def test_a_toy_recipe_raises_the_held_out_reward_in_the_time_that_its_header_promises(
    path, tmp_path, record_property
):
    began = time.process_time()
    raises_the_held_out_reward(path, tmp_path / "run")
    seconds = time.process_time() - began
    record_property("seconds", seconds)
    assert seconds < LIMIT
