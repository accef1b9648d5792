"""The samplers' arithmetic against diffusers' own schedulers, and log-probabilities against torch.distributions."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from rewardft.algorithms.denoising import Denoising
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
    reference.set_timesteps(sampler.steps)
    assert [float(t) for t in reference.timesteps] == pytest.approx(
        [float(t) for t in sampler.timesteps]
    )
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
    reference = DDIMScheduler.from_config(
        model.scheduler.config, timestep_spacing=spacing, clip_sample=False
    )
    assert walk(sampler, reference, noise_name=eta > 0, eta=eta) < 1e-5


def test_ddim_clipping_equals_diffusers():
    sampler, model = DDIM(T, clip=1.0), TinyModel()
    sampler.setup(model)
    reference = DDIMScheduler.from_config(
        model.scheduler.config, clip_sample=True, clip_sample_range=1.0
    )
    assert walk(sampler, reference, noise_name=False) < 1e-5


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_equals_the_posterior_of_diffusers(prediction):
    """diffusers draws its noise inside `step`, so the posterior's mean and variance are compared."""
    sampler, model = DDPM(T, spacing="leading"), TinyModel(prediction=prediction)
    sampler.setup(model)
    reference = DDPMScheduler.from_config(
        model.scheduler.config, timestep_spacing="leading", clip_sample=False
    )
    reference.set_timesteps(T)
    x = NOISE.draw("initial", (3, 4, 4))
    for k, t in enumerate(reference.timesteps[:-1]):
        output = torch.sin(3 * x + k)
        ours = sampler.transition(k, x, output, NOISE)
        sample = reference.step(
            output, t, x, generator=torch.Generator().manual_seed(0)
        ).prev_sample
        drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        assert float(ours.std) == pytest.approx(float(reference._get_variance(t)) ** 0.5, rel=1e-5)
        assert torch.allclose(ours.mean + ours.std * drawn, sample, atol=1e-5)
        x = ours.next


def test_flow_euler_equals_diffusers():
    sampler, model = FlowEuler(T, shift=3.0), TinyModel(prediction="flow")
    sampler.setup(model)
    assert walk(sampler, FlowMatchEulerDiscreteScheduler(shift=3.0), noise_name=False) < 1e-5


def test_ddim_without_noise_is_the_euler_step_of_a_flow():
    sampler, model = DDIM(T), TinyModel(prediction="flow")
    sampler.setup(model)
    assert walk(sampler, FlowMatchEulerDiscreteScheduler(shift=1.0), noise_name=False) < 1e-5


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_ddim_with_noise_keeps_the_marginals(prediction, eta):
    """x_k ~ N(alpha, sigma^2) around the clean sample 1: with a perfect network x_{k+1} has the next level's moments."""
    sampler = DDIM(T, eta=eta)
    sampler.setup(TinyModel(prediction=prediction))
    count, noise = 40_000, Noise(5, ["a"], [0], dtype=torch.float64)
    for k in (0, 4, 8):
        alpha, sigma = sampler.schedule.level(k)
        epsilon = noise.draw(f"e{k}", (count,))
        x = alpha + sigma * epsilon
        output = epsilon if prediction == "epsilon" else epsilon - 1
        after = sampler.transition(k, x, output, noise).next
        mean, std = sampler.schedule.level(k + 1)
        assert abs(float(after.mean()) - mean) < 3 * std / count**0.5
        assert abs(float(after.std()) - std) < 3 * std / (2 * count) ** 0.5


def test_ddim_at_eta_1_forgets_pure_noise():
    """A flow starts at s = 1, where the state says nothing about the sample: all of its noise is drawn anew."""
    sampler = DDIM(T, eta=1.0)
    sampler.setup(TinyModel(prediction="flow"))
    x = NOISE.draw("initial", (3, 4, 4))
    step = sampler.transition(0, x, x - 0.25, NOISE)  # the network says x0 = 0.25
    alpha, sigma = sampler.schedule.level(1)
    assert torch.allclose(step.mean, torch.full_like(x, 0.25 * alpha)) and float(
        step.std
    ) == pytest.approx(sigma)


@pytest.mark.parametrize("options", [{"spacing": "trailing"}, {"next_level": "stride"}], ids=str)
def test_ddim_refuses_a_spacing_for_a_flow(options):
    with pytest.raises(ComponentError) as error:
        DDIM(4, **options).setup(TinyModel(prediction="flow"))
    assert str(error.value) == (
        "ddim: flow-matching models have no timestep spacing; leave `spacing` and `next_level` out"
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("linspace", 7), ("linspace", 10), ("trailing", 7), ("leading", 7)]
)
def test_by_strides_ddim_takes_diffusers_steps(spacing, steps, final, eta):
    """The scheduler goes from t to t - 1000 // T whatever its grid; on the grid itself it would be far off."""
    grid, stride = DDIM(steps, eta, spacing=spacing), DDIM(steps, eta, None, spacing, "stride")
    model = TinyModel()
    reference = DDIMScheduler.from_config(
        model.scheduler.config,
        timestep_spacing=spacing,
        clip_sample=False,
        set_alpha_to_one=final,
    )
    model.scheduler = reference
    for sampler in (grid, stride):
        sampler.setup(model)
    assert walk(stride, reference, noise_name=eta > 0, eta=eta) < 1e-5
    off = walk(grid, reference, noise_name=eta > 0, eta=eta)
    assert off < 1e-5 if spacing == "leading" else off > 1e-2


