"""Whole runs of the shipped recipes: some steps each, and slowly what they are for."""

import json
from pathlib import Path

import pytest
from rewardft_plugins.adhmr.figure import newest_figure

from rewardft.runs.samples import sample_run
from rewardft.testing import run_recipe

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
SHORT = [
    "train.steps=2",
    "data.batch_size=4",
    "evaluate.samples=4",
    "evaluate.samples_per_item=3",
    "evaluate.data={split: val, limit: 2}",
]
ONLINE = "data={use: pose_pictures, batch_size: 2}"
SCORED = ["rewards=[{use: hmr_scorer}]", "evaluate.rewards=[]", ONLINE]


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("adhmr_mini", ["data.hypotheses=2"]),
        ("adhmr_group", ["data.hypotheses=2"]),
        (
            "adhmr_mini",
            [
                "data.hypotheses=2",
                "data.form=winners",
                "algorithm={use: denoising, min_snr: null}",
            ],
        ),
        ("adhmr_mini", [*SCORED, "algorithm={use: drtune, train_steps: 1, early_stop: 0}"]),
        ("adhmr_mini", [*SCORED, "algorithm={use: online_dpo, group_size: 3, parts: {joints: 1}}"]),
    ],
    ids=["mini", "group", "winners", "drtune", "online_dpo"],
)
def test_a_recipe_runs_and_is_judged_in_millimetres(recipe, overrides, tmp_path):
    out = tmp_path / "run"
    short = [o for o in SHORT if ONLINE not in overrides or "batch_size" not in o]
    run = run_recipe(RECIPES / f"{recipe}.yaml", out, *overrides, *short)
    found = json.loads((out / "evaluations" / "step-00000000.json").read_text())
    assert sorted(found["groups"]) == ["plain", "plain", "tilted", "tilted"]
    values = found["per_sample"]
    for name in ("mpjpe", "pa_mpjpe", "pve"):
        each, best = values[f"hmr_errors/{name}"], values[f"hmr_errors/{name}_best"]
        assert all(20 < b <= e < 1500 for b, e in zip(best, each))
    assert "reward/hmr_scorer" in values and len(run.steps) == 2
    assert newest_figure(out).name == "step-00000002.png"


def test_samples_of_a_run_are_written_with_their_skeletons(tmp_path):
    run = run_recipe(RECIPES / "adhmr_mini.yaml", tmp_path / "run", "data.hypotheses=2", *SHORT)
    drawn, files = sample_run(run.folder, count=2)
    assert {name: tuple(value.shape) for name, value in drawn.base.items()} == {
        "x0": (2, 118),
        "decoded.joints": (2, 27, 3),
        "decoded.twists": (2, 20, 2),
    }
    assert [path.name for path in files][-2:] == ["grid.png", "pictures"]


@pytest.mark.slow
def test_alignment_makes_tilted_people_better_and_upright_ones_no_worse(tmp_path):
    """A third of the recipe's steps: separable already."""
    overrides = ["train.steps=400", "evaluate.metrics=[{use: hmr_errors, mesh: false}]"]
    run = run_recipe(RECIPES / "adhmr_mini.yaml", tmp_path / "run", *overrides)
    rows = {row["name"]: row for row in run.summary["evaluation"]}
    tilted, plain = (rows[f"{group}/hmr_errors/mpjpe"] for group in ("tilted", "plain"))
    assert tilted["difference"] + tilted["half_width"] < -15
    assert plain["difference"] - plain["half_width"] < 0
    assert rows["tilted/hmr_errors/pair_right"]["before"] >= 0.8
