"""The algorithms on scenes: gradients against closed forms and finite differences, in float64."""

import pytest
import torch
from rewardft_plugins.ddpo3d.ddpo3d import DDPO3D, deviation, mean
from rewardft_plugins.ddpo3d.dreamdpo import DreamDPO
from rewardft_plugins.ddpo3d.noised import Level, level_at, time_range, visit
from rewardft_plugins.ddpo3d.reward_gradient_3d import RewardGradient3D
from rewardft_plugins.ddpo3d.sds import SDS

from rewardft.errors import ComponentError
from rewardft.samplers.ddim import DDIM
from rewardft.testing import check_algorithm
from rewardft.testing.conformance import gradients_of
from rewardft.testing.tiny import TinyModel
from rewardft.types import Plan, Rollout
from tests.shipped.ddpo3d.scenes import gradient, scene_context, scene_model, views

POINT = (-1, 1, 1, 1)


def curved(rollout, batch):
    """Not linear in the sample, different for each, and dependent on the condition."""
    x = rollout.x0.flatten(1)
    return (x.sin() * (1 + batch["label"].to(x))[:, None]).mean(1) - 0.1 * (x**2).mean(1)


curved.differentiable = True

ALGORITHMS = {
    "sds": SDS(),
    "sds_weightings": SDS(weighting="x0", t_range=(0.3, 0.6)),
    "ddpo3d": DDPO3D(group_size=3, jacobian=False),
    "ddpo3d_jacobian": DDPO3D(group_size=3, std="group"),
    "literal": DDPO3D(group_size=3, reward_of="render"),
    "dreamdpo": DreamDPO(),
    "reward_gradient_3d": RewardGradient3D(),
    "reward_alone": RewardGradient3D(sds_weight=0.0),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_promises_of_every_algorithm(name):
    """Micro-batches, the order and repetition change nothing, and calls are as predicted."""
    check_algorithm(
        ALGORITHMS[name],
        lambda size: scene_context(scene_model(), curved, micro_batch=size),
        views(),
    )


def flat(gradients):
    return torch.cat([part.flatten() for part in gradients])


def latents_of(model, cond):
    return model.to_prior(model.sample(cond))


class Constant:
    """A prior on pixels whose noise prediction is one picture, whatever it is shown."""

    provides = frozenset({"denoiser"})

    def __init__(self):
        tiny = TinyModel(width=8)
        self.trainable, self.scheduler = tiny.trainable, tiny.scheduler
        generator = torch.Generator().manual_seed(9)
        self.noise = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)

    def encode(self, batch):
        return {"label": batch["label"]}

    def sample_shape(self, cond):
        return (3, 8, 8)

    def denoise(self, x, t, cond):
        return self.noise.expand_as(x) + 0 * x

    def decode(self, x0):
        return x0

    def clean(self, batch):
        return 2 * batch["image"] - 1


def test_sds_is_the_weighted_error_times_the_slope_of_the_picture():
    """Equation 3 of DreamFusion, with the pictures' slopes by finite differences."""
    model = scene_model()
    ctx, batch = scene_context(model, jitter=0.0), views()
    found = flat(gradients_of(SDS(t_range=(0.4, 0.6)), ctx, batch))
    cond, noise = model.encode(batch), ctx.noise(batch)
    clean = latents_of(model, cond).detach()
    fraction = 0.4 + 0.2 * noise.uniform("timestep")
    t = (fraction * 1000).long()
    cumulative = model.scheduler.alphas_cumprod.double()[t].view(POINT)
    epsilon = noise.draw("noising", (3, 8, 8))
    state = cumulative.sqrt() * clean + (1 - cumulative).sqrt() * epsilon
    with torch.no_grad():
        error = (1 - cumulative) * (model.denoise(state, t, cond) - epsilon)
    parameter, step = model.trainable.position, 1e-6
    expected = torch.zeros_like(parameter)
    for place in range(parameter.numel()):
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[place] += sign * step
                expected.view(-1)[place] += (
                    sign * (error * latents_of(model, cond)).sum() / (2 * step * len(batch))
                )
                parameter.view(-1)[place] -= sign * step
    assert torch.allclose(found[: parameter.numel()], expected.flatten(), atol=1e-6)
    assert float(expected.abs().max()) > 1e-2


