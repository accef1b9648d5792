"""Held-out evaluation: its own sampler, the distance from the reference, adapter strengths, samples side by side."""

import json

import pytest
import torch

from rewardft.algorithms.regularizers import step_distance
from rewardft.cli import main
from rewardft.engine.session import build_session, run_evaluation
from rewardft.errors import ComponentError, RecipeError
from rewardft.evaluation.evaluate import Evaluation, compare, evaluate
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.policy.batches import evaluation_batches
from rewardft.recipe.recipe import load_recipe
from rewardft.runs.open import evaluate_run, open_run
from rewardft.testing import run_recipe
from rewardft.types import Transition

RECIPE = """\
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 3e-2}
train: {steps: 4}
evaluate:
  samples: 6
  every: 4
"""


def evaluation(out, step):
    return Evaluation.from_json(
        json.loads((out / "evaluations" / f"step-{step:08d}.json").read_text())
    )


# -- evaluate.sampler ------------------------------------------------------------------------------------------------


def test_runs_that_train_on_other_samplers_are_evaluated_on_the_same(recipe, tmp_path):
    """The base's values are those of a run that trains on that sampler, bit by bit, and so comparable with them."""
    plain = run_recipe(recipe, tmp_path / "plain", "sampler={use: ddim, steps: 5}", "train.steps=1")
    sets = ["sampler={use: ddim, steps: 3, eta: 1.0}", "evaluate.sampler={use: ddim, steps: 5}"]
    noisy = run_recipe(recipe, tmp_path / "noisy", *sets, "train.steps=1")
    own = run_recipe(recipe, tmp_path / "own", sets[0], "train.steps=1")
    base, same, other = (evaluation(run.folder, 0) for run in (plain, noisy, own))
    assert same.per_sample == base.per_sample and same.settings == base.settings
    assert all(row.difference == 0 for row in compare(base, same))
    assert other.per_sample != base.per_sample
    assert other.settings["sampler"] == {"use": "ddim", "steps": 3, "eta": 1.0}
    rows = evaluate_run(noisy.folder).rows
    assert rows[0].before == pytest.approx(sum(base.per_sample["reward/tiny_brightness"]) / 6)


def test_a_wrong_sampler_of_the_evaluation_is_reported_with_its_line(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + "  sampler:\n    use: ddim\n    setps: 3\n")
    with pytest.raises(RecipeError) as error:
        run_recipe(path, tmp_path / "run")
    assert error.value.problems == [
        f"{path}:15: sampler 'ddim' has no option 'setps'. Did you mean 'steps'?"
    ]
    path.write_text(RECIPE + "  sampler: ddim\n")
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert error.value.problems == [
        f"{path}:13: evaluate.sampler: expected a mapping or null, got 'ddim' (text); write {{use: ddim}}."
    ]


def test_show_tells_the_evaluations_sampler_from_the_other(recipe, capsys):
    assert (
        main(["show", str(recipe), "--no-load", "--set", "evaluate.sampler={use: ddpm, steps: 7}"])
        == 0
    )
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["evaluation's", "sampler", "ddpm", "DDPM"] in [row[:4] for row in rows]
    assert ["evaluation's", "sampler", "'ddpm'", "steps", "7"] in rows
    assert ["sampler", "'ddim'", "steps", "3"] in rows


# -- evaluate.kl -----------------------------------------------------------------------------------------------------


