"""RAFT, AWM, DGPO and CRD: loss and gradient by hand on separate models, calls, and what is left out."""

import copy
import math
from pathlib import Path

import pytest
import torch
from rewardft_plugins.nft.awm import AWM
from rewardft_plugins.nft.crd import CRD
from rewardft_plugins.nft.dgpo import DGPO
from rewardft_plugins.nft.diffusion_nft import DiffusionNFT
from rewardft_plugins.nft.groups import group_slices
from rewardft_plugins.nft.raft import RAFT
from rewardft_plugins.nft.virtual_steps import stratum

from rewardft.errors import ComponentError
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import check_options
from rewardft.plugins.entries import Entry
from rewardft.plugins.loading import load_plugins
from rewardft.policy.snapshots import swapped_in
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.conformance import check_algorithm, tiny_context
from rewardft.types import Plan
from tests.gradients import T, make_test_batch, move, relative_error
from tests.shipped.nft.test_diffusion_nft import context, run

PREDICTIONS = ["flow", "epsilon", "v_prediction"]
GROUP = 4


class Models:
    """Copies of the policy, of the base and of a set of weights, and their outputs at one noising."""

    def __init__(self, ctx, kind, weights=None):
        self.ctx, self.kind = ctx, kind
        self.policy, self.base = (copy.deepcopy(ctx.policy.model) for _ in range(2))
        for name, parameter in self.base.trainable.named_parameters():
            if ".lora_B." in name:
                parameter.data.zero_()
        self.other = None
        if weights is not None:
            with swapped_in(ctx.adapter, weights):
                self.other = copy.deepcopy(ctx.policy.model)

    def gradients(self):
        named = self.policy.trainable.named_parameters()
        return [p.grad for name, p in named if ".lora_" in name]

    def at(self, x0, level, epsilon, label):
        """(outputs of policy, other and base; target; sigma) of one sample; level in [0, 1)."""
        index, scheduler = int(level * 1000), self.ctx.policy.scheduler
        if self.kind == "flow":
            t, sigma = torch.tensor(index + 1.0), torch.tensor((index + 1.0) / 1000).double()
            alpha, target = 1 - sigma, epsilon - x0
        else:
            t, a = torch.tensor(index), scheduler.alphas_cumprod.double()[index]
            alpha, sigma = a.sqrt(), (1 - a).sqrt()
            target = epsilon if self.kind == "epsilon" else alpha * epsilon - sigma * x0
        x, cond = (alpha * x0 + sigma * epsilon)[None], {"label": label[None]}
        outputs = [self.policy.denoise(x, t[None], cond)[0]]
        with torch.no_grad():
            for model in (self.other, self.base):
                outputs.append(None if model is None else model.denoise(x, t[None], cond)[0])
        return outputs, target, sigma


def drawn(ctx, batch, stream, reach=(0.0, 1.0)):
    """Timestep levels `(b,)` and noises of a stream."""
    noise = ctx.noise(batch)
    levels = reach[0] + (reach[1] - reach[0]) * noise.uniform(f"{stream}/timestep")
    return levels, noise.draw(f"{stream}/noise", (3, 8, 8))


def sampled(ctx, batch, weights=None):
    """x0 of groups, their rewards `(groups, GROUP)`."""
    samples = batch.repeat(GROUP)
    plan = Plan(stop=T)
    if weights is None:
        x0 = ctx.rollout(samples, plan).x0
    else:
        with swapped_in(ctx.adapter, weights):
            x0 = ctx.rollout(samples, plan).x0
    return samples, x0, x0.flatten(1).sin().mean(1).view(len(batch), GROUP)


def advantages(rewards):
    """By hand: the deviation of the whole batch, n in the denominator."""
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / (rewards.std(correction=0) + 1e-4)).flatten()


def after_a_move(algorithm, kind, name=None, step=1):
    """A context in a later step, the first one's weights kept under `name`; what the step leaves."""
    ctx, batch = context(kind), make_test_batch()
    run(ctx, algorithm, 0, batch)
    move(ctx)
    value, gradient = run(ctx, algorithm, step, batch)
    weights = None
    if name is not None:
        weights = {key: tensor.clone() for key, tensor in ctx.memory[name].items()}
    return ctx, batch, weights, value, gradient


def mean_square(x):
    return x.square().mean()


