"""The stochastic flow samplers: the papers' formulas, the ODE's marginals, densities, windows."""

import math

import pytest
import torch
from rewardft_plugins.grpo.cps import CPS
from rewardft_plugins.grpo.dance_sde import DanceSDE
from rewardft_plugins.grpo.flow_sde import FlowSDE

from rewardft.algorithms.regularizers import KL
from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.tiny import TinyModel
from rewardft.types import Plan

T = 6
SHAPE = (3, 4, 4)
NOISE = Noise(3, ["a", "b"], [0, 0], dtype=torch.float64)
SAMPLERS = {
    "flow_sde": lambda **o: FlowSDE(T, **o),
    "dance_sde": lambda **o: DanceSDE(T, **o),
    "cps": lambda **o: CPS(T, **o),
}


def ready(sampler):
    sampler.setup(TinyModel(prediction="flow"))
    return sampler


def flow_grpo_formula(sampler, k, x, v, noise):
    """Written from the paper's card: the step and its standard deviation."""
    s, d = sampler.sigmas[k], sampler.sigmas[k + 1] - sampler.sigmas[k]
    g = 0.7 * math.sqrt(s / (1 - (sampler.sigmas[1] if k == 0 else s)))
    mean = x * (1 + g**2 / (2 * s) * d) + v * (1 + g**2 * (1 - s) / (2 * s)) * d
    return mean + g * math.sqrt(-d) * noise, g * math.sqrt(-d)


def dance_formula(sampler, k, x, v, noise):
    s, d = sampler.sigmas[k], sampler.sigmas[k + 1] - sampler.sigmas[k]
    if k == T - 1:  # the authors' code decodes the last step's estimate of x0
        return x - s * v, 0.0
    score = -(x - (1 - s) * (x - s * v)) / s**2
    return x + v * d - 0.5 * 0.3**2 * score * d + 0.3 * math.sqrt(-d) * noise, 0.3 * math.sqrt(-d)


def cps_formula(sampler, k, x, v, noise):
    s, after = sampler.sigmas[k], sampler.sigmas[k + 1]
    g = after * math.sin(0.8 * math.pi / 2)
    return (x - s * v) * (1 - after) + (x + v * (1 - s)) * math.sqrt(after**2 - g**2) + g * noise, g


@pytest.mark.parametrize(
    ("sampler", "formula"),
    [(FlowSDE(T), flow_grpo_formula), (DanceSDE(T), dance_formula), (CPS(T), cps_formula)],
)
@pytest.mark.parametrize("k", range(T))
def test_a_step_is_the_papers_formula(sampler, formula, k):
    x, v = NOISE.draw("initial", SHAPE), NOISE.draw("velocity", SHAPE)
    step = ready(sampler).transition(k, x, v, NOISE)
    expected, std = formula(sampler, k, x, v, NOISE.draw(f"step{k}", SHAPE))
    assert torch.allclose(step.next, expected, atol=1e-12) and step.next.isfinite().all()
    assert float(step.std) == pytest.approx(std) and (step.log_prob is None) == (std == 0.0)
    assert torch.allclose(step.x0, x - sampler.sigmas[k] * v) and torch.allclose(
        step.epsilon, x + (1 - sampler.sigmas[k]) * v
    )


def test_dance_sde_may_draw_noise_to_the_end():
    x, v = NOISE.draw("initial", SHAPE), NOISE.draw("velocity", SHAPE)
    sampler = ready(DanceSDE(T, noisy_end=True))
    s, step = sampler.sigmas[T - 1], sampler.transition(T - 1, x, v, NOISE)
    score = -(x + (1 - s) * v) / s
    expected = x - v * s + 0.5 * 0.3**2 * score * s
    expected = expected + 0.3 * s**0.5 * NOISE.draw(f"step{T - 1}", SHAPE)
    assert torch.allclose(step.next, expected, atol=1e-12) and step.log_prob is not None


MEAN, SPREAD = torch.tensor([1.5, -0.5]).double(), torch.tensor([0.4, 1.3]).double()
COUNT = 4000


class GaussianTarget:
    """Data N(MEAN, diag(SPREAD^2)): the velocity is known in closed form. One sample holds COUNT points."""

    scheduler = TinyModel(prediction="flow").scheduler
    decode = None

    def sample_shape(self, cond):
        return (COUNT, 2)

    def denoise(self, x, t, cond):
        s = float(t[0]) / 1000
        centred, variance = x - (1 - s) * MEAN, ((1 - s) * SPREAD) ** 2 + s**2
        return s / variance * centred - (
            MEAN + (1 - s) * SPREAD**2 / variance * centred
        )  # E[epsilon | x] - E[x0 | x]


