"""The replay engine's gradients equal plain autograd through the unrolled sampler, in float64."""

import random
from typing import get_args

import pytest
import torch

from rewardft.algorithms.direct import Direct
from rewardft.algorithms.direct_presets import alignprop, draft, draft_k, draft_lv, drtune, refl
from rewardft.algorithms.loss_shapes import Shape, shape_loss, shape_slope
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.ddpm import DDPM
from rewardft.samplers.flow import FlowEuler
from tests.gradients import (
    T,
    drawn_gradients,
    make_context,
    make_test_batch,
    relative_error,
    take_gradients,
)


def unrolled_gradients(ctx, algorithm, batch):
    """Plain autograd through every step, written from the papers' definitions and sharing no code with walk_back."""
    path = algorithm.draw_path(ctx.sampler.steps, random.Random(11))
    noise, cond, model = ctx.noise(batch), ctx.encode(batch), ctx.policy
    penalty = torch.zeros(len(batch), dtype=torch.float64)
    x = noise.draw("initial", model.sample_shape(cond))
    for k in range(path.length):
        x_in = x if algorithm.input_gradient else x.detach()
        t = torch.full((len(batch),), ctx.sampler.timesteps[k])
        output = model.denoise(x_in, t, cond)
        if k not in path.train:
            output = output.detach()
        step = ctx.sampler.transition(k, x, output, noise)
        if k in path.train and ctx.regularizers:
            penalty = penalty + kl_term(ctx, algorithm, k, x, output, step, cond, noise)
        x = step.x0 if path.estimate and k == path.length - 1 else step.next
    loss = loss_of(algorithm, ctx, x, batch) + penalty
    loss.mean().backward()
    return take_gradients(ctx)


def resampled_gradients(ctx, algorithm, batch):
    """DRaFT-LV by its definition: the mean over n noisings of the finished sample to the last step, learnt from there."""
    last, noise, cond = T - 1, ctx.noise(batch), ctx.encode(batch)
    with torch.no_grad():
        finished = noise.draw("initial", ctx.policy.sample_shape(cond))
        for k in range(T):
            t = torch.full((len(batch),), ctx.sampler.timesteps[k])
            finished = ctx.sampler.transition(
                k, finished, ctx.policy.denoise(finished, t, cond), noise
            ).next
    a = ctx.sampler.schedule.alphas[last]
    total = 0.0
    for i in range(algorithm.resamples):
        x = a**0.5 * finished + (1 - a) ** 0.5 * noise.draw(f"resample{i}", finished.shape[1:])
        output = ctx.policy.denoise(x, torch.full((len(batch),), ctx.sampler.timesteps[last]), cond)
        step = ctx.sampler.transition(last, x, output, noise)
        penalty = (
            kl_term(ctx, algorithm, last, x, output, step, cond, noise) if ctx.regularizers else 0.0
        )
        total = (
            total
            + (loss_of(algorithm, ctx, step.next, batch) + penalty).mean() / algorithm.resamples
        )
    total.backward()
    return take_gradients(ctx)


def kl_term(ctx, algorithm, k, x, output, step, cond, noise):
    """The reference is a constant; the tuned step's own input carries gradient only in the through form."""
    t = torch.full((len(x),), ctx.sampler.timesteps[k])
    with torch.no_grad(), ctx.adapter.disabled():
        reference = ctx.sampler.transition(k, x, ctx.policy.denoise(x, t, cond), noise)
    mine = (
        step if algorithm.input_gradient else ctx.sampler.transition(k, x.detach(), output, noise)
    )
    return sum(term.weight * term.penalty(mine, reference) for term in ctx.regularizers)


def loss_of(algorithm, ctx, x0, batch):
    x = x0.flatten(1)
    reward = 1.3 * ((x.sin() * (1 + batch["label"].to(x))[:, None]).mean(1) - 0.1 * (x**2).mean(1))
    return algorithm.scale * {
        "negative": lambda r: -r,
        "one_minus": lambda r: 1 - r,
        "hinge": lambda r: torch.relu(algorithm.target - r),
        "absolute": lambda r: (algorithm.target - r).abs(),
    }[algorithm.shape](reward)


