"""SRPO: exact gradients against a hand-written reference, exact restoration, the relative preference, whole runs."""

import random
from dataclasses import replace

import pytest
import torch
from rewardft_plugins.srpo.srpo import SRPO, Visit, restore

from rewardft.errors import ComponentError, RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.recipe.recipe import load_recipe
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.testing import check_cut, check_same_run, run_recipe
from rewardft.types import Transition
from tests.gradients import (
    T,
    drawn_gradients,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)

CASES = {
    "flow": (FlowEuler, "flow"),
    "epsilon": (DDIM, "epsilon"),
    "v": (DDIM, "v_prediction"),
    "sample": (DDIM, "sample"),
}


def levels(sampler, prediction):
    """(alpha, sigma) of each level from the noisiest to the clean end, read off diffusers' own numbers."""
    if prediction == "flow":
        return [(1 - s, s) for s in sampler.sigmas]
    return [(a**0.5, (1 - a) ** 0.5) for a in sampler.schedule.alphas]


def estimates(prediction, x, output, alpha, sigma):
    """x0 and noise as the network says, by the definition of each prediction type."""
    if prediction == "epsilon":
        return (x - sigma * output) / alpha, output
    if prediction == "v_prediction":
        return alpha * x - sigma * output, alpha * output + sigma * x
    if prediction == "sample":
        return output, (x - alpha * output) / sigma
    return x - sigma * output, x + (1 - sigma) * output


def discount(j):
    u = (T - j) / T
    return 3 * u / (1 + 2 * u)


def reference_gradients(ctx, batch, visits, prediction, weights=discount, target=None):
    """-mean of lambda r at the restored samples, by autograd through the whole expression, one visit after the other."""
    sampler, model = ctx.sampler, ctx.policy.model
    cond, scale = ctx.encode(batch), levels(ctx.sampler, prediction)
    noise = ctx.noise(batch)
    epsilon = noise.draw("initial", (3, 8, 8))
    x = epsilon
    with torch.no_grad():
        for k in range(T):
            t = torch.full((len(batch),), sampler.timesteps[k])
            x = sampler.transition(k, x, model.denoise(x, t, cond), noise).next
    guidance, model.guidance = model.guidance, 1.0
    total = torch.zeros((), dtype=torch.float64)
    for k, j in visits:
        (alpha, sigma), (alpha_j, sigma_j) = scale[k], scale[j]
        x_k = alpha * x + sigma * epsilon
        output = model.denoise(x_k, torch.full((len(batch),), sampler.timesteps[k]), cond)
        x0_hat, epsilon_hat = estimates(prediction, x_k, output, alpha, sigma)
        x_j = alpha_j * x0_hat + sigma_j * epsilon_hat
        restored = ((x_j - sigma_j * epsilon) / alpha_j).flatten(1)
        reward = 1.3 * (
            (restored.sin() * (1 + batch["label"].double())[:, None]).mean(1)
            - 0.1 * (restored**2).mean(1)
        )
        penalty = 0
        if ctx.regularizers:
            with torch.no_grad(), ctx.adapter.disabled():
                base = model.denoise(x_k, torch.full((len(batch),), sampler.timesteps[k]), cond)
            penalty = 0.37 * (
                epsilon_hat - estimates(prediction, x_k, base, alpha, sigma)[1]
            ).square().flatten(1).mean(1)
        reward = reward if k < j else -reward  # the inversion branch
        value = -reward if target is None else (target - reward).relu()
        total = total + (penalty + weights(j) * value).mean() / len(visits)
    model.guidance = guidance
    total.backward()
    return take_gradients(ctx)


def drawn(algorithm):
    rng = random.Random(11)
    drawn = [algorithm.draw_visit(T, rng) for _ in range(algorithm.visits)]
    return [(v.k, v.j) for visit in drawn for v in algorithm.branches(visit)]


def assert_equal(got, expected):
    for a, b in zip(got, expected):
        assert (a - b).norm() <= 1e-10 * b.norm() and b.norm() > 0


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_the_restored_sample(case, jump):
    sampler, prediction = CASES[case]
    ctx, batch = make_context(sampler(T), prediction=prediction), make_test_batch()
    algorithm = SRPO(visits=3, jump=jump)
    assert_equal(
        drawn_gradients(ctx, algorithm, batch),
        reference_gradients(ctx, batch, drawn(algorithm), prediction),
    )


@pytest.mark.parametrize(
    "options", [{"guidance": 2.5}, {"form": "epsilon_mse"}, {"micro_batch": 2}], ids=str
)
def test_guidance_regularizers_and_micro_batches(options):
    """Visits run without guidance; the sample itself was rolled out with it."""
    ctx, batch = make_context(FlowEuler(T), prediction="flow", **options), make_test_batch()
    algorithm = SRPO(visits=2)
    assert_equal(
        drawn_gradients(ctx, algorithm, batch),
        reference_gradients(ctx, batch, drawn(algorithm), "flow"),
    )


