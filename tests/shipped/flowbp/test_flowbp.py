"""FlowBP and LeapAlign: the gradient is plain autograd's through the whole surrogate, in float64."""

import random

import numpy as np
import pytest
import torch
from rewardft_plugins.flowbp.flow_bp import FlowBP, learning_nodes, node_weights
from rewardft_plugins.flowbp.leap_align import LeapAlign
from rewardft_plugins.flowbp.surrogate_chain import Chain, Leap

from rewardft.errors import ComponentError
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.conformance import check_algorithm, curved_reward, tiny_context
from rewardft.testing.tiny import TinyModel
from tests.gradients import (
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    run_losses,
    take_gradients,
)

STEPS = 7
ALGORITHMS = {
    "sparse": FlowBP("sparse", shape="negative"),
    "sparse_flux": FlowBP("sparse", 3, bias=2.0, gamma=1.0, target=5.0),
    "bridge": FlowBP("bridge", shape="negative"),
    "bridge_flux": FlowBP("bridge", alpha=0.1, gamma=1.0, bias=2.0, target=5.0),
    "lagrange": FlowBP("lagrange", target=5.0),
    "leap_align": LeapAlign(target=5.0),
    "leap_align_whole": LeapAlign(alpha=1.0, tau=1e-6, shape="negative"),
}


def context(steps=STEPS, **options):
    return make_context(FlowEuler(steps), prediction="flow", **options)


def through_the_surrogate(ctx, algorithm, batch, seed):
    """The surrogate as its paper writes it, all of it in one graph, on the chain that a seed draws."""
    levels = [float(level) for level in ctx.sampler.sigmas]
    chain = algorithm.draw(levels, random.Random(seed))
    cond, model = ctx.encode(batch), ctx.policy
    states, velocities = [ctx.noise(batch).draw("initial", (3, 8, 8))], []

    def v(x, k):
        return model.denoise(x, torch.full((len(batch),), ctx.sampler.timesteps[k]), cond)

    with torch.no_grad():
        for k in range(STEPS):
            velocities.append(v(states[-1], k))
            states.append(states[-1] + (levels[k + 1] - levels[k]) * velocities[-1])
    weights = {k: levels[k + 1] - levels[k] for k in range(STEPS)}
    first, last = range(chain.junction or 0), range(chain.junction or 0, STEPS)
    start = states[0]
    if chain.leaps:
        weights = {**chain.leaps[0].nodes, **chain.leaps[1].nodes}
        first, last = chain.leaps[0].nodes, chain.leaps[1].nodes
        start = states[chain.leaps[0].start]

    def scaled(velocity, wanted, share):
        """A velocity whose gradient is `share` of `wanted` times that which is right."""
        factor = share / wanted if wanted else 0.0
        return factor * velocity + (1 - factor) * velocity.detach()

    def term(k, shares, x):
        if k not in shares:
            return weights[k] * velocities[k]
        return weights[k] * scaled(v(x, k), weights[k], shares[k])

    x_c = start
    if chain.junction is not None:
        arrived = start + sum(term(k, chain.before, states[k]) for k in first)
        truth = states[chain.junction]
        x_c = truth + (arrived - arrived.detach())
    total = x_c
    for k in last:
        x = states[k]
        if k == chain.junction:
            x = chain.alpha * x_c + (1 - chain.alpha) * x_c.detach()
        total = total + term(k, chain.after, x)
    weight = torch.ones(len(batch), dtype=torch.float64)
    if chain.leaps:
        errors = [
            (a - b).detach().abs().flatten(1).mean(1).clamp(min=algorithm.tau)
            for a, b in ((arrived, truth), (total, states[-1]))
        ]
        weight = 1 / sum(errors)
    sample = states[-1] + (total - total.detach())
    return chain, loss_of(algorithm, sample, batch, weight)


def loss_of(algorithm, x0, batch, weight):
    class Finished:
        pass

    finished = Finished()
    finished.x0 = x0
    reward = 1.3 * curved_reward(finished, batch)
    loss = -reward if algorithm.shape == "negative" else torch.relu(algorithm.target - reward)
    return (weight * loss).mean()


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_is_plain_autograds_through_the_surrogate(name, seed, guidance):
    algorithm, batch = ALGORITHMS[name], make_test_batch()
    ctx = context(guidance=guidance)
    _, loss = through_the_surrogate(ctx, algorithm, batch, seed)
    loss.backward()
    expected = take_gradients(ctx)
    ctx.rng = random.Random(seed)
    _, gradient = run_losses(ctx, algorithm, batch)
    assert relative_error(gradient, expected) < 1e-9