ALGORITHMS = {
    "draft": draft(),
    "draft_1": draft_k(1),
    "draft_2": draft_k(2),
    "draft_T": draft_k(T),
    "alignprop": alignprop(),
    "alignprop_uniform": alignprop("uniform"),
    "refl": refl(early_stop=3, target=50.0, scale=1.0),
    "drtune_1": drtune(1, 3),
    "drtune_2": drtune(2, 3),
    "drtune_T": Direct("spaced", T, False, 0, shape="one_minus"),
    "stopped_all": Direct("last", None, False, 0),
    "spaced_through": Direct("spaced", 2, True, 2, shape="absolute", target=3.0),
    "last_stopped_early": Direct("last", 2, False, 2),
}
PRESETS = {
    **{
        name: ALGORITHMS[name]
        for name in ("draft", "draft_1", "draft_2", "draft_T", "alignprop", "refl")
    },
    **{name: ALGORITHMS[name] for name in ("drtune_1", "drtune_2", "drtune_T")},
    "drtune_T_estimate": drtune(T, 1),
    "draft_lv": draft_lv(2),
}
SAMPLERS = {
    "ddim": lambda: DDIM(T),
    "ddim_eta": lambda: DDIM(T, eta=0.8),
    "ddim_clipped": lambda: DDIM(T, eta=0.5, clip=1.0),
    "ddpm": lambda: DDPM(T),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_replay_equals_unrolled_autograd(name, sampler):
    ctx, batch = make_context(SAMPLERS[sampler](), form="epsilon_mse"), make_test_batch()
    ours = drawn_gradients(ctx, ALGORITHMS[name], batch)
    assert relative_error(ours, unrolled_gradients(ctx, ALGORITHMS[name], batch)) < 1e-9


@pytest.mark.parametrize(
    ("eta", "penalty"),  # a deterministic step has no density, so no Gaussian KL
    [(0.0, None), (0.0, "epsilon_mse"), (0.8, None), (0.8, "epsilon_mse"), (0.8, "gaussian")],
)
@pytest.mark.parametrize("guidance_gradient", ["inside", "outside"])
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_with_guidance_noise_and_kl(name, guidance_gradient, eta, penalty):
    """Every preset x K x guidance (scale 4) x eta x KL."""
    ctx, batch = make_context(DDIM(T, eta), penalty, 4.0, guidance_gradient), make_test_batch(2)
    if penalty == "gaussian":
        ctx.sampler.schedule.alphas[-1] = (
            ctx.sampler.schedule.alphas[-2] ** 0.5
        )  # a last step that draws noise
    ours = drawn_gradients(ctx, PRESETS[name], batch)
    unrolled = resampled_gradients if PRESETS[name].resamples else unrolled_gradients
    assert relative_error(ours, unrolled(ctx, PRESETS[name], batch)) < 1e-9


@pytest.mark.parametrize("guidance_gradient", ["inside", "outside"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["draft", "draft_1", "drtune_2"])
def test_with_guidance_and_prediction_types(name, prediction, guidance_gradient):
    ctx = make_context(DDIM(T, eta=0.3), "epsilon_mse", 4.0, guidance_gradient, prediction)
    batch = make_test_batch()
    ours = drawn_gradients(ctx, ALGORITHMS[name], batch)
    assert relative_error(ours, unrolled_gradients(ctx, ALGORITHMS[name], batch)) < 1e-9


@pytest.mark.parametrize("name", ["draft", "draft_2", "refl", "drtune_2", "alignprop"])
def test_flow_matching(name):
    ctx, batch = (
        make_context(FlowEuler(T), "epsilon_mse", 2.0, prediction="flow"),
        make_test_batch(),
    )
    ours = drawn_gradients(ctx, ALGORITHMS[name], batch)
    assert relative_error(ours, unrolled_gradients(ctx, ALGORITHMS[name], batch)) < 1e-9


@pytest.mark.parametrize("name", ["stopped_all", "drtune_2", "draft"])
def test_gaussian_kl(name):
    ctx, batch = make_context(DDIM(T, eta=1.0), "gaussian"), make_test_batch()
    ctx.sampler.schedule.alphas[-1] = (
        ctx.sampler.schedule.alphas[-2] ** 0.5
    )  # a last step that draws noise
    ours = drawn_gradients(ctx, ALGORITHMS[name], batch)
    assert relative_error(ours, unrolled_gradients(ctx, ALGORITHMS[name], batch)) < 1e-9


@pytest.mark.parametrize("name", ["draft", "drtune_2", "draft_1"])
def test_micro_batches_change_nothing(name):
    whole, batch = make_context(DDIM(T, eta=0.5), "epsilon_mse"), make_test_batch(5)
    pieces = make_context(DDIM(T, eta=0.5), "epsilon_mse", micro_batch=2)
    expected = drawn_gradients(whole, ALGORITHMS[name], batch)
    assert relative_error(drawn_gradients(pieces, ALGORITHMS[name], batch), expected) < 1e-12


@pytest.mark.parametrize("eta", [0.0, 0.8])
def test_draft_lv_averages_fresh_noisings_of_the_finished_sample(eta):
    algorithm = draft_lv(resamples=3)
    ctx, batch = make_context(DDIM(T, eta), form="epsilon_mse"), make_test_batch()
    ours = drawn_gradients(ctx, algorithm, batch)
    assert relative_error(ours, resampled_gradients(ctx, algorithm, batch)) < 1e-9


def test_stopped_input_differs_from_through():
    """DRTune without the stop on the denoiser's input would be another algorithm: the two must not coincide."""
    batch = make_test_batch()
    stopped = drawn_gradients(make_context(DDIM(T)), Direct("last", None, False), batch)
    through = drawn_gradients(make_context(DDIM(T)), Direct("last", None, True), batch)
    assert relative_error(stopped, through) > 1e-2


@pytest.mark.parametrize(
    ("shape", "target", "expected"),
    [
        ("negative", 0.0, [-1.0, -3.0]),
        ("one_minus", 0.0, [0.0, -2.0]),
        ("hinge", 2.0, [1.0, 0.0]),
        ("absolute", 2.0, [1.0, 1.0]),
    ],
)
def test_loss_shapes(shape, target, expected):
    assert shape_loss(torch.tensor([1.0, 3.0]), shape, target).tolist() == expected


@pytest.mark.parametrize("shape", get_args(Shape))
def test_slopes_of_loss_shapes(shape):
    # On both sides of the target, and at it.
    reward = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(shape_loss(reward, shape, 2.0).sum(), reward)
    assert torch.equal(shape_slope(reward.detach(), shape, 2.0), expected)
