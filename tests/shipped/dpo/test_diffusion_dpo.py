"""Diffusion-DPO: the loss and its gradient against a hand-written float64 reference, and what a pair shares."""

import math
from dataclasses import replace

import pytest
import torch
from rewardft_plugins.dpo import diffusion_dpo as module
from rewardft_plugins.dpo.diffusion_dpo import DiffusionDPO, preference_logit

from rewardft.errors import ComponentError
from rewardft.testing import check_algorithm
from tests.gradients import at_initialisation, relative_error, run_backward, run_losses
from tests.shipped.dpo.cases import (
    PREDICTIONS,
    context,
    epsilon_hat,
    gradients,
    pairs,
    schedule,
    two_models,
)


def by_hand(ctx, batch, beta, kind, space):
    """The card's formula, pair by pair, on two separate models, sharing no code with the plugin."""
    policy, reference = two_models(ctx)
    noise = ctx.noise(batch)
    epsilon = noise.draw("dpo/noise", (3, 8, 8))
    t, alpha, sigma = schedule(ctx, noise.uniform("dpo/timestep"))
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(batch)):
        one = slice(i, i + 1)
        error = {}
        for name in ("winner", "loser"):
            x0 = (batch[name][one].clamp(0.02, 0.98).logit() / 2).double()
            x = alpha[one] * x0 + sigma[one] * epsilon[one]
            for who, model in (("theta", policy), ("ref", reference)):
                out = model.denoise(x, t[one], {"label": batch["label"][one]})
                if space == "epsilon":
                    out, target = epsilon_hat(kind, x, out, alpha[one], sigma[one]), epsilon[one]
                else:
                    target = {
                        "epsilon": epsilon[one],
                        "v_prediction": alpha[one] * epsilon[one] - sigma[one] * x0,
                        "sample": x0,
                        "flow": epsilon[one] - x0,
                    }[kind]
                error[name, who] = ((target - out) ** 2).mean()
        model_diff = error["winner", "theta"] - error["loser", "theta"]
        ref_diff = error["winner", "ref"] - error["loser", "ref"]
        total = total - torch.log(torch.sigmoid(-0.5 * beta * (model_diff - ref_diff)))
    (total / len(batch)).backward()
    assert all(p.grad is None for p in reference.trainable.parameters())
    return float(total.detach()) / len(batch), gradients(policy)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_loss_is_log_2_at_initialisation(kind):
    ctx = at_initialisation(context(kind))
    loss, _ = run_losses(ctx, DiffusionDPO(), pairs())
    assert loss == pytest.approx(math.log(2), abs=1e-12)
    records = ctx.take_records()
    assert records["implicit_accuracy"].tolist() == [1.5, 3.0]  # undecided counts one half
    assert records["implicit_margin"].tolist() == [0.0, 3.0]


@pytest.mark.parametrize("space", ["epsilon", "output"])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_loss_and_gradient_equal_the_formula_on_two_separate_models(kind, space):
    ctx, batch, beta = context(kind), pairs(), 3.0
    loss, ours = run_losses(ctx, DiffusionDPO(beta=beta, space=space), batch)
    expected, theirs = by_hand(ctx, batch, beta, kind, space)
    assert loss == pytest.approx(expected, rel=1e-9) and abs(loss - math.log(2)) > 1e-6
    assert relative_error(ours, theirs) < 1e-9


def test_with_an_epsilon_network_both_spaces_are_one():
    one, other = (
        run_losses(context(), DiffusionDPO(beta=3.0, space=space), pairs())
        for space in ("epsilon", "output")
    )
    assert one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1]))


def seen_by_the_network(ctx, algorithm, batch):
    """Timesteps and recovered noise of every call, rows as the network saw them."""
    calls, original = [], ctx.policy.model.denoise

    def denoise(x, t, cond):
        calls.append((x.detach(), t, cond["label"]))
        return original(x, t, cond)

    ctx.policy.model.denoise = denoise
    list(run_backward(algorithm.losses(ctx, batch)))
    return calls


def assert_pairs_share_timestep_and_noise(calls, batch):
    winner, loser = (
        (batch[name].clamp(0.02, 0.98).logit() / 2).double() for name in ("winner", "loser")
    )
    for x, t, _ in calls:
        assert torch.equal(t[0::2], t[1::2])
        a = context().policy.scheduler.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        clean = torch.stack([winner, loser], 1).flatten(0, 1)
        noise = (x - a.sqrt() * clean) / (1 - a).sqrt()
        assert torch.allclose(noise[0::2], noise[1::2], atol=1e-9)
        assert (noise[0] - noise[2]).abs().max() > 0.1  # each pair has its own


def test_winner_and_loser_share_timestep_and_noise():
    batch = pairs()
    calls = seen_by_the_network(context(), DiffusionDPO(beta=3.0), batch)
    assert len(calls) == 2  # reference and policy, winners and losers stacked
    assert_pairs_share_timestep_and_noise(calls, batch)


