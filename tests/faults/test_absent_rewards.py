"""A sample to which no reward applies takes no part in the update, by its penalty neither."""

import random

import pytest
import torch
from rewardft_plugins.ddpo.dpok import DPOK
from rewardft_plugins.dpo.d3po import D3PO
from rewardft_plugins.grpo.grpo import GRPO
from rewardft_plugins.srpo.srpo import SRPO

from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from tests.gradients import T, make_context, make_test_batch, run_backward, take_gradients

ALGORITHMS = {
    "d3po": D3PO(),
    "dpok": DPOK(inner_epochs=1),
    "dpok with values": DPOK(inner_epochs=1, value_head=True),
    "grpo": GRPO(group_size=2),
    "srpo": SRPO(),
    "srpo with a target": SRPO(target=0.7),
    "srpo inverted": SRPO(window=(0.0, 1.0), inversion=True),
}


def nowhere(rollout, batch):
    """Not applicable to any sample, without spoiling the gradient."""
    value = rollout.x0.flatten(1).mean(1)
    return torch.where(torch.zeros_like(value, dtype=torch.bool), value, float("nan"))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_without_any_reward_there_is_no_gradient_in_spite_of_regularizers(name):
    ctx = make_context(DDIM(T, eta=1.0), "gaussian")
    ctx.rewards = [WeightedReward("nowhere", nowhere)]
    ctx.rng = random.Random(3)
    list(run_backward(ALGORITHMS[name].losses(ctx, make_test_batch(4))))
    assert ctx.penalized
    assert all(not gradient.any() for gradient in take_gradients(ctx))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_with_a_reward_everywhere_there_is_one(name):
    ctx = make_context(DDIM(T, eta=1.0), "gaussian")
    ctx.rng = random.Random(3)
    list(run_backward(ALGORITHMS[name].losses(ctx, make_test_batch(4))))
    assert any(gradient.any() for gradient in take_gradients(ctx))
