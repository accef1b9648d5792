"""Whole runs of adjoint matching: resume, cutting up, and the pairings that are refused."""

import textwrap

import pytest
import torch
from safetensors.torch import load_file

from rewardft.errors import RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.adjoint]
seed: 3
model: {use: tiny, prediction: v_prediction, width: 12}
sampler: {use: ddim, steps: 6, eta: 1.0}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: adjoint_matching, reward_scale: 500.0, train_steps: 3}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1, schedule: cosine, warmup: 2}
train: {steps: 6, log_every: 2}
save: {every: 2, keep: 9}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(textwrap.dedent(RECIPE))
    return path


def assert_same_run(one, other, tolerance=2e-5):
    for name in ("loss", "gradient_norm"):
        a, b = torch.tensor(one.column(name)), torch.tensor(other.column(name))
        assert len(a) == len(b) == 6
        assert torch.allclose(a, b, rtol=tolerance, atol=tolerance), (
            f"{name}: {a.tolist()} and {b.tolist()}"
        )
    mine, theirs = (
        load_file(run.folder / "adapter" / "adapter_model.safetensors") for run in (one, other)
    )
    assert all(
        torch.allclose(mine[name], theirs[name], rtol=0, atol=20 * tolerance) for name in mine
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.micro_batch=2"],
        ["train.checkpointing=true"],
        ["data.batch_size=1", "train.accumulate=4"],
    ],
    ids=" ".join,
)
def test_how_a_step_is_cut_up_does_not_matter(recipe, tmp_path, overrides):
    """Without the mask, whose threshold is a running mean over batches."""
    unmasked = ["algorithm.mask_quantile=null"]
    reference = run_recipe(recipe, tmp_path / "reference", *unmasked)
    assert_same_run(reference, run_recipe(recipe, tmp_path / "other", *unmasked, *overrides))


@pytest.mark.parametrize("stop", [2, 4])
def test_resuming_continues_to_the_same_bits_with_the_mask(recipe, tmp_path, stop):
    whole = run_recipe(recipe, tmp_path / "whole")
    out = tmp_path / "parts"
    run_recipe(recipe, out)
    for path in (out / "checkpoints").iterdir():
        if int(path.name[5:]) > stop:
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    torch.manual_seed(99)
    assert_same_run(whole, run_recipe(recipe, out, resume=True), tolerance=0.0)
    assert max(whole.column("masked")) > 0


def test_full_fine_tuning_keeps_the_base_for_the_adjoint(recipe, tmp_path):
    run = run_recipe(
        recipe, tmp_path / "run", "adapter={kind: full}", "optimizer.lr=1e-4", "save.every=0"
    )
    assert run.column("control")[0] == 0.0 and run.column("control")[-1] > 0


def problems(recipe, *overrides):
    loaded = load_recipe(recipe, list(overrides))
    with pytest.raises(RecipeError) as error:
        resolve(loaded, load_plugins(loaded.plugins, loaded.base))
    return [problem.partition(": ")[2] for problem in error.value.problems]


def test_noise_that_is_not_memoryless_is_refused(recipe):
    expected = (
        "algorithm 'adjoint_matching' needs memoryless noise: the sampler ddim with eta 1, got eta 0.5. Set sampler.eta "
        "to 1; the tuned model may be sampled with eta 0 afterwards."
    )
    assert problems(recipe, "sampler.eta=0.5") == [expected]
    found = problems(recipe, "sampler={use: ddim, steps: 6}")
    assert "algorithm 'adjoint_matching' needs 'log_prob', which sampler 'ddim'" in found[0]
    assert "Write there eta: 1.0, or use: " in found[0]
    assert found[1] == expected.replace("0.5", "0")


def test_a_reward_without_a_gradient_is_refused_with_what_would_do(recipe, tmp_path):
    (tmp_path / "blind.py").write_text(
        "from rewardft import hookimpl\n\n\ndef blind(rollout, batch):\n    return rollout.x0.detach().flatten(1).mean(1)\n\n\n"
        "blind.differentiable = False\n\n\n@hookimpl\ndef register_rewards():\n    return {'blind': blind}\n"
    )
    plugins = f"plugins=[rewardft.testing.tiny, rewardft_plugins.adjoint, rewardft_plugins.dpo, {tmp_path}/blind.py]"
    (problem,) = problems(recipe, plugins, "rewards=[{use: blind}]")
    assert "algorithm 'adjoint_matching' needs 'reward_gradient', which reward 'blind'" in problem
    assert "d3po" in problem and "online_dpo" in problem and "drtune" not in problem


def test_regularizers_are_refused(recipe):
    assert problems(recipe, "regularizers=[{use: kl, weight: 0.1}]") == [
        "algorithm 'adjoint_matching' has the distance to the base in its objective, and applies no regularizers. Leave "
        "`regularizers` out; `reward_scale` sets how far the policy may go."
    ]
