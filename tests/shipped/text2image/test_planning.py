"""`rewardft plan` for weights that are not there: configurations and tokenizers are enough."""

import shutil

import pytest

from rewardft.engine.planning import plan_memory
from rewardft.engine.targets import check_targets
from rewardft.errors import RecipeError
from rewardft.plugins.resolve import open_recipe
from tests.shipped.rewards.checkpoints import save_clip

RECIPE = """
plugins: [text2image, rewards]
model: {{use: {family}, weights: {weights}, height: 16, width: 16}}
sampler: {{use: ddim, steps: 3}}
data: {{use: prompts, path: shipped, held_out: 4, batch_size: 2}}
rewards: [{{use: clip_score, weights: {clip}}}]
algorithm: {{use: drtune, train_steps: 2, early_stop: 1}}
adapter: {{kind: lora, rank: 2}}
optimizer: {{use: adamw, lr: 1e-2}}
train: {{steps: 2}}
"""


@pytest.mark.parametrize("family", ["stable_diffusion", "sdxl", "sd3", "flux"])
def test_the_plan_is_the_same_without_weights(family, folders, tmp_path):
    save_clip(tmp_path / "clip")
    plans = []
    for name in ("with", "without"):
        ignore = shutil.ignore_patterns("*.safetensors") if name == "without" else None
        shutil.copytree(folders[family], tmp_path / name / "model", ignore=ignore)
        shutil.copytree(tmp_path / "clip", tmp_path / name / "clip", ignore=ignore)
        path = tmp_path / f"{name}.yaml"
        here = tmp_path / name
        path.write_text(RECIPE.format(family=family, weights=here / "model", clip=here / "clip"))
        plans.append(plan_memory(*open_recipe(path)))
    there, here = plans
    assert here.held == there.held and here.most == there.most
    parts = {"model.trainable", "model.vae", "model.encoders", "reward clip_score"}
    assert parts <= here.held.keys() and min(here.held[part] for part in parts) > 0


def test_layers_are_looked_for_without_weights(folders, tmp_path):
    ignore = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(folders["stable_diffusion"], tmp_path / "model", ignore=ignore)
    save_clip(tmp_path / "clip")
    path = tmp_path / "r.yaml"
    places = {"weights": tmp_path / "model", "clip": tmp_path / "clip"}
    path.write_text(RECIPE.format(family="stable_diffusion", **places))
    recipe, _, resolved = open_recipe(path, ["adapter.targets=[to_q, attn1.to_k]"])
    assert check_targets(recipe, resolved)
    recipe, _, resolved = open_recipe(path, ["adapter.targets=[q_proj]"])
    with pytest.raises(RecipeError) as error:
        check_targets(recipe, resolved)
    assert error.value.problems[0].startswith(
        "--set adapter.targets=[q_proj]: adapter.targets: no linear or convolution layer of "
        "UNet2DConditionModel is called 'q_proj'."
    )
