"""KL forms against torch.distributions, and zero where policy and reference agree."""

import pytest
import torch

from rewardft.algorithms.regularizers import KL
from rewardft.errors import ComponentError
from rewardft.types import Plan, Transition
from tests.maths.test_direct_gradients import DDIM, T, make_context, make_test_batch


def transition(mean, std, epsilon=None, log_prob=0.0):
    return Transition(
        state=mean,
        mean=mean,
        std=torch.tensor(std),
        epsilon=epsilon,
        log_prob=torch.tensor(log_prob),
    )


def test_gaussian_form_is_the_exact_divergence_per_dimension():
    torch.manual_seed(0)
    mine, theirs = (
        torch.randn(3, 2, 4, dtype=torch.float64),
        torch.randn(3, 2, 4, dtype=torch.float64),
    )
    normal = torch.distributions.Normal
    expected = (
        torch.distributions.kl_divergence(normal(mine, 0.3), normal(theirs, 0.3)).flatten(1).mean(1)
    )
    assert torch.allclose(KL("gaussian")(transition(mine, 0.3), transition(theirs, 0.3)), expected)


def test_epsilon_form_is_the_mean_squared_difference():
    mine, theirs = torch.zeros(2, 3), torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 0.0]])
    assert KL()(transition(mine, 1.0, mine), transition(mine, 1.0, theirs)).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("form", ["epsilon_mse", "gaussian"])
def test_zero_at_initialisation(form):
    ctx, batch = make_context(DDIM(T, eta=1.0), form), make_test_batch()
    for name, parameter in ctx.adapter.named.items():
        if "lora_B" in name:
            parameter.data.zero_()
    rollout = ctx.rollout(batch, Plan(stop=3, keep=frozenset({2})))
    assert ctx.penalty(ctx.replay(rollout, 2), rollout, 2).abs().max() == 0


def test_gaussian_form_refuses_a_deterministic_step():
    ctx, batch = make_context(DDIM(T), "gaussian"), make_test_batch()
    rollout = ctx.rollout(batch, Plan(stop=3, keep=frozenset({2})))
    with pytest.raises(
        ComponentError,
        match="this step is deterministic, so the divergence of its densities is infinite",
    ):
        ctx.penalty(ctx.replay(rollout, 2), rollout, 2)
    assert KL.needs_for(form="gaussian") == {"log_prob"} and KL.needs_for() == frozenset()
