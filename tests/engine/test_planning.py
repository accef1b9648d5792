"""`rewardft plan`: memory by part, without weights, and the settings that fit."""

import gc

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rewardft.cli import main
from rewardft.cli.planning import parse_size
from rewardft.engine.footprint import Ledger
from rewardft.engine.planning import plan_memory
from rewardft.errors import RewardftError
from rewardft.plugins.resolve import open_recipe
from rewardft.policy import rollout_weights

RECIPE = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 32}
sampler: {use: ddim, steps: 4, eta: 1.0}
data: {use: tiny_blobs, size: 64, batch_size: 16}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 3}
"""


def planned(recipe, *overrides):
    return plan_memory(*open_recipe(recipe, overrides))


def test_the_ledger_counts_storages_and_not_views():
    """Against sums by hand: two matrices of 4 MB and their product; a view and an in-place step add nothing."""
    size = 4 * 1024 * 1024
    with FakeTensorMode(), Ledger() as ledger:
        a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
        c = a @ b
        assert ledger.live == 3 * size
        d = c.t()[::2]
        d.add_(1)
        assert ledger.live == 3 * size
        del c
        gc.collect()
        assert ledger.live == 3 * size  # the view holds it
        del d
        gc.collect()
        assert ledger.live == 2 * size
        with ledger.during("later"):
            torch.exp(a)
    assert ledger.most == {"learn": 3 * size, "later": 3 * size}


def test_what_autograd_keeps_is_counted():
    """exp keeps its result for the backward pass: ten of them hold ten, and one without gradients."""
    size = 4 * 1024 * 1024
    with FakeTensorMode(), Ledger() as ledger:
        x = torch.ones(1024, 1024, requires_grad=True)
        y = x
        for _ in range(10):
            y = y.exp()
        assert ledger.live == 11 * size
        y.sum().backward()
        del y
        gc.collect()
        assert ledger.live == 2 * size  # x and its gradient


def test_parts_are_those_of_the_model(recipe):
    from rewardft.testing.tiny import TinyModel

    plan = planned(recipe)
    base = sum(
        p.numel() for p in TinyModel(prediction="v_prediction", width=32).trainable.parameters()
    )
    assert plan.held["model.trainable"] == pytest.approx(4 * base, rel=0.01)
    trained = plan.held["trained weights"]
    assert plan.held["gradients"] == trained
    # Two moments, and a step counter for each tensor.
    assert 2 * trained < plan.held["optimizer"] < 2.2 * trained + 1024
    assert plan.peak >= sum(plan.held.values()) - trained
    assert {"rollout", "score", "learn"} <= plan.most.keys()


def test_memory_follows_the_micro_batch_and_not_the_trained_steps(recipe):
    whole, one = planned(recipe), planned(recipe, "train.micro_batch=1")
    more = planned(recipe, "algorithm.train_steps=4")
    assert one.most["learn"] < 0.5 * whole.most["learn"]
    # One graph, whatever is trained: what is added are three kept states and outputs of 16 pictures, and the cotangent.
    kept = 8 * 16 * 3 * 8 * 8 * 4
    assert more.most["learn"] < whole.most["learn"] + 2 * kept


@pytest.mark.parametrize(
    "algorithm",
    [
        "{use: drtune, train_steps: 2, early_stop: 2}",
        "{use: draft_lv}",
        "{use: ddpo, group_by: label}",
        "{use: flow_grpo, group_size: 2}",
        "{use: diffusion_nft, group_size: 2}",
    ],
)
def test_other_algorithms_are_followed(recipe, algorithm):
    """Also those that read their statistics, and cut out what applies."""
    plugins = "plugins=[rewardft.testing.tiny, ddpo, grpo, nft]"
    plan = planned(recipe, plugins, f"algorithm={algorithm}")
    assert plan.most["learn"] > sum(plan.held.values())


def test_gradients_of_several_samples_in_one_pass_are_followed(recipe, monkeypatch):
    """Those of all four are kept until the rewards are known, and those of a call meanwhile."""
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    ddpo = ["plugins=[rewardft.testing.tiny, ddpo]", "algorithm={use: ddpo}", "data.batch_size=4"]
    two, one = (planned(recipe, *ddpo, f"train.micro_batch={count}") for count in (2, 1))
    assert two.most["learn"] > sum(two.held.values()) + (4 + 2) * two.held["trained weights"]
    assert 0.5 < one.most["learn"] / two.most["learn"] < 0.8


def test_full_fine_tuning_and_averages_are_parts(recipe):
    plan = planned(recipe, "adapter={kind: full}", "train.ema=0.9")
    assert plan.held["average of the weights"] == plan.held["trained weights"] > 0
    assert plan.held.get("model.trainable", 0) == 0


def test_the_command_names_settings_that_fit(recipe, capsys):
    assert main(["plan", str(recipe)]) == 0
    text = capsys.readouterr().out
    peak = float(text.split("peak: ")[1].split(" MiB")[0])
    assert "trained weights" in text and "settings" not in text
    assert main(["plan", str(recipe), "--device", f"{0.7 * peak:.2f}MiB"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"rewardft run {recipe} --set train.micro_batch=")
    assert main(["plan", str(recipe), "--device", "10GiB"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"rewardft run {recipe}"


def test_what_fits_nowhere_and_what_is_no_size_is_said(recipe, capsys):
    words = ["--set", "data.batch_size=2", "--device", "0.01MiB"]
    assert main(["plan", str(recipe), *words]) != 0
    said = capsys.readouterr()
    assert said.err == (
        "error: nothing that was tried fits 0.01MiB; as it is, replay and update takes the most. "
        "Take smaller pictures, a lower adapter.rank, a base in bf16, or a larger device.\n"
    )
    tried = [line.partition(":")[0] for line in said.out.splitlines() if "train." in line]
    one, checkpointing = "train.micro_batch=1", "train.checkpointing=true"
    assert tried == [
        one,
        checkpointing,
        f"{one} {checkpointing}",
        f"{one} {checkpointing} train.precision=bf16",
    ]
    assert (parse_size("24GiB"), parse_size("1.5 gb")) == (24 * 2**30, 1_500_000_000)
    for text in ("24", "GiB", "0GiB", "24TB"):
        with pytest.raises(RewardftError) as error:
            parse_size(text)
        assert str(error.value) == (
            f"--device: expected a size such as 24GiB, 80GB or 800MiB, got {text!r}"
        )


def test_that_sharding_is_not_counted_is_said(recipe, capsys):
    assert main(["plan", str(recipe)]) == 0
    assert "train.shard" not in capsys.readouterr().out
    assert main(["plan", str(recipe), "--set", "train.shard=true"]) == 0
    assert "train.shard is not counted: the base is counted whole" in capsys.readouterr().out


COUNTED = """
import torch
from torch._subclasses.fake_tensor import FakeTensor

from rewardft import hookimpl


def dark(rollout, batch):
    if isinstance(rollout.decoded, FakeTensor):
        raise RuntimeError("no numbers here")
    return torch.zeros(len(batch))


dark.differentiable = False


@hookimpl
def register_rewards():
    return {"dark": dark}
"""


def test_a_reward_that_needs_numbers_is_left_out_and_named(recipe, capsys):
    """The rest is as with a reward that takes no memory to speak of."""
    (recipe.parent / "dark.py").write_text(COUNTED)
    settings = [
        f"plugins=[rewardft.testing.tiny, ddpo, {recipe.parent / 'dark.py'}]",
        "algorithm={use: ddpo, group_by: label}",
    ]
    with_it, without = (
        planned(recipe, *settings, "rewards=[{use: dark}]"),
        planned(recipe, *settings),
    )
    assert with_it.held == without.held and with_it.most["learn"] == without.most["learn"]
    words = [word for one in (*settings, "rewards=[{use: dark}]") for word in ("--set", one)]
    assert main(["plan", str(recipe), *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "reward dark is not counted: on shapes without numbers it raises RuntimeError: no numbers here"
    )