# -- loss and gradient against the formulas -----------------------------------------------------------


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_raft(kind):
    ctx, batch, _, value, gradient = after_a_move(RAFT(GROUP, timesteps=2), kind)
    samples, x0, rewards = sampled(ctx, batch)
    models, loss = Models(ctx, kind), 0.0
    for n in range(2):
        levels, epsilon = drawn(ctx, batch, f"raft{n}")
        for i, best in enumerate(rewards.argmax(1).tolist()):
            row = i * GROUP + best
            (output, _, _), target, _ = models.at(
                x0[row], levels[i], epsilon[i], samples["label"][row]
            )
            loss = loss + mean_square(output - target) / (2 * len(batch))
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-8)
    assert relative_error(gradient, models.gradients()) < 1e-8


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_awm(kind):
    algorithm = AWM(GROUP, timesteps=2, reference_weight=0.3, average_weight=0.7)
    ctx, batch, average, value, gradient = after_a_move(algorithm, kind, "awm/average")
    samples, x0, rewards = sampled(ctx, batch)
    advantage = advantages(rewards).clamp(-5, 5) / 5
    models, loss = Models(ctx, kind, average), 0.0
    for n in range(2):
        levels, epsilon = drawn(ctx, samples, f"awm{n}", stratum((0.1, 0.95), n, 2))
        for i in range(len(samples)):
            (new, mean, base), target, sigma = models.at(
                x0[i], levels[i], epsilon[i], samples["label"][i]
            )
            m = mean_square(new - target)
            likelihood = -((m + 1e-10) ** 0.25 - 1e-10**0.25) * sigma / 0.25
            ratio = (likelihood - likelihood.detach()).exp()
            term = -advantage[i] * ratio
            term = term + 0.3 * mean_square(new - base) + 0.7 * mean_square(new - mean)
            loss = loss + term / (2 * len(samples))
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-8, abs=1e-10)
    assert relative_error(gradient, models.gradients()) < 1e-7  # sigma is held in float32


@pytest.mark.parametrize("old_draws", [None, 1])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_dgpo(kind, old_draws):
    algorithm = DGPO(
        GROUP, timesteps=2, beta=3.0, clip=1e-3, reference_weight=0.3, old_samples_after=old_draws
    )
    ctx, batch, old, value, gradient = after_a_move(algorithm, kind, "dgpo/old", step=400)
    samples, x0, rewards = sampled(ctx, batch, None if old_draws is None else old)
    advantage = advantages(rewards)
    models, loss, clipped = Models(ctx, kind, old), 0.0, 0
    for n in range(2):
        for g in range(len(batch)):
            # A group shares the timestep and the noise of its first member.
            first = samples.select(slice(g * GROUP, g * GROUP + 1))
            level, noise = drawn(ctx, first, f"dgpo{n}", stratum((0.3, 1.0), n, 2))
            terms, margin = [], 0.0
            for i in range(g * GROUP, (g + 1) * GROUP):
                (new, was, base), target, _ = models.at(
                    x0[i], level[0], noise[0], samples["label"][i]
                )
                m, before = mean_square(new - target), mean_square(was - target)
                margin = (
                    margin + 3.0 * advantage[i] * (m - mean_square(base - target)).detach() / GROUP
                )
                rho = (before - m).detach().exp()
                away = rho > 1 + 1e-3 if advantage[i] > 0 else rho < 1 - 1e-3
                clipped += bool(away)
                terms.append(
                    (advantage[i] * (m.detach() if away else m), 0.3 * mean_square(new - base))
                )
            weight = 1 / (1 + math.exp(-float(margin)))
            loss = loss + sum(weight * a + b for a, b in terms) / (2 * len(samples))
    loss.backward()
    assert 0 < clipped < 2 * len(samples)  # both cases are there
    assert value == pytest.approx(float(loss.detach()), rel=1e-8, abs=1e-10)
    assert relative_error(gradient, models.gradients()) < 1e-8


def test_dgpo_has_the_gradient_of_group_preference():
    """-log sigmoid(-S) over the group, whose gradient the released loss has without the factor beta."""
    m = torch.rand(5, dtype=torch.float64, requires_grad=True)
    reference = torch.rand(5, dtype=torch.float64)
    advantage = torch.randn(5, dtype=torch.float64)
    beta, s = 4.0, lambda: (4.0 * advantage * (m - reference)).mean()
    (paper,) = torch.autograd.grad(-torch.nn.functional.logsigmoid(-s()), m)
    (ours,) = torch.autograd.grad((torch.sigmoid(s()).detach() * advantage * m).mean(), m)
    assert torch.allclose(paper, beta * ours, rtol=1e-12)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_crd(kind):
    """The formula as it is written in the docstring, with r and R apart."""
    algorithm = CRD(GROUP, beta=0.6, timesteps=2, kl_weight=0.3)
    ctx, batch, old, value, gradient = after_a_move(algorithm, kind, "crd/old")
    sampler = {key: tensor.clone() for key, tensor in ctx.memory["crd/sampler"].items()}
    samples, x0, rewards = sampled(ctx, batch, sampler)
    goal = advantages(rewards).clamp(-5, 5) / 10 + 0.5
    models, loss, q = Models(ctx, kind, old), 0.0, 1e-4 / 0.3

    def error(residual):
        return mean_square(residual) / residual.detach().abs().mean()

    for n in range(2):
        levels, epsilon = drawn(ctx, samples, f"crd{n}")
        for g in range(len(batch)):
            rows = range(g * GROUP, (g + 1) * GROUP)
            seen = [models.at(x0[i], levels[i], epsilon[i], samples["label"][i]) for i in rows]
            r = [-(error(new - target) - error(was - target)) for (new, was, _), target, _ in seen]
            centre = sum(value.detach() for value in r) / GROUP
            wanted = goal[rows.start : rows.stop]
            for own, aim, ((new, _, base), _, _) in zip(r, wanted, seen):
                gap = 0.6 * (own - centre) - (aim - wanted.mean())
                pull = 0.3 * (q + aim * (1 - q)) * mean_square(new - base)
                loss = loss + (5 / 0.6 * gap**2 + pull) / (2 * len(samples))
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-8)
    assert relative_error(gradient, models.gradients()) < 1e-8


