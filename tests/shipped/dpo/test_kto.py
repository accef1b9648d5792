"""Diffusion-KTO: loss and gradient against the formula on two separate models."""

import pytest
import torch
from rewardft_plugins.dpo.kto import DiffusionKTO

from rewardft.errors import ComponentError
from rewardft.testing import check_algorithm
from tests.gradients import at_initialisation, relative_error, run_backward, take_gradients
from tests.shipped.dpo.cases import context, epsilon_hat, gradients, pairs, schedule, two_models


def by_hand(ctx, batch, beta, wanted, unwanted):
    policy, reference = two_models(ctx)
    doubled = batch.repeat(2)
    noise = ctx.noise(doubled)
    epsilon = noise.draw("kto/noise", (3, 8, 8))
    t, alpha, sigma = schedule(ctx, noise.uniform("kto/timestep"))
    gains = []
    for i in range(2 * len(batch)):
        one, name = slice(i, i + 1), ("winner", "loser")[i % 2]
        x0 = (batch[name][i // 2][None].clamp(0.02, 0.98).logit() / 2).double()
        x = alpha[one] * x0 + sigma[one] * epsilon[one]
        error = [
            (
                (
                    epsilon_hat(
                        "epsilon",
                        x,
                        m.denoise(x, t[one], {"label": doubled["label"][one]}),
                        alpha[one],
                        sigma[one],
                    )
                    - epsilon[one]
                )
                ** 2
            ).mean()
            for m in (policy, reference)
        ]
        gains.append(-beta * (error[0] - error[1]))
    h = torch.stack(gains)
    q = max(0.0, float(h.detach().mean()))
    good = wanted * (1 - torch.sigmoid(h[0::2] - q))
    bad = unwanted * (1 - torch.sigmoid(q - h[1::2]))
    loss = torch.cat([good, bad]).mean()
    loss.backward()
    return float(loss.detach()), q, gradients(policy)


@pytest.mark.parametrize("beta", [3.0, 50.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_loss_and_gradient_equal_the_formula(beta, sign):
    """With both signs of the adapter, so that the reference point is above 0 in some case and clamped to 0 in another."""
    ctx, batch = context(), pairs()
    with torch.no_grad():
        for name, parameter in ctx.adapter.named.items():
            parameter.mul_(sign * 0.2 if ".lora_B." in name else 1.0)
    losses = list(run_backward(DiffusionKTO(beta, wanted=1.5, unwanted=0.5).losses(ctx, batch)))
    expected, q, theirs = by_hand(ctx, batch, beta, 1.5, 0.5)
    assert float(sum(loss.value.detach() for loss in losses)) == pytest.approx(expected, rel=1e-9)
    assert float(ctx.take_records()["reference_point"][0]) == pytest.approx(q, rel=1e-6)
    assert relative_error(take_gradients(ctx), theirs) < 1e-9


def test_the_reference_point_takes_both_branches():
    points = []
    for value in ([-1.0, 0.5], [1.0, 0.5]):
        points.append(float(DiffusionKTO().mean_gain(context(), torch.tensor(value))))
    assert points == [0.0, 0.75]


def test_the_reference_point_is_that_of_all_processes():
    ctx = context()
    ctx.gather = lambda x: torch.cat([x, torch.full_like(x, 3.0)])
    assert float(DiffusionKTO().mean_gain(ctx, torch.tensor([1.0, 1.0]))) == 2.0


def test_half_the_weights_at_initialisation():
    ctx = at_initialisation(context())
    losses = list(run_backward(DiffusionKTO(wanted=1.5, unwanted=0.5).losses(ctx, pairs())))
    assert float(sum(loss.value.detach() for loss in losses)) == pytest.approx(0.5, abs=1e-12)
    assert ctx.take_records()["reference_point"].tolist()[0] == 0.0


def test_wanted_and_unwanted_are_judged_apart():
    """Each has its own timestep and noise: the samples of a pair are no pair here."""
    ctx, seen = context(), []
    original = ctx.policy.model.denoise
    ctx.policy.model.denoise = lambda x, t, cond: seen.append(t) or original(x, t, cond)
    list(run_backward(DiffusionKTO().losses(ctx, pairs())))
    assert all((t[0::2] != t[1::2]).any() and len(t) == 6 for t in seen)


def test_the_promises():
    check_algorithm(DiffusionKTO(beta=50.0), lambda size: context(micro_batch=size), pairs(5))


def test_bad_options_are_refused():
    with pytest.raises(
        ComponentError,
        match=r"^wanted and unwanted must not be negative, nor both 0: got 0.0 and 0.0$",
    ):
        DiffusionKTO(wanted=0.0, unwanted=0.0)
