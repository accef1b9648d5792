"""BranchGRPO and TempFlow-GRPO: trees and forks against plain loops over single nodes, in float64."""

import copy
import random

import pytest
import torch
from rewardft_plugins.grpo.branch_grpo import BranchGRPO
from rewardft_plugins.grpo.cps import CPS
from rewardft_plugins.grpo.dance_sde import DanceSDE
from rewardft_plugins.grpo.flow_sde import FlowSDE
from rewardft_plugins.grpo.temp_flow_grpo import TempFlowGRPO

from rewardft.algorithms.forks import fork, walk
from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing.conformance import check_algorithm, curved_reward, tiny_context
from rewardft.testing.tiny import TinyModel
from rewardft.types import Plan, Rollout
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    relative_error,
    take_gradients,
)

LEVEL = 0.7


def context(sampler=None, **options):
    return make_context(sampler or FlowSDE(T, LEVEL), prediction="flow", **options)


def draws(ctx, name, stream):
    """The noise of one branch, by its name."""
    return Noise(ctx.seed, [name], [0], dtype=torch.float64).draw(stream, (3, 8, 8))


def sde(ctx, x, v, k):
    """Mean and deviation of a step of Flow-GRPO's SDE, from the released formula."""
    s, after = ctx.sampler.sigmas[k], ctx.sampler.sigmas[k + 1]
    g = LEVEL * (s / (1 - (ctx.sampler.sigmas[1] if s == 1 else s))) ** 0.5
    mean = x * (1 + g**2 / (2 * s) * (after - s)) + v * (1 + g**2 * (1 - s) / (2 * s)) * (after - s)
    return mean, g * (s - after) ** 0.5


def velocity(ctx, model, x, k, label):
    return model.denoise(x, torch.tensor([ctx.sampler.timesteps[k]]), {"label": label})


def ratio_loss(ctx, old, edge, advantage, clip):
    """max(-A rho, -A clip(rho)) of one edge between the policy and the model that drew it."""
    k, x, after, label = edge
    densities = []
    for model in (ctx.policy.model, old):
        mean, s = sde(ctx, x, velocity(ctx, model, x, k, label), k)
        densities.append((-((after - mean) ** 2) / (2 * s**2)).mean())
    rho = (densities[0] - densities[1].detach()).exp()
    return torch.maximum(-advantage * rho, -advantage * rho.clamp(1 - clip, 1 + clip))


def rewards_of(states, batch, i):
    finished = Rollout(cond=None, noise=None, plan=None, x0=torch.cat(states))
    return 1.3 * curved_reward(finished, batch.select(slice(i, i + 1)))


def z_scores(values, unbiased, floor):
    spread = values.std(correction=1 if unbiased else 0)
    return (values - values.mean()) / (spread + floor)


@torch.no_grad()
def tree_by_hand(ctx, model, batch, i, algorithm):
    """The edges of one tree by step, each with the leaves below it, and the rewards of the leaves."""
    name, label = batch.ids[i], batch["label"][i : i + 1]
    count = algorithm.leaves
    nodes, edges = [(range(count), draws(ctx, f"{name}#0", "initial"))], []
    for k in range(ctx.sampler.steps):
        grown = []
        for leaves, x in nodes:
            mean, s = sde(ctx, x, velocity(ctx, model, x, k, label), k)
            parts = algorithm.branches if k in algorithm.splits else 1
            width = len(leaves) // parts
            for n in range(parts):
                own = leaves[n * width : (n + 1) * width]
                after = mean + s * draws(ctx, f"{name}#{own[0]}", f"step{k}")
                grown.append((own, after))
                edges.append((own, (k, x, after, label)))
        nodes = grown
    return edges, rewards_of([x for _, x in nodes], batch, i)


def branch_loss(ctx, old, algorithm, batch, clip):
    losses = []
    for i in range(len(batch)):
        edges, rewards = tree_by_hand(ctx, old, batch, i, algorithm)
        for k in range(ctx.sampler.steps):
            same = [(own, edge) for own, edge in edges if edge[0] == k]
            if len(same) == 1 or k in algorithm.pruned:
                continue
            values = torch.stack([rewards[own.start : own.stop].mean() for own, _ in same])
            for advantage, (_, edge) in zip(z_scores(values, True, 1e-8), same):
                losses.append(ratio_loss(ctx, old, edge, advantage, clip))
    return torch.stack(losses).mean()


def run_epochs(ctx, algorithm, batch, old, by_hand):
    """Each pass over the batch by the algorithm and by hand, with the policy moved in between."""
    ctx.start_step(0)
    losses, value = algorithm.losses(ctx, batch), 0.0
    for loss in losses:
        loss.backward()
        value += float(loss.value.detach())
        if not loss.step:
            continue
        gradient = take_gradients(ctx)
        expected = by_hand(ctx, old)
        expected.backward()
        assert value == pytest.approx(float(expected.detach()), rel=1e-8, abs=1e-10)
        assert relative_error(gradient, take_gradients(ctx)) < 1e-8
        value = 0.0
        with torch.no_grad():
            for parameter in ctx.adapter.parameters:
                parameter.add_(0.02)


