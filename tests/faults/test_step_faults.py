"""Choices of steps that some draw would make impossible: found by `check`, and again before anything is learnt."""

import random

import pytest

from rewardft.algorithms.direct import Direct
from rewardft.algorithms.direct_presets import drtune
from rewardft.errors import ComponentError, RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe

RECIPE = """\
plugins: [rewardft.testing.tiny]
model: {use: tiny}
sampler: {use: ddim, steps: 10}
data: {use: tiny_blobs}
rewards: [{use: tiny_brightness}]
algorithm:
  use: DRTune
  train_steps: 2
  early_stop: 8
optimizer: {lr: 1e-4}
train: {steps: 1}
"""
CASES = {
    "early_stop beyond the steps": (
        ["sampler.steps=4"],
        "r.yaml:9: algorithm 'drtune': early_stop 8 is more than the sampler's 4 steps. "
        "Lower early_stop, or give the sampler more steps.",
    ),
    "too few steps left in the worst draw": (
        ["algorithm.train_steps=5"],
        "--set algorithm.train_steps=5: algorithm 'drtune': train_steps is 5, but with early_stop 8 the chain may end "
        "after 3 of 10 steps. Lower train_steps or early_stop, or give the sampler more steps.",
    ),
    "train_steps beyond the steps": (
        ["algorithm={use: draft_k, train_steps: 11}"],
        "--set algorithm={use: draft_k, train_steps: 11}: algorithm 'draft_k': train_steps 11 is more than the sampler's "
        "10 steps. Lower train_steps, or give the sampler more steps.",
    ),
    "the preset's own early_stop": (
        ["algorithm={use: refl}", "sampler.steps=9"],
        "--set algorithm={use: refl}: algorithm 'refl': early_stop 10 is more than the sampler's 9 steps. "
        "Lower early_stop, or give the sampler more steps.",
    ),
    "the sampler's own steps": (
        ["algorithm.train_steps=51", "algorithm.early_stop=0", "sampler={use: ddpm}"],
        "--set algorithm.train_steps=51: algorithm 'drtune': train_steps 51 is more than the sampler's 50 steps. "
        "Lower train_steps, or give the sampler more steps.",
    ),
    "no step at all": (
        ["algorithm.train_steps=0"],
        "--set algorithm.train_steps=0: option 'train_steps' of algorithm 'drtune': "
        "expected a whole number of at least 1, got 0 (a whole number).",
    ),
    "another type, which is said once": (
        ["algorithm.train_steps=many"],
        "--set algorithm.train_steps=many: option 'train_steps' of algorithm 'drtune': "
        "expected a whole number of at least 1, got 'many' (text).",
    ),
}


def check(*overrides):
    recipe = load_recipe("r.yaml", overrides)
    return resolve(recipe, load_plugins(recipe.plugins, recipe.base))


@pytest.fixture(autouse=True)
def _recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_no_draw_can_do(case):
    overrides, expected = CASES[case]
    with pytest.raises(RecipeError) as caught:
        check(*overrides)
    assert caught.value.problems == expected.splitlines()


@pytest.mark.parametrize("overrides", [[], ["algorithm.train_steps=3"], ["sampler.steps=9"]])
def test_what_every_draw_can_do_passes(overrides):
    assert check(*overrides).algorithm.entry.name == "drtune"


def test_the_draw_itself_refuses_the_worst_case_whatever_it_would_draw():
    """A sampler whose number of steps the recipe does not say is found out at the first batch, not by bad luck."""
    for seed in range(20):
        with pytest.raises(ComponentError, match="the chain may end after 3 of 10 steps"):
            drtune(5, 8).draw_path(10, random.Random(seed))
    lengths = {
        Direct("spaced", 3, False, 8).draw_path(10, random.Random(seed)).length
        for seed in range(200)
    }
    assert lengths == set(range(3, 11))
