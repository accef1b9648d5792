"""One recipe, moved across model families by its `model:` line alone."""

import json

import pytest

from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe

MODELS = {
    "toy": "{{use: toy, prediction: v_prediction}}",
    "toy_flow": "{{use: toy, prediction: flow}}",
    "stable_diffusion": "{{use: stable_diffusion, weights: {folder}, guidance: 2.0}}",
    "sd3": "{{use: sd3, weights: {folder}, guidance: 2.0, t5_length: 8}}",
    "flux": "{{use: flux, weights: {folder}, guidance: 2.0, t5_length: 8, height: 16, width: 16}}",
}
ALGORITHMS = {
    "drtune": "{use: drtune, train_steps: 2, early_stop: 2}",
    "grpo": "{use: grpo, group_size: 2, clip: 1e-2}",
    "online_dpo": "{use: online_dpo, group_size: 2, beta: 20}",
}
RECIPE = """\
plugins: [toy, text2image, grpo, dpo]
model:     MODEL
sampler:   {use: ddim, steps: 3, eta: 1.0}
data:      {use: prompts, path: PROMPTS, columns: [label], batch_size: 2, held_out: 4}
rewards:   [{use: brightness, target: 0.8}]
algorithm: ALGORITHM
adapter:   {kind: lora, rank: 4}
optimizer: {use: adamw, lr: 1e-2}
train:     {steps: STEPS}
evaluate:  {samples: 4, data: {split: val}, rewards: [{use: brightness, target: 0.8}]}
"""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    animals = ["dog", "cat", "owl", "fox"]
    rows = [
        {"prompt": f"{c} {a}", "label": i}
        for c in ("red", "blue", "tan")
        for i, a in enumerate(animals)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def write(path, folders, prompts, model, algorithm, steps):
    line = MODELS[model].format(folder=folders.get(model))
    text = (
        RECIPE.replace("MODEL", line).replace("PROMPTS", str(prompts)).replace("STEPS", str(steps))
    )
    path.write_text(text.replace("ALGORITHM", ALGORITHMS[algorithm]))
    return path


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", MODELS)
def test_a_recipe_moves_by_its_model_line(model, algorithm, folders, prompts, tmp_path):
    path = write(tmp_path / "recipe.yaml", folders, prompts, model, algorithm, steps=1)
    toy = write(tmp_path / "toy.yaml", folders, prompts, "toy", algorithm, steps=1)
    differing = [
        a for a, b in zip(path.read_text().splitlines(), toy.read_text().splitlines()) if a != b
    ]
    assert all(line.startswith("model:") for line in differing)
    run = run_recipe(path, tmp_path / "run")
    assert run.summary["status"] == "finished" and len(run.steps) == 1
    assert all(step["gradient_norm"] > 0 for step in run.steps)
    assert run.summary["evaluation"][0]["count"] == 4
    named = load_recipe(run.folder / "recipe.yaml").model.use
    assert named == ("toy" if model == "toy_flow" else model)


@pytest.mark.parametrize("model", ["stable_diffusion", "sd3", "flux"])
def test_a_direct_gradient_raises_the_reward_of_every_family(model, folders, prompts, tmp_path):
    path = write(tmp_path / "recipe.yaml", folders, prompts, model, "drtune", steps=20)
    run = run_recipe(path, tmp_path / "run")
    row = run.summary["evaluation"][0]
    assert row["after"] > row["before"] + row["half_width"]
