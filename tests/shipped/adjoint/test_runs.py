"""Whole runs of adjoint matching: resume, cutting up, and the pairings that are refused."""

import pytest

from rewardft.errors import RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import check_cut, check_resume, run_recipe

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


def test_how_a_step_is_cut_up_does_not_matter(recipe, tmp_path):
    """Without the mask, whose threshold is a running mean over batches."""
    check_cut(recipe, tmp_path, "algorithm.mask_quantile=null", accumulate=4)


@pytest.mark.parametrize("stop", [2, 4])
def test_resuming_continues_to_the_same_bits_with_the_mask(recipe, tmp_path, stop):
    whole = check_resume(recipe, tmp_path, stop=stop)
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
