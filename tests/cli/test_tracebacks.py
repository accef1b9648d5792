"""What a user sees when code of a plugin raises: that code, and where all of it is."""

import re

import pytest

from rewardft.cli import main
from rewardft.errors import AuditError, ComponentError
from rewardft.testing import run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny, ./mine.py]
model: {use: tiny, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {lr: 1e-2}
train: {steps: 2, log_every: 1}
"""
PLUGIN = """
import torch
from rewardft import Loss, hookimpl
from torch import nn


def helper(values):
    return values["missing"]


class Deep(nn.Module):
    provides = {"reward_gradient"}

    def forward(self, rollout, batch):
        return helper({})


def nothing(rollout, batch):
    light = rollout.decoded.flatten(1).mean(1)
    return torch.where(light > 2, light, float("nan"))


class Odd:
    def __init__(self, *, give: str = "number"):
        self.give = give

    def losses(self, ctx, batch):
        rollout = ctx.rollout(batch, __import__("rewardft").Plan(stop=ctx.sampler.steps))
        if self.give == "tensor":
            ctx.score(rollout.x0, batch)
        yield Loss({"number": 1.0, "detached": rollout.x0.mean(), "vector": rollout.x0}[self.give], step=True)


@hookimpl
def register_rewards():
    return {"deep": Deep, "nothing": nothing}


@hookimpl
def register_algorithms():
    return {"odd": Odd}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_the_plugins_frames_alone_are_shown_and_all_of_them_are_kept(
    recipe, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "run"
    words = ["run", str(recipe), "--set", "rewards=[{use: deep}]", "--out", str(out)]
    assert main(words) == 1
    shown = capsys.readouterr().err
    files = re.findall(r'File "(.+?)", line \d+, in (\w+)', shown)
    assert files == [(str(tmp_path / "mine.py"), "forward"), (str(tmp_path / "mine.py"), "helper")]
    assert "KeyError: 'missing'" in shown and "a plugin's code raised" in shown
    assert f"the whole traceback is in {out / 'error.txt'}" in shown
    whole = (out / "error.txt").read_text()
    assert "trainer.py" in whole and 'return values["missing"]' in whole
    monkeypatch.setenv("REWARDFT_TRACEBACK", "full")
    assert main([*words[:-1], str(tmp_path / "again")]) == 1
    assert "trainer.py" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("give", "said"),
    [
        ("number", "got float"),
        ("detached", "got shape (), without a gradient: no replay went into it"),
        ("vector", "got shape (2, 3, 8, 8)"),
        ("tensor", "ctx.score takes a Rollout, got Tensor"),
    ],
)
def test_an_algorithm_that_breaks_its_contract_is_told_how(recipe, tmp_path, give, said):
    with pytest.raises(ComponentError) as error:
        run_recipe(recipe, tmp_path / "run", f"algorithm={{use: odd, give: {give}}}")
    assert said in str(error.value)


def test_rewards_that_apply_to_nothing_are_named(recipe, tmp_path):
    with pytest.raises(AuditError) as error:
        run_recipe(recipe, tmp_path / "run", "rewards=[{use: nothing}]")
    assert (
        "no reward applies to any sample of the first step: nothing returned NaN for all of them"
        in str(error.value)
    )
    assert "every gradient is exactly zero" not in str(error.value)


def test_a_run_that_failed_says_so_when_its_folder_is_used_again(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    words = ["run", str(recipe), "--set", "rewards=[{use: deep}]", "--out", str(out)]
    assert main(words) == 1
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err == (
        f"error: {out} already holds a run that failed before it saved a checkpoint; error.txt says why. Once that is "
        f"fixed, start over in it with --resume, or give another folder with --out.\n"
    )