def test_all_steps_learning_with_the_whole_input_is_draft_of_two_steps():
    """Two steps, one leap from each: nothing is left out, so the surrogate is the chain."""
    from rewardft.algorithms.direct_presets import draft

    batch, results = make_test_batch(), []
    leaps = LeapAlign(alpha=1.0, tau=1e9, shape="negative", scale=2e9)  # w = 1 / 2e9
    for algorithm in (leaps, draft()):
        ctx = context(steps=2)
        ctx.rng = random.Random(0)
        list(run_backward(algorithm.losses(ctx, batch)))
        results.append(take_gradients(ctx))
    assert relative_error(results[0], results[1]) < 1e-9


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_promises(name):
    """Repeated, cut up and reversed it is the same, and `calls` tells what is called."""

    def make(size):
        model = TinyModel(prediction="flow", width=8)
        return tiny_context(FlowEuler(STEPS), model=model, micro_batch=size)

    check_algorithm(ALGORITHMS[name], make)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_kept_does_not_grow_with_the_chain(name):
    algorithm, kept = ALGORITHMS[name], []
    for steps in (10, 40):
        ctx = context(steps)
        ctx.rng = random.Random(1)
        for loss in algorithm.losses(ctx, make_test_batch()):
            loss.value.backward()
        kept.append(len(ctx.last_rollout.states))
    assert max(kept) <= 8


# -- what is drawn ------------------------------------------------------------------------------------------


def levels(steps):
    return [1 - k / steps for k in range(steps + 1)]


def test_sparse_steps_lean_towards_the_end_and_gradients_are_scaled_up():
    algorithm, counts = FlowBP("sparse", 1, bias=1.0, gamma=0.0), np.zeros(4)
    rng = random.Random(0)
    for _ in range(4000):
        ((k, share),) = algorithm.draw(levels(4), rng).after.items()
        assert share == pytest.approx(-0.25)
        counts[k] += 1
    assert np.allclose(counts / 4000, np.arange(1, 5) / 10, atol=0.03)
    chain = FlowBP("sparse", 2, gamma=0.5).draw(levels(4), rng)
    assert list(chain.after.values()) == pytest.approx([-0.25 * 1.5] * 2)  # 1 + (4/2 - 1) / 2


def test_the_bridge_has_learning_steps_on_both_sides():
    rng, algorithm = random.Random(0), FlowBP("bridge")
    for _ in range(300):
        chain = algorithm.draw(levels(8), rng)
        assert chain.junction in chain.after and chain.before
        assert max(chain.before) < chain.junction == min(chain.after)
        assert 2 <= len(chain.steps) <= 5


def test_leaps_meet_at_the_junction():
    rng, algorithm = random.Random(0), FlowBP("lagrange")
    for _ in range(300):
        chain = algorithm.draw(levels(25), rng)
        first, second = chain.leaps
        assert first.end == second.start == chain.junction and second.end == 25
        assert 25 - chain.junction <= 10 and len(chain.steps) <= 4


def test_node_weights_integrate_polynomials_exactly():
    grid = [1.0, 0.83, 0.7, 0.45, 0.31, 0.2, 0.0]
    weights = node_weights(grid, 1, 6, 3)
    assert list(weights) == [1, 2, 4]  # evenly spaced by index
    for power in range(3):
        exact = (grid[6] ** (power + 1) - grid[1] ** (power + 1)) / (power + 1)
        assert sum(w * grid[k] ** power for k, w in weights.items()) == pytest.approx(
            exact, rel=1e-12
        )
    equal = node_weights(levels(3), 0, 3, 3)
    assert list(equal.values()) == pytest.approx([-0.25, 0.0, -0.75], abs=1e-12)
    assert node_weights(grid, 2, 3, 3) == {2: pytest.approx(grid[3] - grid[2])}


def test_the_second_node_has_a_quarter_of_its_gradient():
    assert learning_nodes(Leap({2: -0.4, 3: 0.2, 5: -0.1}, 7)) == {2: -0.4, 3: 0.05}


def test_steps_are_visited_last_to_first():
    assert Chain({5: 1.0, 4: 0.0}, {1: 1.0, 2: 1.0}, 4).steps == [5, 4, 2, 1]


# -- options ------------------------------------------------------------------------------------------------


def said(error):
    return str(error.value)


def test_what_is_refused():
    with pytest.raises(ComponentError) as error:
        FlowBP("bridge", 1)
    assert said(error) == "expected train_steps >= 2, order >= 1 and tau > 0, got 1, 3 and 0.2"
    with pytest.raises(ComponentError) as error:
        FlowBP(alpha=2.0)
    assert said(error) == (
        "expected bias >= 0, gamma in [0, 1] and alpha in [0, 1], got 1, 0.5 and 2"
    )
    with pytest.raises(ComponentError) as error:
        LeapAlign(tau=0)
    assert said(error) == "expected alpha in [0, 1] and tau > 0, got 0.3 and 0"
    with pytest.raises(ComponentError) as error:
        FlowBP("sparse", 4).draw(levels(3), random.Random(0))
    assert said(error) == "flow_bp (sparse) needs a sampler of at least 4 steps, got 3"
    ctx = make_context(DDIM(4))
    with pytest.raises(ComponentError) as error:
        list(LeapAlign().losses(ctx, make_test_batch()))
    assert said(error) == (
        "leap_align adds up the Euler steps of a flow, and DDIM takes others. Use the sampler "
        "`flow_euler`."
    )
