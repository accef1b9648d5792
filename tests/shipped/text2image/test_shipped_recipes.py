"""The recipes for weights from the hub: checked without them, and run whole on tiny checkpoints of the same family."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe

FOLDER = Path(__file__).resolve().parents[3] / "recipes"
RECIPES = [path for path in sorted(FOLDER.glob("*.yaml")) if "from the hub" in path.read_text()]
SMALL = [
    "train.steps=1",
    "train.accumulate=1",
    "data.batch_size=2",
    "evaluate.samples=2",
    "save.every=0",
    "adapter.rank=2",
    "rewards=[{use: mean_brightness}]",
    "sampler.steps=3",
]
SIZES = {
    "sd3": ["model.height=16", "model.width=16"],
    "flux": ["model.height=16", "model.width=16"],
}
CHOICES = {
    "drtune": ["algorithm.early_stop=2"],
    "flow_grpo": ["algorithm.group_size=2", "algorithm.updates=1"],
}


def is_from_the_hub(recipe):
    return recipe.model.use in ("stable_diffusion", "sdxl", "sd3", "flux")


def test_recipes_that_need_the_hub_say_so():
    needing = [
        path for path in sorted(FOLDER.glob("[!c]*.yaml")) if is_from_the_hub(load_recipe(path))
    ]
    assert needing == RECIPES and len(RECIPES) >= 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_check_needs_no_weights(path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    recipe = load_recipe(path)
    resolved = resolve(recipe, load_plugins(recipe.plugins, recipe.base))
    assert "/" in resolved.model.options["weights"]
    assert resolved.eval_dataset.build()[0]["prompt"] not in [
        item["prompt"] for item in resolved.dataset.build().items
    ]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipe_runs_on_a_tiny_checkpoint(path, folders, tmp_path):
    recipe = load_recipe(path)
    model, algorithm = recipe.model.use, recipe.algorithm.use
    changes = [
        *SMALL,
        f"model.weights={folders[model]}",
        *SIZES.get(model, []),
        *CHOICES.get(algorithm, []),
    ]
    run = run_recipe(path, tmp_path / "run", *changes)
    assert run.summary["status"] == "finished"
    assert run.steps[-1]["gradient_norm"] > 0 and run.summary["evaluation"][0]["count"] == 2
