"""The samplers' arithmetic against diffusers' own schedulers, and log-probabilities against torch.distributions."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.ddpm import DDPM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing.tiny import TinyModel, make_scheduler
from rewardft.types import Plan

T = 10
NOISE = Noise(3, ["a", "b"], [0, 0], dtype=torch.float64)


def walk(sampler, reference, noise_name, **step_options):
    """Run both chains on the same made-up network outputs; returns the largest difference."""
    reference.set_timesteps(T)
    assert [float(t) for t in reference.timesteps] == pytest.approx([float(t) for t in sampler.timesteps])
    ours = theirs = NOISE.draw("initial", (3, 4, 4))
    worst = 0.0
    for k, t in enumerate(reference.timesteps):
        output = torch.sin(3 * ours + k)
        extra = {"variance_noise": NOISE.draw(f"step{k}", (3, 4, 4))} if noise_name else {}
        theirs = reference.step(output, t, theirs, **extra, **step_options).prev_sample
        ours = sampler.transition(k, ours, output, NOISE).next
        worst = max(worst, float((ours - theirs).abs().max()))
    return worst


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_equals_diffusers(prediction, eta, spacing):
    sampler = DDIM(T, eta=eta, spacing=spacing)
    model = TinyModel(prediction=prediction)
    sampler.setup(model)
    reference = DDIMScheduler.from_config(model.scheduler.config, timestep_spacing=spacing, clip_sample=False)
    assert walk(sampler, reference, noise_name=eta > 0, eta=eta) < 1e-5


def test_ddim_clipping_equals_diffusers():
    sampler, model = DDIM(T, clip=1.0), TinyModel()
    sampler.setup(model)
    reference = DDIMScheduler.from_config(model.scheduler.config, clip_sample=True, clip_sample_range=1.0)
    assert walk(sampler, reference, noise_name=False) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_equals_the_posterior_of_diffusers(prediction):
    """diffusers draws its noise inside `step`, so the posterior's mean and variance are compared."""
    sampler, model = DDPM(T, spacing="leading"), TinyModel(prediction=prediction)
    sampler.setup(model)
    reference = DDPMScheduler.from_config(model.scheduler.config, timestep_spacing="leading", clip_sample=False)
    reference.set_timesteps(T)
    x = NOISE.draw("initial", (3, 4, 4))
    for k, t in enumerate(reference.timesteps[:-1]):
        output = torch.sin(3 * x + k)
        ours = sampler.transition(k, x, output, NOISE)
        sample = reference.step(output, t, x, generator=torch.Generator().manual_seed(0)).prev_sample
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        assert float(ours.std) == pytest.approx(float(reference._get_variance(t)) ** 0.5, rel=1e-5)
        assert torch.allclose(ours.mean + ours.std * drawn, sample, atol=1e-5)
        x = ours.next


def test_flow_euler_equals_diffusers():
    sampler, model = FlowEuler(T, shift=3.0), TinyModel(prediction="flow")
    sampler.setup(model)
    assert walk(sampler, FlowMatchEulerDiscreteScheduler(shift=3.0), noise_name=False) < 1e-5


def test_x0_and_epsilon_are_exact_when_the_network_is_right():
    """For each prediction type a perfect output gives back the clean sample and the noise."""
    from rewardft.samplers.prediction import target_output, to_x0_and_epsilon

    x0, epsilon = NOISE.draw("x0", (5,)), NOISE.draw("eps", (5,))
    alpha, sigma = torch.tensor(0.6, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)
    for kind in ("epsilon", "v_prediction", "sample"):
        output = target_output(kind, x0, epsilon, alpha, sigma)
        got = to_x0_and_epsilon(kind, alpha * x0 + sigma * epsilon, output, 0.6, 0.8)
        assert torch.allclose(got[0], x0) and torch.allclose(got[1], epsilon)


@pytest.mark.parametrize("sampler", [DDIM(T, eta=0.7), DDPM(T)])
def test_log_prob_equals_torch_distributions(sampler):
    sampler.setup(TinyModel())
    x = NOISE.draw("initial", (3, 4, 4))
    step = sampler.transition(2, x, torch.cos(x), NOISE)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(step.next).flatten(1).mean(1)
    assert torch.allclose(step.log_prob, expected, atol=1e-12)


def test_log_prob_of_a_replay_is_that_of_the_state_that_was_sampled():
    sampler, model = DDIM(T, eta=1.0), TinyModel()
    sampler.setup(model)
    noise = Noise(0, ["a", "b"], [0, 0])
    with torch.no_grad():
        cond = {"label": torch.tensor([0, 1])}
        rollout = sampler.rollout(model, cond, Plan(stop=T, keep=frozenset({4, 5})), noise)
        rollout.states[5] += 0.1
        step = sampler.replay(model, rollout, 4, input_gradient=False)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(rollout.states[5]).flatten(1).mean(1)
    assert torch.allclose(step.log_prob, expected, atol=1e-5)
    assert not torch.allclose(step.log_prob, rollout.log_probs[4], atol=1e-3)


def test_log_prob_of_the_last_step_is_that_of_the_finished_sample():
    sampler, model = DDIM(T, eta=1.0), TinyModel()
    sampler.setup(model)
    sampler.schedule.alphas[-1] = sampler.schedule.alphas[-2] ** 0.5  # a last step that draws noise
    with torch.no_grad():
        plan = Plan(stop=T, keep=frozenset({T - 1}))
        rollout = sampler.rollout(model, {"label": torch.tensor([0, 1])}, plan, Noise(0, ["a", "b"], [0, 0]))
        rollout.x0 += 0.1
        step = sampler.replay(model, rollout, T - 1, input_gradient=False)
    expected = torch.distributions.Normal(step.mean, step.std).log_prob(rollout.x0).flatten(1).mean(1)
    assert torch.allclose(step.log_prob, expected, atol=1e-5)


def test_a_deterministic_step_has_no_log_prob():
    sampler = DDIM(T)
    sampler.setup(TinyModel())
    x = NOISE.draw("initial", (3, 4, 4))
    assert sampler.transition(0, x, x, NOISE).log_prob is None
    assert "log_prob" not in DDIM.tags(eta=0.0) and "log_prob" in DDIM.tags(eta=0.1)


def test_renoise_is_the_forward_process():
    sampler = DDIM(T)
    sampler.setup(TinyModel())
    x0, noise = NOISE.draw("x0", (2,)), NOISE.draw("n", (2,))
    a = float(make_scheduler("epsilon").alphas_cumprod[sampler.timesteps[7]])
    assert torch.allclose(sampler.renoise(x0, 7, noise), math.sqrt(a) * x0 + math.sqrt(1 - a) * noise, atol=1e-7)


def test_a_sampler_refuses_the_wrong_scheduler():
    with pytest.raises(ComponentError) as error:
        DDIM(4).setup(TinyModel(prediction="flow"))
    assert str(error.value) == (
        "expected a model whose `scheduler` is a diffusers scheduler with `alphas_cumprod`, got "
        "FlowMatchEulerDiscreteScheduler. Flow-matching models go with the sampler `flow_euler`."
    )
    with pytest.raises(ComponentError) as error:
        FlowEuler(4).setup(TinyModel())
    assert str(error.value) == (
        "flow_euler needs a model whose scheduler is FlowMatchEulerDiscreteScheduler, got DDPMScheduler. "
        "Models with betas go with `ddim` or `ddpm`."
    )
