"""Averaged weights: the formula, what is evaluated and kept, and that training does not see them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rewardft.engine.ema import Ema
from rewardft.errors import CheckpointError, RecipeError
from rewardft.recipe.recipe import load_recipe
from rewardft.runs.open import evaluate_run, load_trained, open_run
from rewardft.testing import run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny]
seed: 3
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 6, log_every: 1, ema: 0.4}
evaluate: {every: 3, samples: 4}
save: {every: 1, keep: 9}
"""


def raw(folder):
    return load_file(folder / "adapter_model.safetensors")


def averaged_by_hand(out):
    """From the weights in every checkpoint, in float64; the first ones are those that seed 3 gives an adapter."""
    average = {name: value.double() for name, value in start(out).items()}
    for step in range(1, 7):
        now, d = raw(out / "checkpoints" / f"step-{step:08d}"), min(0.4, (1 + step) / (10 + step))
        average = {
            name: d * value + (1 - d) * now[name].double() for name, value in average.items()
        }
    return average


def start(out):
    return {name: value.clone() for name, value in open_run(out).adapter.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def scores(out, step):
    return json.loads((out / "evaluations" / f"step-{step:08d}.json").read_text())["per_sample"]


def test_the_average_is_that_of_the_weights_after_every_step(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    expected, got = averaged_by_hand(out), raw(out / "adapter_ema")
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(got[name].double(), value, rtol=0, atol=1e-7)
    assert not same(got, raw(out / "adapter"))


def test_the_average_is_evaluated_and_training_does_not_see_it(recipe, tmp_path):
    kept = run_recipe(recipe, tmp_path / "kept").folder
    without = run_recipe(recipe, tmp_path / "without", "train.ema=null").folder
    watched = run_recipe(recipe, tmp_path / "watched", "evaluate.weights=raw").folder
    assert (
        same(raw(kept / "adapter"), raw(without / "adapter"))
        and not (without / "adapter_ema").exists()
    )
    assert same(raw(kept / "adapter_ema"), raw(watched / "adapter_ema"))
    assert scores(kept, 0) == scores(without, 0)
    assert scores(watched, 6) == scores(without, 6) != scores(kept, 6)
    assert load_recipe(kept / "recipe.yaml").evaluate.weights == "ema"
    assert load_recipe(without / "recipe.yaml").evaluate.weights == "raw"


def test_a_finished_run_is_evaluated_with_either_weights(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    for overrides, folder in (([], "adapter_ema"), (["evaluate.weights=raw"], "adapter")):
        session = open_run(out, overrides)
        assert load_trained(session, out) == 6
        assert same(session.adapter.state_dict(), raw(out / folder))
    evaluate_run(out)
    table = json.loads((out / "evaluation.json").read_text())["tuned"]["per_sample"]
    assert table.keys() == scores(out, 6).keys()
    for name, values in scores(out, 6).items():
        assert table[name] == pytest.approx(values)


def test_the_average_is_loaded_from_a_checkpoint_where_the_run_did_not_end(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    expected = raw(out / "adapter_ema")
    (out / "adapter_ema" / "step.json").unlink()
    session = open_run(out)
    assert load_trained(session, out) == 6 and same(session.adapter.state_dict(), expected)


def test_a_resumed_run_goes_on_with_the_same_average(recipe, tmp_path):
    whole = run_recipe(recipe, tmp_path / "whole").folder
    half = run_recipe(recipe, tmp_path / "half", "train.steps=3").folder
    assert not same(raw(half / "adapter_ema"), raw(whole / "adapter_ema"))
    run_recipe(recipe, half, resume=True)
    assert same(raw(half / "adapter_ema"), raw(whole / "adapter_ema"))
    assert scores(half, 6) == scores(whole, 6)


def test_an_evaluation_of_the_other_weights_is_not_taken_for_this_one(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run").folder
    before = scores(out, 6)
    summary = run_recipe(recipe, out, "evaluate.weights=raw", resume=True).summary
    assert scores(out, 6) != before
    assert summary["evaluation"][0]["after"] != pytest.approx(
        sum(before["reward/tiny_brightness"]) / 4
    )


def test_a_run_without_an_average_says_so(recipe):
    with pytest.raises(
        RecipeError, match=r"evaluate\.weights: 'ema' needs an average of the weights"
    ):
        load_recipe(recipe, ["train.ema=null", "evaluate.weights=ema"])
    for decay in ("0", "1", "1.5"):
        with pytest.raises(RecipeError, match=r"train.ema"):
            load_recipe(recipe, [f"train.ema={decay}"])


def test_a_checkpoint_without_an_average_says_so(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run", "train.ema=null").folder
    with pytest.raises(CheckpointError, match="no averaged weights are saved in it"):
        load_trained(open_run(out, ["train.ema=0.5", "evaluate.weights=ema"]), out)


def test_full_fine_tuning_is_averaged_too(recipe, tmp_path):
    out = run_recipe(recipe, tmp_path / "run", "adapter.kind=full", "save.keep=1").folder
    one, other = (
        load_file(out / name / "model.safetensors") for name in ("adapter", "adapter_ema")
    )
    assert one.keys() == other.keys() and not same(one, other)


MOVING = """
import torch
from rewardft import Loss, hookimpl


class Moving:
    needs = frozenset()

    def losses(self, ctx, batch):
        (first, *_) = ctx.adapter.parameters
        if ctx.step == 3:
            with torch.no_grad():
                first[0] = 5.0
            ctx.forget(first, torch.arange(len(first)) == 0)
        yield Loss(sum(p.square().sum() for p in ctx.adapter.parameters), step=True)


@hookimpl
def register_algorithms():
    return {"moving": Moving}
"""


def test_the_average_forgets_what_entries_were(recipe, tmp_path):
    """Of an entry that stands for something else from then on, such as a Gaussian that was moved."""
    (tmp_path / "moving.py").write_text(MOVING)
    sets = [f"plugins=[rewardft.testing.tiny, {tmp_path / 'moving.py'}]", "algorithm={use: moving}"]
    sets += ["evaluate.every=0", "optimizer.lr=1e-9", "optimizer.weight_decay=0", "train.steps=4"]
    out = run_recipe(recipe, tmp_path / "run", *sets).folder
    raw, average = (
        load_file(out / name / "adapter_model.safetensors") for name in ("adapter", "adapter_ema")
    )
    assert max(float(value.max()) for value in raw.values()) == pytest.approx(5.0)
    assert all(torch.allclose(average[n], raw[n], rtol=0, atol=1e-4) for n in raw)


def test_the_factor_rises_to_the_decay():
    class Adapter:
        named = {"w": torch.nn.Parameter(torch.zeros(1))}

    ema = Ema(Adapter(), 0.5)
    Adapter.named["w"].data.fill_(1.0)
    seen = []
    for step in range(1, 12):
        ema.weights["w"].zero_()
        ema.update(step)
        seen.append(1.0 - ema.weights["w"].item())
    assert seen == pytest.approx(
        [2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 7 / 16, 8 / 17, 0.5, 0.5, 0.5, 0.5]
    )
