"""No denoiser call that is not needed: forwards and backwards per step, counted on the network itself."""

import random

import pytest

from rewardft.algorithms.direct import Direct
from rewardft.algorithms.direct_presets import alignprop, draft, draft_k, draft_lv, drtune, refl
from rewardft.samplers.ddim import DDIM
from tests.gradients import T, make_context, make_test_batch, run_backward


def count(algorithm, form=None, seed=11):
    """(forwards with the adapter, forwards of the reference, backwards), by hooks on the module."""
    ctx = make_context(DDIM(T), form)
    calls = {"adapter": 0, "reference": 0, "backward": 0}
    layer = ctx.adapter.layers[0]

    def forward(module, args, output):
        calls["reference" if layer.disable_adapters else "adapter"] += 1

    ctx.adapter.module.register_forward_hook(forward)
    ctx.adapter.module.leave.register_full_backward_hook(
        lambda *a: calls.__setitem__("backward", calls["backward"] + 1)
    )
    ctx.rng = random.Random(seed)
    list(run_backward(algorithm.losses(ctx, make_test_batch())))
    assert (calls["adapter"] + calls["reference"], calls["backward"]) == (
        ctx.policy.forwards,
        ctx.policy.backwards,
    )
    return calls["adapter"], calls["reference"], calls["backward"]


@pytest.mark.parametrize(
    ("algorithm", "forwards", "backwards"),
    [
        (draft_k(1), T, 1),
        (draft_k(2), T + 1, 2),
        (draft(), 2 * T - 1, T),
        (draft_lv(1), T + 1, 1),
        (draft_lv(3), T + 3, 3),
    ],
)
@pytest.mark.parametrize("form", [None, "epsilon_mse"])
def test_fixed_presets(algorithm, forwards, backwards, form):
    assert count(algorithm, form) == (forwards, backwards if form else 0, backwards)
    told = (forwards + (backwards if form else 0), backwards)
    assert algorithm.calls(T, random.Random(0), form is not None) == told


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "algorithm", [refl(3, target=99.0), drtune(2, 3), alignprop(), Direct("spaced", 3, True)]
)
def test_random_presets_follow_the_formula(algorithm, seed):
    """forwards = n + K - [the last executed step learns], + K reference calls; backwards = K."""
    path = algorithm.draw_path(T, random.Random(seed))
    trained = len(path.train)
    expected = (path.length + trained - int(path.live), trained, trained)
    assert count(algorithm, "epsilon_mse", seed) == expected
    for form in (None, "epsilon_mse"):
        adapter, reference, backward = count(algorithm, form, seed)
        assert algorithm.calls(T, random.Random(seed), form is not None) == (
            adapter + reference,
            backward,
        )


def test_refl_never_runs_past_its_step():
    for seed in range(20):
        path = refl(4).draw_path(40, random.Random(seed))
        assert path.train == (path.length - 1,) and 36 <= path.train[0] <= 39 and path.estimate


def test_drtune_draws_steps_as_the_paper_says():
    """DrPose's T=20, K=2, m=8: end 1..8 steps early, two steps half the chain apart, both before the end."""
    seen = set()
    for seed in range(300):
        path = drtune(2, 8).draw_path(20, random.Random(seed))
        assert 13 <= path.length <= 20 and path.estimate
        first, second = path.train
        assert second - first == path.length // 2 and first >= 0 and second < path.length
        seen.add(path.length)
    assert seen == set(range(13, 21))


def test_the_truncation_point_is_drawn_once_per_trajectory():
    """AlignProp's trained steps are one unbroken run up to the end; a point drawn per step would leave holes."""
    points = set()
    for seed in range(200):
        path = alignprop().draw_path(50, random.Random(seed))
        assert path.train == tuple(range(path.train[0], 50)) and path.train[0] >= 1
        points.add(path.train[0])
    assert 38 <= sum(points) / len(points) <= 44 and len(points) > 10


def test_one_decode_per_scored_sample():
    ctx = make_context(DDIM(T))
    decoded = []
    original = ctx.policy.model.decode
    ctx.policy.model.decode = lambda x: decoded.append(len(x)) or original(x)
    list(run_backward(draft_k(2).losses(ctx, make_test_batch())))
    assert decoded == [], "the reward reads latents only, so nothing may be decoded"


@pytest.mark.parametrize("micro_batch", [None, 1])
def test_samples_are_counted_whatever_the_micro_batch(micro_batch):
    """DRaFT-LV with n = 3: every sample is denoised T + n times, differentiated n times and scored n times."""
    ctx, batch = make_context(DDIM(T), micro_batch=micro_batch), make_test_batch()
    list(run_backward(draft_lv(3).losses(ctx, batch)))
    assert ctx.cost["denoiser_forward_samples"] == (T + 3) * len(batch)
    assert ctx.cost["denoiser_backward_samples"] == ctx.cost["reward_evaluations"] == 3 * len(batch)
