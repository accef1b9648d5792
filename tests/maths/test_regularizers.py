"""KL forms against torch.distributions, and zero where policy and reference agree."""

import pytest
import torch

from rewardft.algorithms.regularizers import KL
from rewardft.errors import ComponentError
from rewardft.samplers.ddim import DDIM
from rewardft.types import Plan, Transition
from tests.gradients import T, make_context, make_test_batch


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


def drawn(density, mask=None):
    return Transition(state=None, log_prob=torch.zeros(2), density=density, mask=mask)


def test_gaussian_form_of_a_deviation_for_each_dimension():
    torch.manual_seed(1)
    means, stds = torch.randn(2, 2, 5).double(), torch.rand(2, 2, 5).double() + 0.1
    normals = [torch.distributions.Normal(m, s) for m, s in zip(means, stds)]
    steps = [drawn(torch.distributions.Independent(normal, 1)) for normal in normals]
    (mine, theirs), (own, other) = means, stds
    closed = (other / own).log() + (own**2 + (mine - theirs) ** 2) / (2 * other**2) - 0.5
    assert torch.allclose(KL("gaussian")(*steps), closed.mean(1))
    assert KL("gaussian")(steps[0], steps[0]).abs().max() == 0
    assert KL("categorical")(*steps).tolist() == [0.0, 0.0]


def test_categorical_form_is_the_mean_over_the_tokens_that_were_drawn():
    torch.manual_seed(2)
    logits = torch.randn(2, 2, 3, 4).double()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    new, reference = (drawn(torch.distributions.Categorical(logits=z), mask) for z in logits)
    log_p, log_q = logits.log_softmax(-1)
    each = (log_p.exp() * (log_p - log_q)).sum(-1)
    expected = torch.stack([each[0, :2].mean(), each[1].mean()])
    assert torch.allclose(KL("categorical")(new, reference), expected)
    assert KL("gaussian")(new, reference).tolist() == [0.0, 0.0]
    with pytest.raises(ComponentError, match=r"^kl \(categorical\) needs a policy that draws tok"):
        KL("categorical")(transition(torch.zeros(2, 3), 1.0), transition(torch.zeros(2, 3), 1.0))
    assert KL.needs_for(form="categorical") == {"log_prob"}