def test_the_copies_that_crd_keeps_follow_at_their_own_pace():
    """old <- 0.255 old + 0.745 theta in step 1; the sampler is the policy until step 75."""
    algorithm, ctx = CRD(2, timesteps=1), context()
    run(ctx, algorithm, 0)
    first = {key: tensor.clone() for key, tensor in ctx.memory["crd/old"].items()}
    move(ctx)
    run(ctx, algorithm, 1)
    for name, parameter in ctx.adapter.named.items():
        blended = 0.255 * first[name] + 0.745 * parameter.detach()
        assert torch.allclose(ctx.memory["crd/old"][name], blended, atol=1e-14)
        assert torch.equal(ctx.memory["crd/sampler"][name], parameter.detach())


def test_awm_with_several_updates_compares_with_the_policy_before_them():
    """The second update sees a ratio that is not 1, and clips it."""
    algorithm = AWM(GROUP, timesteps=1, clip=1e-6, reference_weight=0, average_weight=0, updates=3)
    ctx, batch = context(), make_test_batch()
    ctx.start_step(0)
    samples, x0, rewards = sampled(ctx, batch)
    old = Models(ctx, "flow")
    levels, epsilon = drawn(ctx, samples, "awm0", (0.1, 0.95))
    losses = algorithm.losses(ctx, batch)
    for update in range(3):
        loss = next(losses)
        assert loss.step
        models, expected = Models(ctx, "flow"), 0.0
        for i in range(update * GROUP, (update + 1) * GROUP):
            likelihoods = []
            for each in (models, old):
                (output, _, _), target, sigma = each.at(
                    x0[i], levels[i], epsilon[i], samples["label"][i]
                )
                m = mean_square(output - target)
                likelihoods.append(-((m + 1e-10) ** 0.25 - 1e-10**0.25) * sigma / 0.25)
            ratio = (likelihoods[0] - likelihoods[1].detach()).exp()
            advantage = advantages(rewards)[i].clamp(-5, 5) / 5
            kept = ratio.clamp(1 - 1e-6, 1 + 1e-6)
            expected = expected + torch.maximum(-advantage * ratio, -advantage * kept) / GROUP
        assert float(loss.value.detach()) == pytest.approx(
            float(expected.detach()), rel=1e-8, abs=1e-10
        )
        move(ctx, 0.01)
    with pytest.raises(StopIteration):
        next(losses)


# -- what every algorithm promises ----------------------------------------------------------------------

ALGORITHMS = {
    "raft": RAFT(3, timesteps=2),
    "awm": AWM(3, timesteps=2),
    "awm_updates": AWM(3, timesteps=2, updates=2, reference_weight=0, average_weight=0),
    "dgpo": DGPO(3, timesteps=2),
    "dgpo_without_reference": DGPO(3, timesteps=2, reference_weight=0),
    "crd": CRD(3, timesteps=2),
    "crd_without_reference": CRD(3, timesteps=2, kl_weight=0),
}


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if n != "awm_updates"])
def test_the_promises(name):
    check_algorithm(ALGORITHMS[name], lambda size: tiny_context(DDIM(4), micro_batch=size))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_calls_are_those_of_the_docstring(name):
    ctx, algorithm, n, b = context(), ALGORITHMS[name], 2, 3
    run_any(ctx, algorithm)
    forwards, backwards = {
        "raft": (3 * T + n, n),
        "awm": (3 * (T + n * 3), 3 * n),
        "awm_updates": (3 * (T + n * 2), 3 * n),
        "dgpo": (3 * (T + n * 5), 3 * n),
        "dgpo_without_reference": (3 * (T + n * 4), 3 * n),
        "crd": (3 * (T + n * 4), 3 * n),
        "crd_without_reference": (3 * (T + n * 3), 3 * n),
    }[name]
    assert ctx.policy.forward_samples == forwards * b == algorithm.calls(T, None, False)[0] * b
    assert ctx.policy.backward_samples == backwards * b == algorithm.calls(T, None, False)[1] * b