def test_the_discount_can_be_linear_or_left_out():
    ctx, batch = make_context(FlowEuler(T), prediction="flow"), make_test_batch()
    for shift, weights in ((1.0, lambda j: (T - j) / T), (None, lambda j: 1.0)):
        algorithm = SRPO(visits=2, discount_shift=shift)
        assert_equal(
            drawn_gradients(ctx, algorithm, batch),
            reference_gradients(ctx, batch, drawn(algorithm), "flow", weights),
        )


@pytest.mark.parametrize("case", CASES)
def test_the_inversion_branch_and_the_hinge(case):
    """x_j of equation 2 from a cleaner level, the opposite reward; samples beyond the target say nothing."""
    sampler, prediction = CASES[case]
    batch, found = make_test_batch(), []
    for target in (None, -0.03):
        ctx = make_context(sampler(T), prediction=prediction)
        algorithm = SRPO(visits=2, inversion=True, target=target, discount_shift=None)
        visits = drawn(algorithm)
        assert [k > j for k, j in visits] == [False, True] * 2
        assert [j for _, j in visits[0::2]] == [j for _, j in visits[1::2]]
        assert all(k == j + 1 < T for k, j in visits[1::2])
        expected = reference_gradients(ctx, batch, visits, prediction, lambda j: 1.0, target)
        assert_equal(drawn_gradients(ctx, algorithm, batch), expected)
        found.append(expected)
    assert relative_error(*found) > 0.01, "some samples are beyond the target"


def released_restore(sigmas, start, end, x0, noise, velocity):
    """One branch of the authors' code in its own terms: Euler from one noise level to another, the known noise out."""
    noisy = sigmas[start] * noise + (1 - sigmas[start]) * x0
    walked = noisy + (sigmas[end] - sigmas[start]) * velocity
    return (walked - sigmas[end] * noise) / (1 - sigmas[end])