def test_a_step_is_that_of_ddim_with_eta_1():
    """The sampler of the framework, from the timestep of one of its steps to that of the next."""
    model = scene_model()
    ctx, sampler = scene_context(model), DDIM(10, eta=1.0)
    sampler.setup(model)
    noise = ctx.noise(views())
    state, output = noise.draw("a", (3, 8, 8)), noise.draw("b", (3, 8, 8))
    for k in (0, 4, 8):
        here, there = (sampler.timesteps[j] / 1000 for j in (k, k + 1))
        fractions = [torch.full((4,), f + 1e-4) for f in (here, there)]
        level, after = (level_at(ctx, f, state) for f in fractions)
        expected = sampler.transition(k, state, output, noise)
        x0 = (state - level.sigma * output) / level.alpha
        std = deviation(level, after)
        assert std.flatten().tolist() == pytest.approx([float(expected.std)] * 4)
        assert torch.allclose(mean(x0, output, after, std), expected.mean, atol=1e-10)


def two_gaussians(reward, group, **options):
    """(model, policy gradient of one step on one scene of two Gaussians, A and actions of it)."""
    model = scene_model(Constant(), scenes=1, gaussians=2)
    ctx, batch = scene_context(model, reward, jitter=0.0), views(1)
    algorithm = DDPO3D(
        group_size=group, sds_weight=0.0, policy_weight=1.0, advantage_clip=1e9, **options
    )
    kept = {}
    advantages, act = algorithm.advantages, algorithm.act
    algorithm.act = lambda *args: kept.setdefault("steps", act(*args))
    algorithm.advantages = lambda *args: kept.setdefault("advantages", advantages(*args))
    return model, flat(gradients_of(algorithm, ctx, batch)), kept, batch


# Smooth, so that the scene can go that way: the rest of the actions' noise would only blur it.
DIRECTION = torch.linspace(0.5, 1.5, 3 * 8 * 8, dtype=torch.float64).view(3, 8, 8)


def along(rollout, batch):
    """Linear in the sample: the slope of its expectation is known."""
    return (rollout.x0 * DIRECTION).flatten(1).sum(1)


def test_the_policy_gradient_is_the_score_of_the_actions_times_their_advantages():
    """Two Gaussians, every factor by hand, and the slope of the picture by finite differences."""
    model, found, kept, batch = two_gaussians(along, 4, std="group")
    steps, advantage = kept["steps"], kept["advantages"]
    cond = model.encode(batch)
    # x0_hat of an action, as the reward saw it: pixels, as the prior decodes to itself.
    drawn, after = steps.drawn, steps.after
    x0 = (drawn - after.sigma[:, None] * model.prior.noise) / after.alpha[:, None]
    reward = (x0 * DIRECTION).flatten(2).sum(2)
    by_hand = (reward - reward.mean(1, keepdim=True)) / (
        reward.std(1, unbiased=False, keepdim=True) + 1e-4
    )
    assert torch.allclose(advantage, by_hand, atol=1e-9)
    # d log pi / d mu = (a - mu) / std^2, and d mu / d x = alpha' for a constant prediction.
    clean = latents_of(model, cond).detach()
    state = steps.level.alpha * clean + steps.level.sigma * steps.noise
    guess = model.prior.noise
    start = (state - steps.level.sigma * guess) / steps.level.alpha
    left = (after.sigma**2 - steps.std**2).sqrt()
    centre = after.alpha * start + left * guess
    slope = (
        (drawn - centre[:, None]) / steps.std[:, None] ** 2 * advantage.view(2, 4, 1, 1, 1)
    ).mean(1)
    slope = -after.alpha * slope / len(batch)
    expected = []
    for parameter in model.trainable.parameters():
        for place in range(parameter.numel()):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[place] += sign * 1e-6
                    sides.append((slope * latents_of(model, cond)).sum())
                    parameter.view(-1)[place] -= sign * 1e-6
            expected.append((sides[0] - sides[1]) / 2e-6)
    expected = torch.stack(expected)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(found, expected, atol=1e-6 * float(expected.abs().max()) + 1e-6)


def test_its_expectation_is_the_gradient_of_the_expected_reward():
    """R is linear and the prediction constant, so that E[R] has the slope DIRECTION in the picture
    (1 in x0_hat), and A = (R - mean) / std with the known deviation std |DIRECTION| / alpha'."""
    model, found, kept, batch = two_gaussians(along, 5000, std="group")
    steps = kept["steps"]
    spread = steps.std * DIRECTION.norm() / steps.after.alpha
    value = -(DIRECTION / spread * latents_of(model, model.encode(batch))).sum() / len(batch)
    expected = gradient(model, value)
    cosine = torch.nn.functional.cosine_similarity(found, expected, dim=0)
    assert float(cosine) > 0.99
    assert float((found @ expected) / (expected @ expected)) == pytest.approx(1, abs=0.05)


