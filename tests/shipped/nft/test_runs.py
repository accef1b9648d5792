"""Whole runs of DiffusionNFT: resume, cutting up, refusals, and two processes against one."""

import json
import textwrap

import pytest
import torch
from safetensors.torch import load_file

from rewardft.errors import RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import check_cut, check_resume, check_same_run, run_recipe
from rewardft.testing.runs import ROUNDING
from tests import processes

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.nft, rewardft_plugins.dpo]
seed: 3
model: {use: tiny, prediction: flow, width: 12}
sampler: {use: flow_euler, steps: 4}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: diffusion_nft, group_size: 3, timesteps: 2, advantage_clip: 2.0, reference_weight: 0.1}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1, schedule: cosine, warmup: 2}
train: {steps: 6, log_every: 2}
save: {every: 2, keep: 9}
"""
RUNS = {
    "diffusion_nft": [],
    "online_dpo": ["algorithm={use: online_dpo, beta: 20, group_size: 3, timesteps: 2}"],
    "spin": ["algorithm={use: spin, beta: 20, iteration: 2}", "rewards=[]"],
    "diffusion_kto": [
        "algorithm={use: diffusion_kto, beta: 20}",
        "data={use: toy_pairs, size: 10, batch_size: 4}",
        "rewards=[]",
    ],
}


def test_how_a_batch_is_cut_up_does_not_matter(recipe, tmp_path):
    check_cut(recipe, tmp_path)


@pytest.mark.parametrize("schedule", ["slow", "fast"])
@pytest.mark.parametrize("stop", [2, 4])
def test_resuming_continues_to_the_same_bits(recipe, tmp_path, stop, schedule):
    check_resume(recipe, tmp_path, f"algorithm.schedule={schedule}", stop=stop)


def test_the_old_policy_in_a_checkpoint_is_the_moving_average_of_the_policies(recipe, tmp_path):
    """Recomputed from the policies in the checkpoints: old_s = d_s old_{s-1} + (1 - d_s) theta_s, d_s = 0.001 s."""
    run = run_recipe(recipe, tmp_path / "run", "save.every=1")
    folder, old = run.folder / "checkpoints", None
    for step in range(
        1, 6
    ):  # the checkpoint after step s + 1 holds the old policy that step s + 1 sampled with
        policy = load_file(folder / f"step-{step:08d}" / "adapter_model.safetensors")
        decay = 0.001 * step
        memory = torch.load(folder / f"step-{step + 1:08d}" / "training.pt", weights_only=True)[
            "context"
        ]["memory"]
        now = {
            "base_model.model." + n.replace(".default.", "."): v
            for n, v in memory["nft/old"].items()
        }
        if old is not None:
            for name in policy:
                expected = decay * old[name] + (1 - decay) * policy[name]
                assert torch.allclose(now[name], expected, rtol=1e-6, atol=1e-8)
                assert not torch.equal(now[name], policy[name])
        old = now


def problems(recipe, *overrides):
    loaded = load_recipe(recipe, list(overrides))
    with pytest.raises(RecipeError) as error:
        resolve(loaded, load_plugins(loaded.plugins, loaded.base))
    return [problem.partition(": ")[2] for problem in error.value.problems]


def test_what_would_be_ignored_or_is_missing_is_refused(recipe):
    assert problems(recipe, "regularizers=[{use: kl, weight: 0.1}]") == [
        "algorithm 'diffusion_nft' learns from noised samples and visits no step of the sampler, so the regularizers "
        "would never be applied. Leave `regularizers` out; `reference_weight` pulls to the reference."
    ]
    assert problems(recipe, "rewards=[]") == [
        "algorithm 'diffusion_nft' weighs its samples by the recipe's rewards, and the recipe lists none."
    ]


@pytest.fixture(scope="module")
def in_two_processes(tmp_path_factory):
    """Every run in two gloo processes of half the batch, started once."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.yaml").write_text(textwrap.dedent(RECIPE))
    jobs = [
        (name, [s.replace("batch_size: 4", "batch_size: 2") for s in sets])
        for name, sets in RUNS.items()
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    processes.run_ranks(carry_out_jobs, folder)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(in_two_processes, tmp_path, name):
    """Group statistics, pair selection and reference points are those of the whole batch."""
    from rewardft.testing.recipes import Finished, read_steps

    one = run_recipe(in_two_processes / "recipe.yaml", tmp_path / "one", *RUNS[name])
    out = in_two_processes / f"two-{name}"
    check_same_run(one, Finished(out, {}, read_steps(out)), ROUNDING)


def carry_out_jobs(folder):
    """One of the processes: every job in turn."""
    torch.set_num_threads(1)
    for job, sets in json.loads((folder / "jobs.json").read_text()):
        halves = [] if "data=" in str(sets) else ["data.batch_size=2"]
        run_recipe(folder / "recipe.yaml", folder / f"two-{job}", *sets, *halves)
