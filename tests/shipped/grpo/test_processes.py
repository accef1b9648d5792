"""Two processes with half of the prompts each take the same steps as one."""

import pytest
import torch
from safetensors.torch import load_file

from rewardft.testing import run_recipe
from rewardft.testing.recipes import read_steps
from tests import processes

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.ddpo, rewardft_plugins.grpo]
seed: 3
model: {use: tiny, prediction: flow, guidance: 2.0, width: 12}
sampler: {use: flow_sde, steps: 4}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
regularizers: [{use: kl, form: gaussian, weight: 0.001}]
algorithm: {use: flow_grpo, group_size: 4, updates: 2}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1}
train: {steps: 6, log_every: 2}
"""
RUNS = {
    "flow_grpo": [],
    "mix_grpo": ["algorithm={use: mix_grpo, group_size: 4, window: 2, shift_every: 2}"],
    "ddpo": ["algorithm={use: ddpo, group_by: group, min_count: 3}"],
    "dpok": ["algorithm={use: dpok, value_head: true, inner_epochs: 2}"],
    "one_pass": [
        "algorithm={use: ddpo, group_by: group, min_count: 3}",
        "regularizers=[]",
        "train.micro_batch=1",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.yaml").write_text(RECIPE)
    processes.run_ranks(run_half, folder)
    return folder


def run_half(folder):
    """One of the two processes: the same runs, with half of the batch."""
    torch.set_num_threads(1)
    for name, overrides in RUNS.items():
        run_recipe(folder / "recipe.yaml", folder / f"two-{name}", *overrides, "data.batch_size=2")


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_statistics_of_groups_and_prompts_span_processes(folder, name):
    one, other = (
        run_recipe(folder / "recipe.yaml", folder / f"one-{name}", *RUNS[name]),
        folder / f"two-{name}",
    )
    steps = read_steps(other)
    assert len(steps) == 6
    for key in ("loss", "reward", "gradient_norm", "ratio"):
        expected, got = one.column(key), [s[key] for s in steps if key in s]
        assert len(got) == len(expected) > 0 and torch.allclose(
            torch.tensor(got), torch.tensor(expected), rtol=1e-4, atol=5e-6
        ), key
    mine, theirs = (
        load_file(f / "adapter" / "adapter_model.safetensors") for f in (one.folder, other)
    )
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in mine) < 2e-4
