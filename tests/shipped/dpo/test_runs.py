"""Whole runs of the preference algorithms: what must not matter does not, and wrong pairings are
refused before they start."""

import pytest
import torch
from safetensors.torch import load_file

from rewardft.errors import AuditError, RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import check_cut, check_resume, run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.dpo]
seed: 3
model: {use: tiny, prediction: v_prediction, guidance: 2.0, width: 12}
sampler: {use: ddim, steps: 4, eta: 1.0}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: d3po}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1, schedule: cosine, warmup: 2}
train: {steps: 6, log_every: 2}
save: {every: 2, keep: 9}
"""
PAIRS = ["data={use: toy_pairs, size: 10, batch_size: 4}", "rewards=[]"]
ALGORITHMS = {
    "diffusion_dpo": ["algorithm={use: diffusion_dpo, beta: 20}", *PAIRS],
    "online_dpo": ["algorithm={use: online_dpo, beta: 20, group_size: 3, timesteps: 2}"],
    "d3po": ["algorithm={use: d3po, beta: 10, train_steps: 2}"],
    "spin": ["algorithm={use: spin, beta: 20, iteration: 2}", "rewards=[]"],
    "group_preference": ["algorithm={use: group_preference, beta: 20, group_size: 3}"],
    "diffusion_kto": ["algorithm={use: diffusion_kto, beta: 20}", *PAIRS],
}


def weights(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_how_a_step_is_cut_up_does_not_matter(recipe, tmp_path, name):
    """But for KTO, whose reference point is the mean of a batch, and is not accumulated."""
    accumulate = None if name == "diffusion_kto" else 4
    check_cut(recipe, tmp_path, *ALGORITHMS[name], accumulate=accumulate)


@pytest.mark.parametrize("stop", [2, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_resuming_continues_to_the_same_bits(recipe, tmp_path, name, stop):
    """SPIN's opponent of two steps is kept over the checkpoint; the reference of the others does
    not move."""
    check_resume(recipe, tmp_path, *ALGORITHMS[name], stop=stop)


def test_the_opponent_in_a_checkpoint_is_the_policy_of_its_iteration_to_the_bit(recipe, tmp_path):
    """At step 3 of iterations of two, the opponent is the policy after step 2."""
    run = run_recipe(recipe, tmp_path / "run", *ALGORITHMS["spin"], "save.every=1")
    folder = run.folder / "checkpoints"
    memory = torch.load(folder / "step-00000003" / "training.pt", weights_only=True)["context"][
        "memory"
    ]
    policy = load_file(folder / "step-00000002" / "adapter_model.safetensors")
    later = load_file(folder / "step-00000003" / "adapter_model.safetensors")
    opponent = {
        "base_model.model." + n.replace(".default.", "."): v
        for n, v in memory["spin/opponent"].items()
    }
    assert opponent.keys() == policy.keys()
    assert all(torch.equal(opponent[n], policy[n]) for n in policy)
    assert any(not torch.equal(opponent[n], later[n]) for n in policy)


def test_full_fine_tuning_keeps_a_reference_model_for_preferences(recipe, tmp_path):
    full = ["adapter={kind: full}", "optimizer.lr=1e-3", "save.every=0"]
    run = run_recipe(recipe, tmp_path / "run", *ALGORITHMS["diffusion_dpo"], *full)
    assert (
        run.column("loss")[0] == pytest.approx(0.6931472, abs=1e-6)
        and run.column("loss")[-1] < 0.69
    )


def test_bf16_trains_every_tensor(recipe, tmp_path):
    """A reference or opponent call without autograd comes first; its casts may not be reused for
    the policy."""
    for name in ("diffusion_dpo", "spin"):
        run = run_recipe(
            recipe, tmp_path / name, *ALGORITHMS[name], "train.precision=bf16", "save.every=0"
        )
        assert run.column("loss")[0] == pytest.approx(0.6931472, abs=1e-4)
        assert all(torch.tensor(run.column("gradient_norm")) > 1e-4)
        assert all(v.any() for n, v in weights(run).items())


def test_a_reward_without_any_preference_stops_the_run(recipe, tmp_path):
    (tmp_path / "flat.py").write_text(
        "from rewardft import hookimpl\n\n\ndef flat(rollout, batch):\n    return "
        "rollout.x0.flatten(1).sum(1) * 0\n\n\n"
        "@hookimpl\ndef register_rewards():\n    return {'flat': flat}\n"
    )
    plugins = f"plugins=[rewardft.testing.tiny, rewardft_plugins.dpo, {tmp_path}/flat.py]"
    with pytest.raises(AuditError) as error:
        run_recipe(
            recipe, tmp_path / "run", *ALGORITHMS["online_dpo"], plugins, "rewards=[{use: flat}]"
        )
    assert "every gradient is exactly zero" in str(
        error.value
    ) and "The reward is flat at these samples" in str(error.value)


def problems(recipe, *overrides):
    loaded = load_recipe(recipe, list(overrides))
    with pytest.raises(RecipeError) as error:
        resolve(loaded, load_plugins(loaded.plugins, loaded.base))
    return error.value.problems


def test_d3po_with_a_deterministic_sampler_is_refused_with_what_would_do(recipe):
    (problem,) = problems(recipe, "sampler.eta=0.0")
    assert "d3po" in problem and "needs 'log_prob', which sampler 'ddim'" in problem
    assert (
        "Algorithms of the listed plugins that would work here: " in problem
        and "online_dpo" in problem
        and "spin" in problem
    )
    assert (
        "diffusion_dpo" not in problem.partition("would work here")[2]
    )  # there are no pairs either


def test_given_pairs_are_needed_where_they_are_learned_from(recipe):
    for name in ("diffusion_dpo", "diffusion_kto"):
        (problem,) = problems(recipe, f"algorithm={{use: {name}}}")
        assert f"{name!r} needs 'pairs', which data set 'tiny_blobs'" in problem
        assert "Write there use: preference_pairs / toy_pairs." in problem


def test_regularizers_that_would_be_ignored_are_refused(recipe):
    for name in ("diffusion_dpo", "online_dpo", "spin", "diffusion_kto"):
        found = problems(recipe, *ALGORITHMS[name], "regularizers=[{use: kl, weight: 0.1}]")
        assert [p.partition(": ")[2] for p in found] == [
            f"algorithm {name!r} learns from noised samples and visits no step of the sampler, so "
            "the regularizers would never be applied. Leave `regularizers` out; `beta` is what "
            "keeps the policy near the reference."
        ]


def test_ranking_without_rewards_is_refused(recipe):
    for name in ("online_dpo", "d3po"):
        found = problems(recipe, *ALGORITHMS[name], "rewards=[]")
        assert found[-1].endswith(
            f"algorithm {name!r} ranks its samples by the recipe's rewards, and the recipe lists "
            "none."
        )