def perturbed(path, tmp_path, *overrides):
    """A session whose adapter is not zero, and the samples of its evaluation."""
    recipe = load_recipe(path, overrides)
    plugins = load_plugins(recipe.plugins, recipe.base)
    session = build_session(recipe, resolve(recipe, plugins), torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    for parameter in session.adapter.parameters:
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return session


def visits(session):
    """(states, tuned outputs, reference outputs) of every step of the chain, written out: no replay, no reference."""
    ctx = session.evaluation_context()
    (batch,) = evaluation_batches(session.resolved.eval_dataset.build(), 6, 6)
    noise, cond = ctx.noise(batch), ctx.encode(batch)
    state, rows = noise.draw("initial", (3, 8, 8)), []
    with torch.no_grad():
        for k in range(ctx.sampler.steps):
            t = torch.full((6,), ctx.sampler.timesteps[k])
            new = session.model.denoise(state, t, cond)
            with session.adapter.disabled():
                old = session.model.denoise(state, t, cond)
            rows.append((state, new, old))
            state = ctx.sampler.transition(k, state, new, noise).next
    return ctx, rows, noise


def test_the_kl_of_a_stochastic_sampler_is_that_of_its_densities(recipe, tmp_path):
    """By torch.distributions, step by step; the last step of this schedule draws no noise and is left out."""
    session = perturbed(
        recipe, tmp_path, "evaluate.sampler={use: ddim, steps: 4, eta: 1.0}", "evaluate.kl=true"
    )
    ctx, rows, noise = visits(session)
    total, left_out = torch.zeros(6), []
    for k, (state, new, old) in enumerate(rows):
        a, b = (ctx.sampler.transition(k, state, output, noise) for output in (new, old))
        if a.std == 0:
            left_out.append(k)
            continue
        p, q = (torch.distributions.Normal(step.mean, step.std) for step in (a, b))
        total += torch.distributions.kl_divergence(p, q).flatten(1).mean(1)
    found = run_evaluation(session, 6)
    assert set(found.per_sample) == {"reward/tiny_brightness", "kl/gaussian"}
    assert torch.tensor(found.per_sample["kl/gaussian"]) == pytest.approx(total, rel=1e-4)
    assert left_out == [3] and total.min() > 1e-4


def test_the_kl_of_a_deterministic_sampler_is_a_difference_of_noise_predictions(recipe, tmp_path):
    """By hand from v: epsilon = sigma x + alpha v, so their difference is alpha times that of the outputs."""
    session = perturbed(recipe, tmp_path, "evaluate.kl=true")
    ctx, rows, _ = visits(session)
    alphas = [ctx.sampler.schedule.level(k)[0] for k in range(3)]
    terms = [
        (alpha * (new - old)).square().flatten(1).mean(1)
        for alpha, (_, new, old) in zip(alphas, rows)
    ]
    found = run_evaluation(session, 6).per_sample["kl/epsilon_mse"]
    assert torch.tensor(found) == pytest.approx(torch.stack(terms).mean(0), rel=1e-4)


def test_a_sampler_without_noise_predictions_is_compared_by_its_outputs():
    new, old = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    form, value = step_distance(Transition(new, output=new), Transition(new, output=old))
    assert form == "output_mse" and value == pytest.approx(((new - old) ** 2).mean((1, 2, 3)))
    with pytest.raises(ComponentError) as error:
        step_distance(Transition(new), Transition(new))
    assert str(error.value) == (
        "evaluate.kl needs a sampler whose steps have a density, a noise prediction or a network output, and this one's "
        "have none. Leave evaluate.kl out, or name another sampler in evaluate.sampler."
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_base_model_has_no_divergence_however_it_is_evaluated(recipe, tmp_path, eta):
    """Before training, and with the adapter switched off around the evaluation, which switches it off itself."""
    session = perturbed(
        recipe, tmp_path, f"sampler={{use: ddim, steps: 3, eta: {eta}}}", "evaluate.kl=true"
    )
    with session.adapter.disabled():
        base = run_evaluation(session, 6)
    assert base.per_sample["kl/gaussian" if eta else "kl/epsilon_mse"] == [0.0] * 6
    session.adapter.scale(0.0)
    assert run_evaluation(session, 6).per_sample == base.per_sample


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_kl_adds_reference_calls_alone_and_changes_no_value(recipe, tmp_path, kind):
    """Full fine-tuning keeps a reference for it."""
    sets = [f"adapter={{kind: {kind}, rank: 2}}", "evaluate.batch_size=4", "optimizer.lr=1e-3"]
    run = run_recipe(recipe, tmp_path / "run", *sets, "evaluate.kl=true")
    without = run_recipe(recipe, tmp_path / "without", *sets)
    before, after, alone = (
        evaluation(run.folder, 0),
        evaluation(run.folder, 4),
        evaluation(without.folder, 4),
    )
    assert after.per_sample["reward/tiny_brightness"] == alone.per_sample["reward/tiny_brightness"]
    assert (
        before.per_sample["kl/epsilon_mse"] == [0.0] * 6
        and min(after.per_sample["kl/epsilon_mse"]) > 0
    )
    session = open_run(run.folder)
    ctx = session.evaluation_context()
    evaluate(ctx, session.resolved.eval_dataset.build(), {}, 6, 4, kl=True)
    assert ctx.policy.forwards == 2 * (3 + 3), (
        "two batches: three steps and three reference calls each"
    )


def test_asking_for_the_kl_alone_turns_the_evaluation_on(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("  every: 4\n", ""))
    run = run_recipe(path, tmp_path / "run", "evaluate.kl=true", "train.steps=1")
    assert {row["name"] for row in run.summary["evaluation"]} >= {
        "kl/epsilon_mse",
        "reward/tiny_brightness",
    }
    assert run_recipe(path, tmp_path / "off", "train.steps=1").summary["evaluation"] == []
