"""Whole runs: reward models behind a text-to-image model, with algorithms that follow gradients and one that does not."""

import json

import pytest

from rewardft.errors import RecipeError
from rewardft.testing import run_recipe
from tests.bench import line_of
from tests.shipped.text2image.checkpoints import stable_diffusion

from .checkpoints import save_clip, save_head

RECIPE = """\
plugins: [toy, text2image, rewards, ddpo, srpo]
model:     {use: stable_diffusion, weights: FOLDER/sd, guidance: 2.0}
sampler:   {use: ddim, steps: 3, eta: 1.0}
data:      {use: prompts, path: FOLDER/prompts.jsonl, batch_size: 3, held_out: 3}
rewards:   REWARDS
algorithm: ALGORITHM
adapter:   {kind: lora, rank: 4}
optimizer: {use: adamw, lr: 1e-3}
train:     {steps: 2, log_every: 1}
"""
CLIP = "{use: clip_score, weights: FOLDER/clip}"
WORDS = "{use: srpo, wanted: [real, detailed], unwanted: [painting], strength: 0.2}"
CASES = {
    "several rewards by gradient": (
        f"[{CLIP}, {{use: aesthetic, head: FOLDER, clip: FOLDER/clip, weight: 0.1}}, {{use: symmetry}}]",
        "{use: draft_k, train_steps: 2}",
    ),
    "relative preference": (f"[{CLIP}]", WORDS),
    "no gradient": ("[{use: jpeg_compressibility}]", "{use: ddpo}"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    stable_diffusion(path / "sd")
    save_clip(path / "clip")
    save_head(path / "model.safetensors")
    rows = [
        {"prompt": f"{colour} {animal}"}
        for colour in ("red", "tan")
        for animal in ("dog", "cat", "owl")
    ]
    (path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return path


def write(folder, path, rewards, algorithm):
    text = RECIPE.replace("REWARDS", rewards).replace("ALGORITHM", algorithm)
    path.write_text(text.replace("FOLDER", str(folder)))
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_text_to_image_model_learns_from_a_reward_model(case, folder, tmp_path):
    run = run_recipe(write(folder, tmp_path / "recipe.yaml", *CASES[case]), tmp_path / "run")
    assert run.summary["status"] == "finished" and all(
        norm > 0 for norm in run.column("gradient_norm")
    )
    if case == "several rewards by gradient":
        parts = zip(
            *(run.column(f"reward/{name}") for name in ("clip_score", "aesthetic", "symmetry"))
        )
        assert run.column("reward") == pytest.approx(
            [c + 0.1 * a + s for c, a, s in parts], rel=1e-5
        )
    if case == "relative preference":
        wanted, unwanted = run.column("restored/wanted"), run.column("restored/unwanted")
        assert all(a != b for a, b in zip(wanted, unwanted)), (
            "the words in front of the prompt are read"
        )


def test_a_reward_without_gradient_is_refused_before_weights_load(tmp_path):
    recipe = write(
        tmp_path / "nowhere",
        tmp_path / "recipe.yaml",
        "[{use: jpeg_compressibility}]",
        "{use: draft_k}",
    )
    with pytest.raises(RecipeError) as caught:
        run_recipe(recipe, tmp_path / "run")
    assert str(caught.value) == (
        f"{recipe}: 1 problem\n  - {recipe}:{line_of(recipe, 'algorithm:')}: algorithm 'draft_k' needs 'reward_gradient', "
        f"which reward 'jpeg_compressibility' ({recipe}:{line_of(recipe, 'jpeg')}, plugin 'rewards') does not provide. Write "
        "there use: aesthetic / brightness / clip_direction / clip_score / colourfulness / hps_v2 / image_reward / "
        "jpeg_differentiable / mean_brightness / pick_score / symmetry. "
        "Algorithms of the listed plugins that would work here: ddpo, dpok."
    )
