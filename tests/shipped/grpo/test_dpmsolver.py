"""DPM-Solver++(2M) against diffusers, its order of convergence, and replays that carry the step before."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from rewardft_plugins.grpo.dpmsolver import DPMSolver

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.tiny import TinyModel
from rewardft.types import Plan
from tests.shipped.grpo.test_samplers import MEAN, SPREAD, GaussianTarget

T = 20
NOISE = Noise(3, ["a", "b"], [0, 0], dtype=torch.float64)


def walk(sampler, reference):
    """Both chains on the same made-up network outputs; returns the largest difference."""
    ours = theirs = NOISE.draw("initial", (3, 4, 4))
    before, worst = None, 0.0
    for k, t in enumerate(reference.timesteps):
        output = torch.sin(3 * ours + k)
        theirs = reference.step(output, t, theirs).prev_sample
        step = sampler.step(k, ours, output, before)
        ours, before = step.next, step.x0
        worst = max(worst, float((ours - theirs).abs().max()))
    return worst


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_equals_diffusers_for_models_with_betas(prediction):
    sampler, model = DPMSolver(T, spacing="trailing"), TinyModel(prediction=prediction)
    sampler.setup(model)
    reference = DPMSolverMultistepScheduler.from_config(
        model.scheduler.config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        timestep_spacing="trailing",
        final_sigmas_type="zero",
    )
    reference.set_timesteps(T)
    assert [int(t) for t in reference.timesteps] == sampler.timesteps
    assert walk(sampler, reference) < 1e-4


def test_equals_diffusers_for_flow_matching():
    sampler = DPMSolver(T)
    sampler.setup(TinyModel(prediction="flow"))
    reference = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        final_sigmas_type="zero",
    )
    reference.set_timesteps(T)
    sampler.sigmas = [float(s) for s in reference.sigmas.double()]  # diffusers starts just below 1
    sampler.alphas = [1 - s for s in sampler.sigmas]
    assert sampler.sigmas[-1] == 0.0 and walk(sampler, reference) < 1e-5


def distance(sampler):
    """Of the chain's end from the exact flow of a Gaussian target: x_0 = mean + spread * x_1."""
    sampler.setup(GaussianTarget())
    noise = Noise(1, ["a"], [0], dtype=torch.float64)
    rollout = sampler.rollout(GaussianTarget(), None, Plan(sampler.steps), noise)
    exact = MEAN + SPREAD * noise.draw("initial", GaussianTarget().sample_shape(None))
    return float((rollout.x0 - exact).square().mean().sqrt())


def test_it_is_of_second_order():
    """Twice the steps: about a quarter of the error, where Euler's is halved."""
    fast, slow = ([distance(make(n)) for n in (20, 40, 80)] for make in (DPMSolver, FlowEuler))
    assert all(4 < a / b < 5 for a, b in pairwise(fast)) and all(
        1.9 < a / b < 2.1 for a, b in pairwise(slow)
    )
    assert fast[-1] < 0.2 * slow[-1]


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_replay_carries_the_step_before(prediction):
    model, sampler = TinyModel(prediction=prediction), DPMSolver(6)
    sampler.setup(model)
    noise, cond = Noise(3, ["a", "b"], [0, 0]), {"label": torch.tensor([0, 1])}
    rollout = sampler.rollout(model, cond, Plan(6, frozenset(range(6))), noise)
    part = rollout.select(slice(1, 2))
    for k in range(6):
        after = rollout.states[k + 1] if k < 5 else rollout.x0
        with torch.no_grad():
            assert torch.equal(sampler.replay(model, rollout, k, input_gradient=False).next, after)
            assert torch.allclose(
                sampler.replay(model, part, k, input_gradient=False).next, after[1:], atol=1e-5
            )
    stopped = sampler.rollout(model, cond, Plan(3, frozenset({3})), noise)
    with torch.no_grad():
        assert torch.equal(
            sampler.replay(model, stopped, 3, input_gradient=False).next, rollout.states[4]
        )
    assert torch.equal(
        sampler.rollout(model, cond, Plan(3, estimate=True), noise).x0,
        rollout.info["dpmsolver/x0_before"][3],
    )


def test_it_has_no_densities_and_no_transition():
    sampler = DPMSolver(4)
    assert sampler.provides == {"renoise"} and not hasattr(sampler, "transition")
    with pytest.raises(ComponentError, match=r"^dpmsolver\+\+: expected steps >= 1, got 0$"):
        DPMSolver(0)


def test_renoise_is_the_forward_process():
    sampler, model = DPMSolver(10), TinyModel()
    sampler.setup(model)
    x0, noise = NOISE.draw("x0", (2,)), NOISE.draw("n", (2,))
    a = float(model.scheduler.alphas_cumprod[sampler.timesteps[7]])
    assert torch.allclose(
        sampler.renoise(x0, 7, noise), math.sqrt(a) * x0 + math.sqrt(1 - a) * noise, atol=1e-7
    )