@pytest.mark.parametrize(
    ("splits", "branches", "pruned"), [((0, 3), 2, ()), ((1,), 3, (2,)), ((0, 1, 2), 2, (0, 5))]
)
def test_branch_grpo_is_the_mean_over_edges_that_were_drawn_one_by_one(splits, branches, pruned):
    """Two passes: in the second one the ratio is not 1, and the clip acts."""
    clip = 1e-4
    algorithm = BranchGRPO(splits, branches, pruned, clip=clip, inner_epochs=2)
    ctx, batch = context(), make_test_batch(2)
    old = copy.deepcopy(ctx.policy.model)
    run_epochs(
        ctx, algorithm, batch, old, lambda ctx, old: branch_loss(ctx, old, algorithm, batch, clip)
    )


def temp_flow_loss(ctx, old, algorithm, batch, steps, clip):
    last = ctx.sampler.steps
    spreads = [sde(ctx, 0.0, 0.0, k)[1] for k in range(last - algorithm.skip_last)]
    losses = []
    for i in range(len(batch)):
        name, label = batch.ids[i], batch["label"][i : i + 1]
        for n in range(algorithm.noises):
            first = n * algorithm.branches
            x = draws(ctx, f"{name}#{first}", "initial")
            for k in range(last):
                with torch.no_grad():
                    v = velocity(ctx, old, x, k, label)
                if k in steps:
                    losses += one_fork(ctx, old, algorithm, batch, i, (k, x, v, first), clip)
                    weight = spreads[k] * len(spreads) / sum(spreads) if algorithm.weigh else 1.0
                    losses[-algorithm.branches :] = [
                        weight * loss for loss in losses[-algorithm.branches :]
                    ]
                x = x + (ctx.sampler.sigmas[k + 1] - ctx.sampler.sigmas[k]) * v
    return torch.stack(losses).mean()


def one_fork(ctx, old, algorithm, batch, i, state, clip):
    k, x, v, first = state
    name, label = batch.ids[i], batch["label"][i : i + 1]
    mean, s = sde(ctx, x, v, k)
    taken = [
        mean + s * draws(ctx, f"{name}#{first + n}", f"step{k}") for n in range(algorithm.branches)
    ]
    ends = []
    for y in taken:
        for later in range(k + 1, ctx.sampler.steps):
            with torch.no_grad():
                step = velocity(ctx, old, y, later, label)
            y = y + (ctx.sampler.sigmas[later + 1] - ctx.sampler.sigmas[later]) * step
        ends.append(y)
    scores = z_scores(rewards_of(ends, batch, i), False, 1e-4)
    return [
        ratio_loss(ctx, old, (k, x, after, label), advantage, clip)
        for after, advantage in zip(taken, scores)
    ]


@pytest.mark.parametrize(("forks", "weigh"), [(None, True), (2, True), (1, False)])
def test_temp_flow_grpo_forks_an_ode_by_single_steps_of_noise(forks, weigh):
    clip = 1e-4
    algorithm = TempFlowGRPO(2, 3, forks, weigh, clip=clip, inner_epochs=2)
    ctx, batch = context(), make_test_batch(2)
    old = copy.deepcopy(ctx.policy.model)
    steps = algorithm.draw_steps(T, random.Random(f"{ctx.seed}/0"))
    assert len(steps) == (forks or T - 1)
    run_epochs(
        ctx,
        algorithm,
        batch,
        old,
        lambda ctx, old: temp_flow_loss(ctx, old, algorithm, batch, steps, clip),
    )
    assert ctx.sampler.window is None


ALGORITHMS = {
    "branch_grpo": BranchGRPO((0, 2), pruned=(3,)),
    "temp_flow_grpo": TempFlowGRPO(2, 3, 2),
    "temp_flow_grpo_all": TempFlowGRPO(1, 2, inner_epochs=2),
}