def test_the_literal_reading_teaches_nothing_in_expectation():
    """The same estimate, with the reward of the render: what is left shrinks as 1 / sqrt(G)."""
    norms = {}
    for group in (50, 5000):
        found = []
        for seed in range(3):
            # A running mean that differs from the reward: the advantage is not 0.
            model = scene_model(Constant(), scenes=1, gaussians=2)
            ctx, batch = scene_context(model, along, jitter=0.0), views(1)
            ctx.seed, ctx.memory["ddpo3d/mean reward"] = seed, torch.tensor(-50.0).double()
            algorithm = DDPO3D(group, policy_weight=1.0, sds_weight=0.0, reward_of="render")
            found.append(float(flat(gradients_of(algorithm, ctx, batch)).norm()))
        norms[group] = sum(found) / 3
    assert norms[50] / norms[5000] == pytest.approx(10, rel=0.4)


@pytest.mark.parametrize("jacobian", [True, False])
def test_the_gradient_of_the_log_probability_by_finite_differences(jacobian):
    """Through the network, or with its prediction held fixed; the actions are."""
    model = scene_model(scenes=1, gaussians=2)
    ctx, batch = scene_context(model, curved, jitter=0.0), views(1)
    algorithm = DDPO3D(group_size=3, jacobian=jacobian, t_range=(0.5, 0.9))
    rollout = visit(ctx, batch)
    steps = algorithm.act(ctx, rollout, batch)

    def density():
        """Without the factors that do not depend on the scene, and independently written."""
        clean = latents_of(model, rollout.cond)
        state = steps.level.alpha * clean + steps.level.sigma * steps.noise
        own = model.denoise(state, steps.level.t, rollout.cond) if jacobian else steps.guess
        x0 = (state - steps.level.sigma * own) / steps.level.alpha
        centre = steps.after.alpha * x0 + (steps.after.sigma**2 - steps.std**2).sqrt() * own
        normal = torch.distributions.Normal(centre[:, None], steps.std[:, None])
        return normal.log_prob(steps.drawn).sum()

    clean = latents_of(model, rollout.cond)
    found = gradient(model, algorithm.log_prob(ctx, clean, steps, rollout.cond).sum())
    parameters, place = list(model.trainable.parameters()), 0
    for parameter in parameters:
        for i in range(0, parameter.numel(), 3):
            sides = []
            for sign in (1, -1):
                with torch.no_grad():
                    parameter.view(-1)[i] += sign * 1e-6
                    sides.append(float(density()))
                    parameter.view(-1)[i] -= sign * 1e-6
            slope = (sides[0] - sides[1]) / 2e-6
            assert float(found[place + i]) == pytest.approx(slope, rel=1e-4, abs=1e-4)
        place += parameter.numel()


def test_the_jacobian_matters():
    """With a network that answers to its input the two gradients differ."""
    with_, without = (
        flat(
            gradients_of(
                DDPO3D(3, sds_weight=0.0, jacobian=j), scene_context(scene_model(), curved), views()
            )
        )
        for j in (True, False)
    )
    assert float((with_ - without).norm() / without.norm()) > 0.01


def test_actions_to_which_no_reward_applies_teach_nothing():
    def never(rollout, batch):
        return torch.full((len(batch),), torch.nan)

    model = scene_model()
    context = scene_context(model, never)
    found = flat(gradients_of(DDPO3D(3, sds_weight=0.0), context, views()))
    assert not found.any()


def test_the_running_mean_of_the_literal_reading_is_kept():
    ctx, batch = scene_context(scene_model(), curved), views()
    algorithm = DDPO3D(2, reward_of="render")
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0]).double()
    first = algorithm.literal_advantages(ctx, rewards)
    assert first[:, 0].tolist() == pytest.approx(
        [(r - 3) / 3.5**0.5 for r in (1, 2, 3, 6)], rel=1e-3
    )
    assert first.shape == (4, 2) and bool((first[:, 0] == first[:, 1]).all())
    algorithm.literal_advantages(ctx, rewards + 10)
    assert float(ctx.memory["ddpo3d/mean reward"]) == pytest.approx(0.9 * 3 + 0.1 * 13)
    # A batch without rewards teaches nothing and leaves it as it was.
    assert not algorithm.literal_advantages(ctx, rewards * torch.nan).any()
    assert float(ctx.memory["ddpo3d/mean reward"]) == pytest.approx(0.9 * 3 + 0.1 * 13)
    assert len(batch) == 4