@pytest.mark.parametrize(("k", "j"), [(1, 3), (4, 2)], ids=["denoising", "inversion"])
def test_both_branches_restore_as_the_released_code_does(k, j):
    sampler = FlowEuler(T)
    make_context(sampler, prediction="flow")
    generator = torch.Generator().manual_seed(0)
    x0, noise, velocity = (
        torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    state = sampler.renoise(x0, k, noise)
    new = sampler.transition(k, state, velocity, None)
    expected = released_restore(sampler.sigmas, k, j, x0, noise, velocity)
    assert torch.allclose(restore(sampler, new, noise, j), expected, atol=1e-12)


# -- restoration -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [FlowEuler(T), DDIM(T)], ids=["flow", "ddim"])
def test_a_perfect_network_restores_the_sample_from_every_level(sampler):
    make_context(sampler, prediction="flow" if isinstance(sampler, FlowEuler) else "epsilon")
    generator = torch.Generator().manual_seed(0)
    x0, epsilon = (
        torch.randn(2, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    for k in range(T):
        for j in range(k + 1, T + 1):
            perfect = Transition(state=sampler.renoise(x0, k, epsilon), x0=x0, epsilon=epsilon)
            assert torch.allclose(restore(sampler, perfect, epsilon, j), x0, atol=1e-12)


def test_a_jump_to_the_end_is_the_one_step_estimate():
    sampler = FlowEuler(T)
    make_context(sampler, prediction="flow")
    x0, wrong, epsilon = (torch.full((1, 3, 8, 8), v) for v in (0.3, -2.0, 1.0))
    assert torch.allclose(
        restore(sampler, Transition(state=x0, x0=x0, epsilon=wrong), epsilon, T), x0
    )


def test_an_error_of_the_network_counts_by_the_noise_that_it_took_out():
    """With x_k fixed, x0_hat and epsilon_hat are off together; a short step keeps little of it."""
    sampler = FlowEuler(T)
    make_context(sampler, prediction="flow")
    generator = torch.Generator().manual_seed(0)
    x0, epsilon, error = (torch.randn(1, 3, 8, 8, generator=generator) for _ in range(3))
    k = 1
    s = sampler.sigmas[k]
    guess = Transition(state=x0, x0=x0 - s * error, epsilon=epsilon + (1 - s) * error)
    off = [float((restore(sampler, guess, epsilon, j) - x0).norm()) for j in range(k + 1, T + 1)]
    expected = [
        float(((s - sampler.sigmas[j]) / (1 - sampler.sigmas[j]) * error).norm())
        for j in range(k + 1, T + 1)
    ]
    assert off == pytest.approx(expected, rel=1e-5) and off == sorted(off)


def test_visits_stay_in_the_window():
    rng = random.Random(0)
    algorithm = SRPO(window=(0.2, 0.6), jump=2)
    visits = {(v.k, v.j) for v in (algorithm.draw_visit(10, rng) for _ in range(200))}
    assert visits == {(k, k + 2) for k in range(2, 6)}
    late = SRPO(window=(0.5, 1.0), jump=3)
    assert {late.draw_visit(10, rng).k for _ in range(200)} == {5, 6}, (
        "some noise is left at the end of a visit"
    )


# -- the relative preference -------------------------------------------------------------------------------------------

DIRECTIONS = torch.randn(3, 3 * 64, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def text_direction(prompt):
    """A stand-in for an embedding of a text: what depends on the word, and what on the rest."""
    word, _, rest = prompt.rpartition(". ")
    return DIRECTIONS[{"": 0, "real": 1, "painting": 2}[word]] + 0.1 * len(rest)


def clip_like(rollout, batch):
    features = torch.nn.functional.normalize(rollout.x0.flatten(1), dim=1)
    return (features * torch.stack([text_direction(p) for p in batch["prompt"]])).sum(1)


def prompted_context():
    ctx = make_context(FlowEuler(T), prediction="flow")
    batch = make_test_batch()
    ctx.rewards = [WeightedReward("clip_like", clip_like, 1.0)]
    return ctx, replace(batch, columns={**batch.columns, "prompt": ["a fox", "rain", "seven cups"]})


def test_the_relative_reward_is_the_difference_of_two_wordings():
    """f . ((1 + k) C_wanted - C_unwanted), whose gradient is written out here as one reward."""
    ctx, batch = prompted_context()
    got = drawn_gradients(ctx, SRPO(wanted=("real",), unwanted=("painting",), strength=0.5), batch)

    def combined(rollout, batch):
        features = torch.nn.functional.normalize(rollout.x0.flatten(1), dim=1)
        texts = [
            1.5 * text_direction(f"real. {p}") - text_direction(f"painting. {p}")
            for p in batch["prompt"]
        ]
        return (features * torch.stack(texts)).sum(1)

    ctx.rewards = [WeightedReward("combined", combined, 1.0)]
    assert_equal(got, drawn_gradients(ctx, SRPO(), batch))


def test_strengths_depend_on_the_level_and_the_inversion_branch_swaps_the_words():
    """(1 + k) C_asked - C_other by the cleaner level of a visit, as the released code has it; both branches as one."""
    ctx, batch = prompted_context()
    algorithm = SRPO(
        wanted=("real",),
        unwanted=("painting",),
        strength=(0.1, 0.25),
        inverted_strength=(0.3, 0.01),
        inversion=True,
    )
    got = drawn_gradients(ctx, algorithm, batch)
    (k, j), (i, _) = drawn(algorithm)
    assert algorithm.strength_at(Visit(k, j), T) == pytest.approx(0.1 + 0.15 * (T - j) / T)
    assert algorithm.strength_at(Visit(i, j), T) == pytest.approx(0.3 - 0.29 * (T - i) / T)
    branches = []
    for visit, asked, other in (
        (Visit(k, j), "real", "painting"),
        (Visit(i, j), "painting", "real"),
    ):
        strength = algorithm.strength_at(visit, T)

        def combined(rollout, batch, strength=strength, asked=asked, other=other):
            features = torch.nn.functional.normalize(rollout.x0.flatten(1), dim=1)
            texts = [
                (1 + strength) * text_direction(f"{asked}. {p}") - text_direction(f"{other}. {p}")
                for p in batch["prompt"]
            ]
            return (features * torch.stack(texts)).sum(1)

        sign = -1.0 if visit.inverts else 1.0  # without words the branch asks for less reward
        ctx.rewards = [WeightedReward("combined", combined, sign)]
        mirrored = SRPO(inversion=True)
        object.__setattr__(
            mirrored, "branches", lambda v: [v if not visit.inverts else Visit(v.j + 1, v.j)]
        )
        branches.append(drawn_gradients(ctx, mirrored, batch))
    assert_equal(got, [(a + b) / 2 for a, b in zip(*branches)])


def test_words_change_with_the_step_and_what_is_logged():
    ctx, batch = prompted_context()
    seen = []

    def listening(rollout, batch):
        seen.append(batch["prompt"][0])
        return rollout.x0.flatten(1).mean(1)

    ctx.rewards = [WeightedReward("listening", listening, 1.0)]
    algorithm = SRPO(wanted=("real", "detailed"), unwanted=("painting",))
    for step in (0, 1, 2):
        ctx.step = step
        list(run_backward(algorithm.losses(ctx, batch)))
    assert seen == [
        "a fox",
        "real. a fox",
        "painting. a fox",
        "a fox",
        "detailed. a fox",
        "painting. a fox",
        "a fox",
        "real. a fox",
        "painting. a fox",
    ]
    records = ctx.take_records()
    assert set(records) == {
        "reward/listening",
        "reward",
        "restored/wanted",
        "restored/unwanted",
        "restored/change",
        "loss",
    }
    assert records["reward"][1] == 9, "only finished samples are the run's rewards"


def test_calls_are_the_least_that_is_needed():
    ctx, batch = (
        make_context(FlowEuler(T), form="epsilon_mse", prediction="flow"),
        make_test_batch(),
    )
    drawn_gradients(ctx, SRPO(visits=2), batch)
    assert (ctx.policy.forwards, ctx.policy.backwards) == (T + 2 + 2, 2)
    drawn_gradients(ctx, SRPO(visits=2, inversion=True), batch)
    assert (ctx.policy.forwards, ctx.policy.backwards) == (2 * T + 4 + 8, 2 + 4)


# -- what is refused ---------------------------------------------------------------------------------------------------

OPTIONS = [
    (
        {"visits": 0},
        "srpo: expected visits and jump of at least 1 and a window within [0, 1], got 0, 1 and [0, 1]",
    ),
    (
        {"window": (0.5, 0.4)},
        "srpo: expected visits and jump of at least 1 and a window within [0, 1], got 1, 1 and [0.5, 0.4]",
    ),
    (
        {"discount_shift": 0.0},
        "srpo: expected discount_shift > 0, strength and inverted_strength >= 0, got 0.0, 0.0 and 0.0",
    ),
    (
        {"strength": (0.1, -0.2)},
        "srpo: expected discount_shift > 0, strength and inverted_strength >= 0, got 3.0, (0.1, -0.2) and 0.0",
    ),
    (
        {"wanted": ("real",)},
        "srpo: a relative preference needs `wanted` and `unwanted` words; only one is given",
    ),
]


@pytest.mark.parametrize(("options", "text"), OPTIONS, ids=str)
def test_options_that_cannot_work_are_refused(options, text):
    with pytest.raises(ComponentError) as caught:
        SRPO(**options)
    assert str(caught.value) == text


def test_a_chain_too_short_for_the_jump_is_explained():
    with pytest.raises(ComponentError) as caught:
        SRPO(jump=4, window=(0.5, 1.0)).draw_visit(6, random.Random(0))
    assert str(caught.value) == (
        "srpo: no step of 6 is within the window [0.5, 1] and leaves noise after 4 of them. "
        "Widen the window, lower `jump` or sample with more steps."
    )


def test_a_data_set_without_prompts_is_explained():
    ctx, batch = make_context(FlowEuler(T), prediction="flow"), make_test_batch()
    with pytest.raises(ComponentError) as caught:
        list(run_backward(SRPO(wanted=("real",), unwanted=("painting",)).losses(ctx, batch)))
    assert str(caught.value) == (
        "srpo: `wanted` and `unwanted` go in front of the prompt, and the data set has no column 'prompt'; "
        "it gives: id, image, label, group"
    )


# -- whole runs --------------------------------------------------------------------------------------------------------

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.srpo]
seed: 3
model: {use: tiny, prediction: flow, width: 12}
sampler: {use: flow_euler, steps: 5}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: srpo, visits: 2}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1}
train: {steps: 4, log_every: 1}
save: {every: 2, keep: 9}
"""


def test_how_a_step_is_cut_up_does_not_matter(recipe, tmp_path):
    check_cut(recipe, tmp_path, accumulate=4)


def test_a_longer_run_continues_to_the_same_bits(recipe, tmp_path):
    whole = run_recipe(recipe, tmp_path / "whole")
    run_recipe(recipe, tmp_path / "half", "train.steps=2")
    resumed = run_recipe(recipe, tmp_path / "half", resume=True)
    check_same_run(whole, resumed, columns=["loss", "gradient_norm", "reward"])


def test_words_need_a_reward_that_reads_prompts(recipe):
    words = ["algorithm.wanted=[real]", "algorithm.unwanted=[painting]"]
    loaded = load_recipe(recipe, words)
    with pytest.raises(RecipeError, match="algorithm 'srpo' needs 'prompt_reward'"):
        resolve(loaded, load_plugins(loaded.plugins, recipe.parent))


def test_a_prompt_reward_and_words_are_accepted(recipe):
    settings = [
        "plugins=[rewardft.testing.tiny, rewardft_plugins.srpo, rewardft_plugins.rewards]",
        "rewards=[{use: clip_score}]",
        "algorithm.wanted=[real, detailed]",
        "algorithm.unwanted=[painting]",
    ]
    loaded = load_recipe(recipe, settings)
    resolved = resolve(loaded, load_plugins(loaded.plugins, recipe.parent))
    assert resolved.algorithm.build().wanted == ("real", "detailed")