@pytest.mark.parametrize("form", [None, "gaussian"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_promises(name, form):
    """Repeated, cut up and reversed it is the same; penalties too."""

    def make(size):
        made = context(form=form, micro_batch=size)
        made.start_step(0)
        return made

    check_algorithm(ALGORITHMS[name], make)


def test_an_edge_that_branches_share_is_called_once():
    """1, 2, 2, 4, 4, 4 nodes before the steps of each tree; the last step of `dance_sde` has no density."""
    ctx = context(DanceSDE(T))
    for loss in BranchGRPO((0, 2)).losses(ctx, make_test_batch(3)):
        loss.backward()
    assert ctx.policy.forward_samples == 3 * (17 + 13) and ctx.policy.backward_samples == 3 * 13
    assert ctx.reward_evaluations == 3 * 4
    assert BranchGRPO().leaves == 16


def test_the_default_tree_takes_203_forwards():
    ctx = context(FlowSDE(20))
    algorithm = BranchGRPO()
    samples = make_test_batch(1).repeat(16)
    whole = ctx.rollout(samples, Plan(stop=0, keep=frozenset({0})))
    algorithm.grow(ctx, whole)
    assert ctx.policy.forward_samples == 203


def test_a_chain_that_is_walked_in_pieces_is_the_chain():
    ctx, batch = context(), make_test_batch()
    whole = ctx.rollout(batch, Plan(stop=T, keep=frozenset(range(T))))
    start = ctx.rollout(batch, Plan(stop=0, keep=frozenset({0})))
    middle = walk(ctx, start, 0, 3, keep=[1])
    assert set(middle.states) == {1, 3} and set(middle.outputs) == {1} and middle.x0 is None
    assert torch.equal(walk(ctx, middle, 3, T).x0, whole.x0)
    assert torch.equal(walk(ctx, whole.with_x0(None), T - 1, T).x0, whole.x0)


def test_a_fork_of_a_kept_output_costs_no_call():
    ctx, batch = context(), make_test_batch()
    rollout = ctx.rollout(batch, Plan(stop=3, keep=frozenset({2, 3})))
    calls = ctx.policy.forwards
    made = fork(ctx, rollout, 2, ctx.noise(batch.repeat(5)))
    assert ctx.policy.forwards == calls and made.branches == 5 and len(made.taken) == 15
    fork(ctx, rollout, 3, ctx.noise(batch.repeat(2)))
    assert ctx.policy.forwards == calls + 1


def test_trees_without_variance_teach_nothing_and_absent_rewards_take_no_part():
    """A leaf without a reward leaves the mean to its siblings; a node without any has no advantage."""
    ctx, batch = context(), make_test_batch(2)

    def absent(rollout, samples):
        values = rollout.x0.flatten(1).mean(1)
        values[:2], values[4:] = float("nan"), 1.0
        return values

    ctx.rewards = [WeightedReward("r", absent)]
    for loss in BranchGRPO((0, 2)).losses(ctx, batch):
        loss.backward()
    gradient = take_gradients(ctx)
    assert all(bool(g.isfinite().all()) for g in gradient)
    # The first tree has one pair of leaves to compare, at the second split and after it.
    assert max(float(g.abs().max()) for g in gradient) > 0


def test_evaluations_find_the_whole_sde_again_after_an_error():
    ctx = context(CPS(T))

    def broken(rollout, batch):
        raise ValueError("no")

    ctx.rewards = [WeightedReward("r", broken)]
    with pytest.raises(ValueError, match="no"):
        list(TempFlowGRPO(1, 2).losses(ctx, make_test_batch()))
    assert ctx.sampler.window is None


def said(error):
    return str(error.value)


def test_what_is_refused():
    with pytest.raises(ComponentError) as error:
        BranchGRPO((3, 0))
    assert said(error) == "expected splits as ascending steps, got [3, 0]"
    with pytest.raises(ComponentError) as error:
        list(BranchGRPO().losses(context(), make_test_batch()))
    assert said(error) == (
        "a split at step 9 is past the sampler's 6 steps, 0 to 5. Split earlier, or give the "
        "sampler more steps."
    )
    for strange in (6, -1):
        with pytest.raises(ComponentError) as error:
            list(BranchGRPO((0,), pruned=(1, strange)).losses(context(), make_test_batch()))
        assert said(error) == (
            f"pruned: there is no step {strange}; the sampler's 6 steps are 0 to 5."
        )
    with pytest.raises(ComponentError) as error:
        list(BranchGRPO((5,)).losses(context(DanceSDE(T)), make_test_batch()))
    assert said(error).startswith("no edge is left to learn from")
    with pytest.raises(ComponentError) as error:
        TempFlowGRPO(branches=1)
    assert said(error) == (
        "expected noises >= 1, branches >= 2, forks >= 1 and skip_last >= 0, got 4, 1, None and 1"
    )
    with pytest.raises(ComponentError) as error:
        TempFlowGRPO(forks=6).draw_steps(T, random.Random(0))
    assert said(error) == (
        "6 of the sampler's 6 steps cannot be forked when the last 1 never are. Give the sampler "
        "more steps."
    )
    with pytest.raises(ComponentError) as error:
        TempFlowGRPO().draw_steps(1, random.Random(0))
    assert said(error).startswith("1 of the sampler's 1 steps cannot be forked")
    with pytest.raises(ComponentError) as error:
        list(TempFlowGRPO(1, 2, skip_last=0).losses(context(CPS(T)), make_test_batch()))
    assert said(error) == (
        "step 5 draws no noise, so its branches have no density to learn from. Fork at another "
        "step, or give the sampler more noise (eta or noise_level above 0)."
    )


def test_tiny_contexts_serve_too():
    check_algorithm(
        TempFlowGRPO(1, 2, 1),
        lambda size: tiny_context(
            CPS(4), model=TinyModel(prediction="flow", width=8), micro_batch=size
        ),
    )