def test_dreamdpo_pulls_to_the_winner_and_pushes_from_the_loser():
    """2502.04370 on numbers: two items, whose winners are the second and the first noise."""
    guess = torch.tensor([1.0, 2.0, 5.0, 7.0]).view(POINT)
    noise = torch.tensor([0.5, 0.25, 1.0, 3.0]).view(POINT)
    plain = torch.tensor([1.5, 6.0]).view(POINT)  # of the losers: first of item 0, second of item 1
    reward = torch.tensor([[0.0, 1.0], [5.0, 4.75]])
    win = torch.tensor([1, 0])

    def bracket(**options):
        return DreamDPO(**options).bracket(reward, guess, plain, noise, win).flatten().tolist()

    apart = [(2 - 0.25) - (1.5 - 0.5), (5 - 1) - (6 - 3)]
    assert bracket() == apart
    assert bracket(beta=0.5) == [apart[0], 5.0]  # below beta: the winner's prediction alone
    assert bracket(sds_weight=2.0) == [apart[0] + 2 * 1.75, apart[1] + 2 * 4]
    reward[0, 0] = torch.nan
    assert bracket() == [0.0, apart[1]]


def test_the_loser_of_dreamdpo_is_predicted_without_guidance():
    prior = TinyModel(width=8, guidance=3.0)
    model = scene_model(prior)
    seen = []
    denoise = model.denoise
    model.denoise = lambda x, t, cond: (seen.append((len(x), prior.guidance)), denoise(x, t, cond))[
        1
    ]
    gradients_of(DreamDPO(), scene_context(model, curved), views())
    assert seen == [(8, 3.0), (4, 1.0)] and prior.guidance == 3.0


def test_the_reward_gradient_is_that_of_the_reward_of_the_render():
    model = scene_model()
    ctx, batch = scene_context(model, curved, jitter=0.0), views()
    found = flat(gradients_of(RewardGradient3D(2.0, sds_weight=0.0), ctx, batch))
    x0 = model.sample(model.encode(batch))
    seen = Rollout(None, ctx.noise(batch), Plan(stop=1), x0=x0)
    expected = gradient(model, -2 * curved(seen, batch).sum() / len(batch))
    assert torch.allclose(found, expected, atol=1e-12) and expected.any()


def test_the_range_of_noise_levels_moves_in_straight_lines():
    times = time_range((0.1, 0.9), (0.1, 0.5), 100, "sds")
    assert times.at(0) == (0.1, 0.9)
    assert times.at(50) == pytest.approx((0.1, 0.7))
    assert times.at(100) == times.at(1000) == pytest.approx((0.1, 0.5))
    assert time_range((0.2, 0.8), None, 0, "sds").at(7) == (0.2, 0.8)


def test_levels_of_flow_matching():
    """x_t = (1 - s) x0 + s epsilon, and epsilon_hat = x + (1 - s) output."""
    model = scene_model(TinyModel(prediction="flow", width=8))
    ctx, batch = scene_context(model, curved), views()
    level = level_at(ctx, torch.tensor([0.25, 0.5, 0.75, 0.95]), torch.zeros(4, 3, 8, 8).double())
    assert torch.allclose(level.alpha + level.sigma, torch.ones(4, 1, 1, 1).double())
    assert level.sigma.flatten().tolist() == pytest.approx([0.251, 0.501, 0.751, 0.951], abs=2e-3)
    found = flat(gradients_of(DDPO3D(3), ctx, batch))
    assert torch.isfinite(found).all() and found.any()


MESSAGES = {
    "sds: expected t_range and t_end as two fractions, 0 < low < high <= 1, got [0.9, 0.1]": lambda: (
        SDS(t_range=(0.9, 0.1))
    ),
    "sds: t_end and anneal_steps >= 1 go together, got [0.1, 0.5] and 0": lambda: SDS(
        t_end=[0.1, 0.5]
    ),
    "expected stride in (0, 1), got 1.0": lambda: DDPO3D(stride=1.0),
    "expected group_size >= 2, policy_weight and sds_weight >= 0 and advantage_clip > 0, got group_size=1, policy_weight=1.0, sds_weight=1.0, advantage_clip=5.0": lambda: (
        DDPO3D(1)
    ),
    "expected beta and sds_weight >= 0, got -1 and 0.0": lambda: DreamDPO(-1),
    "expected reward_weight and sds_weight >= 0 and not both 0, got 0 and 0": lambda: (
        RewardGradient3D(0, 0)
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_wrong_options_are_refused(message):
    with pytest.raises(ComponentError) as caught:
        MESSAGES[message]()
    assert str(caught.value) == message


def test_a_step_that_leads_nowhere_is_refused():
    level = Level(torch.tensor([3]), torch.tensor([[0.9]]), torch.tensor([[0.19**0.5]]))
    with pytest.raises(ComponentError) as caught:
        deviation(level, level)
    assert str(caught.value) == (
        "ddpo3d: a step from a timestep to `stride` times that draws nothing. Take a lower "
        "`stride`, or a `t_range` that begins later."
    )


def test_the_engine_closes_each_batch_once():
    losses = list(DDPO3D(2).losses(scene_context(scene_model(), curved, micro_batch=3), views()))
    assert [loss.step for loss in losses] == [False, True]
