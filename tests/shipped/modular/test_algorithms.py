"""Every other algorithm takes a step on a modular pipeline: tags say what goes with what, no code does."""

import pytest

from rewardft.testing import run_recipe

OTHERS = {
    "draft": ("ddim", "{use: draft}"),
    "draft_lv": ("ddim", "{use: draft_lv, resamples: 1}"),
    "alignprop": ("ddim", "{use: alignprop}"),
    "refl": ("ddim", "{use: refl, early_stop: 2}"),
    "srpo": ("flow_euler", "{use: srpo}"),
    "ddpo": ("ancestral", "{use: ddpo}"),
    "dpok": ("ancestral", "{use: dpok}"),
    "grpo": ("ancestral", "{use: grpo, group_size: 2}"),
    "dance_grpo": ("dance_sde", "{use: dance_grpo, group_size: 2}"),
    "mix_grpo": ("flow_sde", "{use: mix_grpo, window: 2, group_size: 2}"),
    "d3po": ("ancestral", "{use: d3po}"),
    "adjoint_matching": ("ancestral", "{use: adjoint_matching, train_steps: 2}"),
}
SAMPLERS = {
    "ddim": "{use: ddim, steps: 4}",
    "flow_euler": "{use: flow_euler, steps: 4}",
    "ancestral": "{use: ddim, steps: 4, eta: 1.0}",
    "dance_sde": "{use: dance_sde, steps: 4}",
    "flow_sde": "{use: flow_sde, steps: 4}",
}
RECIPE = """plugins: [modular_tiny, ddpo, grpo, dpo, adjoint, srpo]
model:     {use: modular_tiny, family: flux2_klein}
sampler:   SAMPLER
data:      {use: tiny_prompts, batch_size: 2}
rewards:   [{use: tiny_light}]
algorithm: ALGORITHM
adapter:   {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-3}
train:     {steps: 1}
"""


@pytest.mark.parametrize("name", OTHERS)
def test_a_step(name, tmp_path):
    sampler, algorithm = OTHERS[name]
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("SAMPLER", SAMPLERS[sampler]).replace("ALGORITHM", algorithm))
    run = run_recipe(path, tmp_path / "run")
    assert run.summary["status"] == "finished" and run.steps[-1]["gradient_norm"] > 0


GIVEN = {
    "diffusion_dpo": "{use: diffusion_dpo, beta: 20}",
    "diffusion_kto": "{use: diffusion_kto, beta: 2.5}",
    "spin": "{use: spin, beta: 20}",
    "denoising": "{use: denoising}",
}


@pytest.mark.parametrize("family", ["flux2_klein", "wan", "stable_diffusion_xl"])
@pytest.mark.parametrize("name", GIVEN)
def test_a_step_from_given_samples(name, family, tmp_path):
    path = tmp_path / "recipe.yaml"
    text = RECIPE.replace("SAMPLER", SAMPLERS["ddim"]).replace("ALGORITHM", GIVEN[name])
    text = text.replace("family: flux2_klein", f"family: {family}")
    text = text.replace("use: tiny_prompts", f"use: tiny_given, family: {family}")
    path.write_text(text.replace("rewards:   [{use: tiny_light}]\n", ""))
    run = run_recipe(path, tmp_path / "run")
    assert run.summary["status"] == "finished" and run.steps[-1]["gradient_norm"] > 0
