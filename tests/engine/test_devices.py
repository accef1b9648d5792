"""Recipes of all kinds on a pretended device: no operation mixes devices, and the host waits only where it must."""

import collections
import json
import re
from pathlib import Path

import pytest
import torch

from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from tests import pretended, processes
from tests.bench import line_of

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
pytestmark = pytest.mark.skipif(bool(pretended.obstacle()), reason=str(pretended.obstacle()))

SHORT = ["train.steps=3", "train.log_every=100", "evaluate.every=0", "save.every=0"]
SHORT += ["evaluate.samples=4", "evaluate.batch_size=4"]
# A recipe or more for each plugin and each family of algorithms; those for published weights have tiny ones.
FAST = {
    "toy_draft": ["data.batch_size=2"],
    "toy_draft_lv": ["data.batch_size=2"],
    "toy_refl": ["data.batch_size=2"],
    "toy_ddpo": ["data.batch_size=4"],
    "toy_dpok": ["data.batch_size=4"],
    "toy_flow_grpo": ["data.batch_size=1"],
    "toy_diffusion_dpo": ["data.batch_size=2"],
    "toy_online_dpo": ["data.batch_size=2"],
    "toy_diffusion_nft": ["data.batch_size=1"],
    "toy_adjoint_matching": ["data.batch_size=2"],
    "toy_leap_align": ["data.batch_size=2"],
    "toy_srpo": ["data.batch_size=2"],
    "digits_dance_grpo": ["data.batch_size=2"],
    "posert_mini": ["data.batch_size=2", "evaluate.data={split: val, limit: 4}"],
    "adhmr_mini": ["data.batch_size=4", "data.hypotheses=2", "evaluate.samples_per_item=3"],
}
# What the host waits for in each optimizer step, and what it copies to the device, by place: at most so often in the
# recipes above (two or three scorings a step in some), and why.
BATCH = "the batch: its columns, once"
FINITE = (
    "samples, before a reward sees them, or it would be blamed; slopes, which are traced at once"
)
SCHEDULE = "the schedule's table, a few kilobytes for each noising"
PROMPTS = "statistics of each prompt are made on the host: four reads and a copy for a batch of any number of prompts"
HELD = {
    ("copy", "rewardft/types.py move"): (6, BATCH),
    ("copy", "rewardft/noise.py draw"): (
        23,
        "drawn on the CPU, so that devices agree; page-locked, nothing waits",
    ),
    ("copy", "rewardft/noise.py uniform"): (2, "the same, a number for each sample"),
    ("copy", "rewardft/algorithms/denoising.py forward_process"): (2, SCHEDULE),
    ("copy", "rewardft/algorithms/advantages.py prompt_advantages"): (1, PROMPTS),
    ("wait", "rewardft/algorithms/advantages.py prompt_advantages"): (2, PROMPTS),
    ("wait", "rewardft/algorithms/advantages.py fill_by_prompt"): (2, PROMPTS),
    ("wait", "rewardft/engine/optimizer.py clip"): (
        1,
        "one check of all gradients, before the weights change",
    ),
    ("wait", "rewardft/policy/finite.py is_surely_finite"): (11, FINITE),
    ("wait", "rewardft/policy/finite.py check_samples"): (1, "of other samples than one tensor"),
    ("wait", "rewardft/policy/finite.py decode_and_check"): (1, "of other samples than one tensor"),
    ("wait", "rewardft/policy/reward_values.py check_value"): (
        3,
        "a reward that is inf stops the run at that reward",
    ),
    ("wait", "plugins/ddpo/value.py advantage"): (
        2,
        "the head learns from the samples that have a reward",
    ),
    ("wait", "plugins/posert/generation.py generate"): (
        10,
        "the answers end when all have; once a token",
    ),
    ("wait", "plugins/posert/network.py hidden"): (
        16,
        "transformers looks whether a mask hides anything",
    ),
    ("wait", "plugins/posert/text.py decode_texts"): (2, "answers are judged as texts"),
    ("copy", "plugins/posert/model.py encode"): (2, "prompts are tokenized on the host"),
    ("copy", "plugins/posert/retriever.py text"): (
        2,
        "answers are read on the host, as numbers of words",
    ),
    ("copy", "plugins/posert/rewards.py __call__"): (
        1,
        "the form of an answer is judged on the host",
    ),
    ("wait", "plugins/digits/model.py encode"): (1, "labels of a user's data must be digits"),
}
AUDIT = "rewardft/engine/audit.py"  # at the start, until a step has a gradient