def test_the_check_above_fails_for_halves_with_ids_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "twice", lambda batch: batch.repeat(2))
    batch = pairs()
    calls = seen_by_the_network(context(), DiffusionDPO(beta=3.0), batch)
    with pytest.raises(AssertionError):
        assert_pairs_share_timestep_and_noise(calls, batch)


def test_a_dropped_condition_is_dropped_for_both_halves_and_for_the_reference():
    batch = pairs(16)
    calls = seen_by_the_network(context(), DiffusionDPO(beta=3.0, condition_dropout=0.5), batch)
    for _, _, label in calls:
        assert torch.equal(label[0::2], label[1::2]) and torch.equal(label, calls[0][2])
    dropped = calls[0][2][0::2] == 4
    assert 0 < dropped.sum() < 16
    assert torch.equal(calls[0][2][0::2][~dropped], batch["label"][~dropped])


def test_swapping_winner_and_loser_flips_the_sign_of_inside():
    batch = pairs()
    swapped = replace(
        batch, columns={**batch.columns, "winner": batch["loser"], "loser": batch["winner"]}
    )
    margins = []
    for given in (batch, swapped):
        ctx = context()
        run_losses(ctx, DiffusionDPO(beta=3.0), given)
        margins.append(ctx._records["implicit_margin"])
    one, other = (torch.cat(m) for m in margins)
    assert torch.allclose(one, -other, rtol=1e-12) and one.abs().min() > 1e-6


def test_the_logit_is_the_cards():
    policy, reference = torch.tensor([0.4, 0.9, 0.2, 0.1]), torch.tensor([0.5, 0.7, 0.2, 0.3])
    expected = [-0.5 * 8 * ((0.4 - 0.9) - (0.5 - 0.7)), -0.5 * 8 * ((0.2 - 0.1) - (0.2 - 0.3))]
    assert preference_logit(policy, reference, beta=8.0).tolist() == pytest.approx(
        expected, rel=1e-6
    )


def test_the_reference_is_another_policy_and_stays_where_it_is():
    """Trained on, the loss leaves log 2; the reference's errors are those of the untouched base model."""
    ctx, batch = context(), pairs()
    base = at_initialisation(context())
    at = module.add_noise(
        ctx, module.twice(batch), torch.cat([batch["winner"], batch["loser"]]).double(), "dpo"
    )
    mine, reference = module.squared_error(ctx, at), module.reference_error(ctx, at)
    assert torch.allclose(reference, module.squared_error(base, at), rtol=1e-12)
    assert (
        (mine - reference).abs().min() > 1e-6 and mine.requires_grad and not reference.requires_grad
    )
    assert not any(layer.disable_adapters for layer in ctx.adapter.layers)


def test_the_promises():
    """Micro-batches hold whole pairs."""
    make = lambda size: context(micro_batch=size)
    check_algorithm(DiffusionDPO(beta=3.0), make, pairs(5), micro_batches=(1, 2, 4))
    ctx = make(4)
    run_losses(ctx, DiffusionDPO(beta=3.0), pairs(5))
    assert ctx.policy.forwards == 2 * 3


def test_one_call_each_for_policy_and_reference():
    ctx = context()
    run_losses(ctx, DiffusionDPO(beta=3.0), pairs())
    assert (ctx.policy.forwards, ctx.policy.backwards) == (2, 1)


def test_adapter_dropout_is_active_for_the_policy_alone():
    ctx = context()
    modes = []
    ctx.adapter.train_mode = modes.append
    run_losses(ctx, DiffusionDPO(beta=3.0), pairs())
    assert modes == [False, False, True, False]  # reference, then policy


@pytest.mark.parametrize("kind", ["epsilon", "flow"])
def test_guidance_has_no_part_in_the_loss_and_is_back_afterwards(kind):
    """A guided output is no prediction of the noise that was added."""
    guided, plain = context(kind, guidance=4.0), context(kind)
    loss, gradient = run_losses(guided, DiffusionDPO(beta=3.0), pairs())
    expected, bare = run_losses(plain, DiffusionDPO(beta=3.0), pairs())
    assert loss == expected and relative_error(gradient, bare) == 0.0
    assert guided.policy.model.guidance == 4.0
    with pytest.raises(ZeroDivisionError), guided.policy.unguided():
        assert guided.policy.model.guidance == 1.0
        1 / 0
    assert guided.policy.model.guidance == 4.0


def test_bad_options_are_refused():
    with pytest.raises(ComponentError, match=r"^beta must be above 0, got -1.0$"):
        DiffusionDPO(beta=-1.0)
    with pytest.raises(
        ComponentError, match=r"^condition_dropout must be within \[0, 1\], got 1.5$"
    ):
        DiffusionDPO(condition_dropout=1.5)


def test_a_model_that_cannot_encode_given_images_is_named():
    ctx = context()
    ctx.policy.model = type("Latent", (), {"encode": lambda self, batch: None})()
    with pytest.raises(ComponentError) as error:
        list(DiffusionDPO().losses(ctx, pairs()))
    assert str(error.value) == (
        "Latent has no method `clean(batch)`, which turns the images of a data set into clean samples; algorithms that "
        "learn from given images need it."
    )