def zero_snr(prediction):
    model = TinyModel(prediction=prediction)
    model.scheduler = DDIMScheduler.from_config(
        model.scheduler.config, rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    return model


@pytest.mark.parametrize("make", [DDIM, DDPM], ids=["ddim", "ddpm"])
def test_a_noise_prediction_at_pure_noise_is_refused_where_it_would_divide_by_zero(make):
    with pytest.raises(ComponentError) as error:
        make(4).setup(zero_snr("epsilon"))
    assert str(error.value) == (
        "the chain begins at timestep 999, where the model's schedule has no signal left (alpha = 0, "
        "`rescale_betas_zero_snr`). A network that predicts the noise says nothing about the sample there. "
        "Take another `spacing`, such as `leading`, or a network that predicts v."
    )
    for sampler, prediction in ((make(4), "v_prediction"), (make(4, spacing="leading"), "epsilon")):
        model = zero_snr(prediction)
        sampler.setup(model)
        x = NOISE.draw("initial", (3, 4, 4))
        assert sampler.transition(0, x, torch.sin(x), NOISE).next.isfinite().all()


@pytest.mark.parametrize(
    ("prediction", "make", "key", "what"),
    [
        ("epsilon", DDIM, "thresholding", "clips x0 at a quantile of each sample"),
        ("epsilon", DDPM, "thresholding", "clips x0 at a quantile of each sample"),
        ("flow", DDIM, "invert_sigmas", "counts noise levels from data to noise"),
        ("flow", FlowEuler, "stochastic_sampling", "draws all noise anew at every step"),
    ],
)
def test_a_switch_that_samplers_do_not_have_is_refused(prediction, make, key, what):
    model = TinyModel(prediction=prediction)
    model.scheduler = type(model.scheduler).from_config(model.scheduler.config, **{key: True})
    with pytest.raises(ComponentError) as error:
        make(4).setup(model)
    assert str(error.value) == (
        f"the model's scheduler has `{key}: true`: it {what}, and the samplers here do not. Set `{key}` to false in "
        "its scheduler_config.json to sample without."
    )


def test_the_weight_of_a_noise_prediction_is_one_where_there_is_no_signal():
    weight = Denoising(min_snr=5.0).weight("epsilon", torch.tensor([0.0, 2.0, 20.0]))
    assert weight.tolist() == [1.0, 1.0, 0.25]


def test_x0_and_epsilon_are_exact_when_the_network_is_right():
    """For each prediction type a perfect output gives back the clean sample and the noise."""
    from rewardft.samplers.prediction import target_output, to_x0_and_epsilon

    x0, epsilon = NOISE.draw("x0", (5,)), NOISE.draw("eps", (5,))
    for kind in ("epsilon", "v_prediction", "sample", "flow_prediction"):
        levels = (0.2, 0.8) if kind == "flow_prediction" else (0.6, 0.8)
        alpha, sigma = torch.tensor(levels, dtype=torch.float64)
        output = target_output(kind, x0, epsilon, alpha, sigma)
        got = to_x0_and_epsilon(kind, alpha * x0 + sigma * epsilon, output, *levels)
        assert torch.allclose(got[0], x0) and torch.allclose(got[1], epsilon)


@pytest.mark.parametrize("sampler", [DDIM(T, eta=0.7), DDPM(T)])
def test_log_prob_equals_torch_distributions(sampler):
    sampler.setup(TinyModel())
    x = NOISE.draw("initial", (3, 4, 4))
    step = sampler.transition(2, x, torch.cos(x), NOISE)
    expected = (
        torch.distributions.Normal(step.mean, step.std).log_prob(step.next).flatten(1).mean(1)
    )
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
    expected = (
        torch.distributions.Normal(step.mean, step.std)
        .log_prob(rollout.states[5])
        .flatten(1)
        .mean(1)
    )
    assert torch.allclose(step.log_prob, expected, atol=1e-5)
    assert not torch.allclose(step.log_prob, rollout.log_probs[4], atol=1e-3)


def test_log_prob_of_the_last_step_is_that_of_the_finished_sample():
    sampler, model = DDIM(T, eta=1.0, spacing="trailing"), TinyModel()
    model.scheduler = DDIMScheduler.from_config(  # its last step draws noise
        model.scheduler.config, set_alpha_to_one=False
    )
    sampler.setup(model)
    with torch.no_grad():
        plan = Plan(stop=T, keep=frozenset({T - 1}))
        rollout = sampler.rollout(
            model, {"label": torch.tensor([0, 1])}, plan, Noise(0, ["a", "b"], [0, 0])
        )
        rollout.x0 += 0.1
        step = sampler.replay(model, rollout, T - 1, input_gradient=False)
    expected = (
        torch.distributions.Normal(step.mean, step.std).log_prob(rollout.x0).flatten(1).mean(1)
    )
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
    assert torch.allclose(
        sampler.renoise(x0, 7, noise), math.sqrt(a) * x0 + math.sqrt(1 - a) * noise, atol=1e-7
    )


def test_a_sampler_refuses_the_wrong_scheduler():
    with pytest.raises(ComponentError) as error:
        DDPM(4).setup(TinyModel(prediction="flow"))
    assert str(error.value) == (
        "expected a model whose `scheduler` is a diffusers scheduler with `alphas_cumprod`, got "
        "FlowMatchEulerDiscreteScheduler. Flow-matching models go with the samplers `flow_euler` and `ddim`."
    )
    with pytest.raises(ComponentError) as error:
        FlowEuler(4).setup(TinyModel())
    assert str(error.value) == (
        "flow_euler needs a model whose scheduler is FlowMatchEulerDiscreteScheduler, got DDPMScheduler. "
        "Models with betas go with `ddim` or `ddpm`."
    )