def run_on_the_device(folder, jobs):
    """What became of each job, `{name: {"error", "steps"}}`; all of them in one process of its own."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    done = processes.Running(pretended.run_jobs, folder).wait(1200)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text())


def places(steps):
    """{(kind, 'file function'): the most in any step}."""
    most = collections.Counter()
    for step in steps:
        here = collections.Counter()
        for kind, place, count in (entry for entry in step if not entry[1].startswith(AUDIT)):
            here[kind, re.sub(r":\d+ ", " ", place)] += count
        most |= here
    return most


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("device")
    jobs = [[name, f"{RECIPES}/{name}.yaml", [*SHORT, *sets]] for name, sets in FAST.items()]
    return folder, run_on_the_device(folder, jobs)


@pytest.mark.parametrize("name", FAST)
def test_a_recipe_runs_on_another_device_and_ends_in_the_same_weights(name, found, tmp_path):
    folder, results = found
    assert results[name]["error"] is None, results[name]["error"]
    own = run_recipe(RECIPES / f"{name}.yaml", tmp_path / "cpu", *SHORT, *FAST[name])
    one, other = (weights(path) for path in (own.folder, folder / name))
    worst = max(float((one[n] - other[n]).abs().max()) for n in one)
    # The CPU has a kernel of its own for attention (with `SDPBackend.MATH` it differs from itself as much), and Adam makes
    # a step of the size of the learning rate out of a gradient that is nothing but rounding.
    rate = load_recipe(RECIPES / f"{name}.yaml").optimizer.lr
    assert worst < (1e-6 if name.startswith("toy") else 0.05 * rate), worst


def weights(run):
    from safetensors.torch import load_file

    (path,) = (run / "adapter").glob("*model.safetensors")
    return load_file(path)


def test_the_host_waits_only_at_places_on_the_list(found):
    _, results = found
    most = collections.Counter()
    for result in results.values():
        most |= places(result["steps"])
    unlisted = {key: count for key, count in most.items() if count > HELD.get(key, (0, ""))[0]}
    lines = {entry[1] for result in results.values() for step in result["steps"] for entry in step}
    assert unlisted == {}, "\n".join(sorted(lines))
    assert {key for key in HELD if key not in most} == set()


PLANTED = """
import torch
from rewardft import hookimpl


def planted(rollout, batch):
    target = torch.zeros(3)
    return (rollout.decoded.mean((2, 3)) - target).square().sum(1)


@hookimpl
def register_rewards():
    return {"planted": planted}
"""


def test_a_tensor_left_on_the_cpu_is_found_with_its_line(tmp_path):
    plugin = tmp_path / "planted.py"
    plugin.write_text(PLANTED)
    sets = [*SHORT, f"plugins=[toy, {plugin}]", "rewards=[{use: planted}]", "data.batch_size=2"]
    jobs = [["planted", f"{RECIPES}/toy_draft.yaml", sets]]
    error = run_on_the_device(tmp_path, jobs)["planted"]["error"]
    here = f"{plugin}:{line_of(plugin, 'rollout.decoded')} planted"
    assert f"expected all tensors on one device at {here}" in error
    assert "on pretend:0, (3,) on cpu" in error


TURNING = """
import torch
from rewardft import hookimpl


def turning(rollout, batch):
    pairs = rollout.decoded.unflatten(-1, (-1, 2)).contiguous()
    angle = torch.linspace(0, 3, pairs.shape[-2], device=pairs.device)
    turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angle), angle)
    return (turned.real - 2 * turned.imag).flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"turning": turning}
"""


def test_the_gradient_of_a_rotation_by_complex_numbers_is_the_same(tmp_path):
    # It multiplies by a conjugate, which is a view with a mark: without it both turn the same way.
    plugin = tmp_path / "turning.py"
    plugin.write_text(TURNING)
    sets = [*SHORT, f"plugins=[toy, {plugin}]", "rewards=[{use: turning}]", "data.batch_size=2"]
    path = RECIPES / "toy_draft.yaml"
    found = run_on_the_device(tmp_path, [["turning", str(path), sets]])["turning"]
    assert found["error"] is None, found["error"]
    own = run_recipe(path, tmp_path / "cpu", *sets)
    one, other = weights(own.folder), weights(tmp_path / "turning")
    assert all(torch.allclose(one[n], other[n], rtol=0, atol=1e-6) for n in one)
    assert max(float(value.abs().max()) for value in one.values()) > 1e-3