def run_any(ctx, algorithm):
    ctx.start_step(0)
    for loss in algorithm.losses(ctx, make_test_batch()):
        loss.value.backward()


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("steps", [2, 9])
def test_nothing_of_the_chain_is_kept(name, steps):
    """So memory does not grow with the steps; losses come one noising at a time, each with its own graph."""
    ctx = context()
    ctx.sampler = FlowEuler(steps)
    ctx.sampler.setup(ctx.policy.model)
    run_any(ctx, ALGORITHMS[name])
    assert ctx.last_rollout.states == {} and ctx.last_rollout.outputs == {}


@pytest.mark.parametrize("name", ["raft", "awm", "dgpo", "crd"])
def test_a_reward_without_variance_moves_nothing(name):
    ctx, algorithm = context(), ALGORITHMS[name]
    ctx.rewards = [WeightedReward("r", lambda rollout, batch: torch.ones(len(batch)))]
    for option in ("reference_weight", "average_weight", "kl_weight"):
        if hasattr(algorithm, option):
            algorithm = type(algorithm)(**{**vars(algorithm), option: 0})
    _, gradient = run(ctx, algorithm)
    assert all(float(g.abs().max()) < 1e-12 for g in gradient)


@pytest.mark.parametrize("name", ["raft", "awm", "dgpo", "crd"])
def test_a_sample_without_a_reward_takes_no_part(name):
    """The worst sample of each group, where its reward is absent, is neither good nor bad."""
    ctx, algorithm = context(), ALGORITHMS[name]

    def absent(rollout, batch):
        values = rollout.x0.detach().flatten(1).sin().mean(1)
        values[::3] = float("nan")
        return values

    ctx.rewards = [WeightedReward("r", absent)]
    _, gradient = run(ctx, algorithm)
    assert all(bool(g.isfinite().all()) for g in gradient)
    assert max(float(g.abs().max()) for g in gradient) > 0


# -- options ----------------------------------------------------------------------------------------------


def test_parts_of_whole_groups():
    assert list(group_slices(5, 3, 2)) == [slice(0, 6), slice(6, 15)]
    with pytest.raises(ComponentError, match=r"^updates: cannot cut 2 groups into 3 parts$"):
        list(group_slices(2, 3, 3))


@pytest.mark.parametrize(
    ("factory", "option", "value", "wanted"),
    [
        (RAFT, "group_size", 1, "a whole number of at least 2"),
        (AWM, "updates", 0, "a whole number of at least 1"),
        (AWM, "power", 0, "a number above 0"),
        (AWM, "average_weight", -1, "a number of at least 0"),
        (DGPO, "group_size", 1, "a whole number of at least 2"),
        (DGPO, "beta", 0, "a number above 0"),
        (CRD, "timesteps", 0, "a whole number of at least 1"),
        (CRD, "advantage_clip", 0, "a number above 0"),
        (DiffusionNFT, "group_size", 1, "a whole number of at least 2"),
        (DiffusionNFT, "reference_weight", -1, "a number of at least 0"),
    ],
)
def test_a_recipe_is_checked_against_the_ranges(factory, option, value, wanted):
    entry = Entry("algorithms", "this", factory, "nft", None)
    _, problems = check_options(build_catalog(load_plugins([], Path())), entry, {option: value}, ())
    message = (
        f"option '{option}' of algorithm 'this': expected {wanted}, got {value} (a whole number)."
    )
    assert problems == [((option,), message)]


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ComponentError) as error:
        AWM(t_range=(0.5, 0.2))
    assert str(error.value) == "expected t_range as 0 <= low < high <= 1, got [0.5, 0.2]"
    with pytest.raises(ComponentError) as error:
        CRD(kl_weight=1e-5)
    assert str(error.value) == "expected kl_weight 0 or at least 0.0001, got 1e-05"


@pytest.mark.parametrize(
    ("factory", "old", "new"),
    [
        (DiffusionNFT, "group", "group_size"),
        (DiffusionNFT, "advantage_max", "advantage_clip"),
        (RAFT, "group", "group_size"),
    ],
)
def test_a_former_name_of_an_option_is_answered_with_the_present_one(factory, old, new):
    """All algorithms share `group_size` and `advantage_clip`."""
    entry = Entry("algorithms", "this", factory, "nft", None)
    _, problems = check_options(build_catalog(load_plugins([], Path())), entry, {old: 2}, ())
    assert len(problems) == 1 and problems[0][0] == (old,)
    assert f"Did you mean {new!r}?" in problems[0][1]