@pytest.mark.parametrize("name", ["flow_euler", "flow_sde", "dance_sde", "cps"])
def test_marginals_are_those_of_the_ode(name):
    """Mean and covariance at the middle and at the end, within 3 standard errors of the exact ones."""
    steps = 400
    make = {
        "flow_euler": FlowEuler,
        "flow_sde": FlowSDE,
        "dance_sde": lambda n: DanceSDE(n, 0.8),
        "cps": lambda n: CPS(n, 0.1),
    }
    sampler, target = make[name](steps), GaussianTarget()
    sampler.setup(target)
    rollout = sampler.rollout(
        target,
        None,
        Plan(steps, frozenset({steps // 2})),
        Noise(1, ["a"], [0], dtype=torch.float64),
    )
    for x, s in (
        (
            rollout.states[steps // 2][0],
            sampler.ode.sigmas[steps // 2] if name != "flow_euler" else sampler.sigmas[steps // 2],
        ),
        (rollout.x0[0], 0.0),
    ):
        variance = ((1 - s) * SPREAD) ** 2 + s**2
        assert ((x.mean(0) - (1 - s) * MEAN).abs() < 3 * (variance / COUNT).sqrt()).all()
        covariance = torch.cov(x.T)
        assert ((covariance.diag() - variance).abs() < 3 * variance * math.sqrt(2 / COUNT)).all()
        assert covariance[0, 1].abs() < 3 * variance.prod().sqrt() / math.sqrt(COUNT)


def test_the_noise_of_a_step_is_drawn_anew():
    """Two samples from one state differ: the chains above are stochastic, not the ODE in disguise."""
    for make in SAMPLERS.values():
        sampler = ready(make())
        x = NOISE.draw("initial", SHAPE)[:1].expand(2, *SHAPE)
        assert (
            sampler.transition(2, x, x, NOISE).next[0] - sampler.transition(2, x, x, NOISE).next[1]
        ).abs().max() > 0.05


@pytest.mark.parametrize("name", SAMPLERS)
def test_log_prob_and_kl_are_those_of_torch(name):
    sampler = ready(SAMPLERS[name]())
    x, v, w = (NOISE.draw(stream, SHAPE) for stream in ("initial", "v", "w"))
    new, reference = (
        sampler.transition(2, x, v, NOISE),
        sampler.transition(2, x, v + 0.1 * w, NOISE),
    )
    density, other = (torch.distributions.Normal(step.mean, step.std) for step in (new, reference))
    assert torch.allclose(new.log_prob, density.log_prob(new.next).mean(dim=(1, 2, 3)), atol=1e-12)
    expected = torch.distributions.kl_divergence(density, other).mean(dim=(1, 2, 3))
    assert (
        torch.allclose(KL("gaussian")(new, reference), expected, atol=1e-12) and expected.min() > 0
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_outside_the_window_a_step_is_the_ode(name):
    sampler, ode = ready(SAMPLERS[name]()), ready(FlowEuler(T))
    sampler.window = frozenset({2, 3})
    x = NOISE.draw("initial", SHAPE)
    for k in range(T):
        step, euler = sampler.transition(k, x, x.sin(), NOISE), ode.transition(k, x, x.sin(), NOISE)
        assert (step.log_prob is not None) == (k in (2, 3))
        assert torch.equal(step.next, euler.next) == (k not in (2, 3))


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_noise_it_is_the_ode_and_says_so(name):
    sampler, ode = ready(SAMPLERS[name](noise_level=0.0)), ready(FlowEuler(T))
    x = NOISE.draw("initial", SHAPE)
    assert all(
        torch.equal(sampler.transition(k, x, x, NOISE).next, ode.transition(k, x, x, NOISE).next)
        for k in range(T)
    )
    assert type(sampler).tags(noise_level=0.0) == frozenset()
    assert type(sampler).tags(noise_level=0.5) == {"stochastic", "log_prob", "sde_window"}


def test_renoise_is_the_forward_process():
    sampler, x0, noise = ready(FlowSDE(T)), NOISE.draw("x0", (2,)), NOISE.draw("n", (2,))
    s = sampler.sigmas[3]
    assert torch.allclose(sampler.renoise(x0, 3, noise), (1 - s) * x0 + s * noise)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowSDE(0), "expected steps >= 1 and noise_level >= 0, got 0 and 0.7"),
        (lambda: DanceSDE(4, -1.0), "expected steps >= 1 and noise_level >= 0, got 4 and -1.0"),
        (lambda: CPS(4, 1.5), "cps: expected noise_level within [0, 1], got 1.5"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ComponentError) as error:
        make()
    assert str(error.value) == message
