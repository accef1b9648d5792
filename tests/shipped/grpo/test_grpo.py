"""The GRPO family: groups, windows, shared noise, whole runs, resuming, refusals."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rewardft_plugins.grpo.dance_grpo import dance_grpo
from rewardft_plugins.grpo.flow_grpo import flow_grpo
from rewardft_plugins.grpo.flow_sde import FlowSDE
from rewardft_plugins.grpo.grpo import GRPO, GroupNoise
from rewardft_plugins.grpo.mix_grpo import MixGRPO
from safetensors.torch import load_file

from rewardft.errors import ComponentError, RecipeError
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.testing import check_resume, run_recipe
from rewardft.types import Scores
from tests.bench import line_of
from tests.gradients import (
    T,
    make_context,
    make_test_batch,
    relative_error,
    run_backward,
    take_gradients,
)
from tests.maths.test_policy_gradient import log_ratio_rounding, reinforce, single_precision

RECIPE = """
plugins: [rewardft.testing.tiny, rewardft_plugins.grpo]
seed: 3
model: {use: tiny, prediction: flow, guidance: 2.0, width: 12}
sampler: {use: flow_sde, steps: 5}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: flow_grpo, group_size: 4}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1}
train: {steps: 8, log_every: 2}
save: {every: 2, keep: 9}
"""
ALGORITHMS = {
    "flow_grpo": ["regularizers=[{use: kl, form: gaussian, weight: 0.001}]"],
    "dance_grpo": [
        "algorithm={use: dance_grpo, group_size: 4}",
        "sampler={use: dance_sde, steps: 5}",
    ],
    "mix_grpo": ["algorithm={use: mix_grpo, group_size: 4, window: 2, shift_every: 3}"],
    "mix_grpo_one_pass": [
        "algorithm={use: mix_grpo, group_size: 4, window: 2, shift_every: 3}",
        "train.micro_batch=1",
    ],
    "random_window": [
        "algorithm={use: mix_grpo, group_size: 4, window: 2, strategy: random}",
        "sampler={use: cps, steps: 5}",
    ],
    "grpo": [
        "algorithm={use: grpo, group_size: 4, updates: 2}",
        "model.prediction=epsilon",
        "sampler={use: ddim, steps: 5, eta: 1.0}",
    ],
}


def weights(run):
    return load_file(run.folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resuming_continues_to_the_same_bits(recipe, tmp_path, name):
    columns = ("loss", "reward", "gradient_norm", "ratio", "window_start")
    whole = check_resume(recipe, tmp_path, *ALGORITHMS[name], stop=4, columns=columns)
    assert len(whole.column("loss")) == 8


def test_the_window_slides_and_returns(recipe, tmp_path):
    """Every 2 batches one step on; 4 places of a window of 2 in 5 steps."""
    options = [
        "algorithm={use: mix_grpo, group_size: 2, window: 2, shift_every: 2, frozen_last: 0}",
        "train.steps=10",
    ]
    run = run_recipe(recipe, tmp_path / "out", *options)
    assert run.column("window_start") == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0]
    assert (
        run.summary["denoiser_forwards"] == 10 * (5 + 2)
        and run.summary["denoiser_backwards"] == 10 * 2
    )


def windows(algorithm, count):
    ctx = SimpleNamespace(sampler=SimpleNamespace(steps=9), memory={}, rng=random.Random(0))
    return [list(algorithm.draw_window(ctx)) for _ in range(count)]


def test_the_window_never_reaches_the_frozen_steps():
    assert windows(MixGRPO(window=3, shift_every=1), 6) == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
        [4, 5, 6],
        [0, 1, 2],
    ]
    drawn = windows(MixGRPO(window=3, strategy="random"), 200)
    assert {w[0] for w in drawn} == set(range(5)) and {len(w) for w in drawn} == {3}


def test_a_shrinking_window_is_the_released_one_without_its_empty_place():
    """Starts 0 .. T - 3, cut off at T - 2, as the authors' code has it; then from the start."""
    expected = [list(range(start, min(start + 3, 7))) for start in range(7)]
    assert windows(MixGRPO(window=3, shift_every=1, shrink=True), 14) == 2 * expected


def released_advantages(rewards, size):
    """DanceGRPO's and MixGRPO's normalisation in numpy."""
    groups = np.array(rewards).reshape(-1, size)
    centred = groups - groups.mean(1, keepdims=True)
    return (centred / (groups.std(1, ddof=1, keepdims=True) + 1e-8)).flatten()


@pytest.mark.parametrize(
    "algorithm", [dance_grpo(4), MixGRPO(group_size=4).grpo], ids=["dance_grpo", "mix_grpo"]
)
def test_groups_are_normalised_as_in_the_released_codes(algorithm):
    """Rewards that hardly differ show the floor, groups of four the unbiased deviation."""
    rewards = [0.2810, 0.2815, 0.2811, 0.2801, 1.0, 3.0, 2.5, 0.0]
    ctx = make_context(FlowSDE(T), prediction="flow")
    ctx.rewards = [WeightedReward("r", None, 1.0)]
    got, _ = algorithm.advantages(ctx, scored(rewards, r=rewards)(None, None))
    assert got.tolist() == pytest.approx(released_advantages(rewards, 4).tolist(), rel=1e-9)


def test_flow_grpo_leaves_the_last_step_out():
    ctx, batch = make_context(FlowSDE(T), prediction="flow"), make_test_batch(2)
    seen, replay = [], ctx.replay
    ctx.replay = lambda rollout, k: (seen.append(k), replay(rollout, k))[1]
    list(run_backward(flow_grpo(2, updates=1).losses(ctx, batch)))
    assert seen == list(range(T - 1))
    with pytest.raises(ComponentError) as error:
        list(run_backward(flow_grpo(2, skip_last=T).losses(ctx, batch)))
    assert str(error.value) == (
        f"skip_last {T} leaves none of the sampler's {T} steps to learn from. Lower skip_last, or "
        "give the sampler more steps."
    )


def test_mix_grpo_in_one_pass_equals_two(recipe, tmp_path):
    algorithm = ALGORITHMS["mix_grpo"]
    two, one = (
        run_recipe(recipe, tmp_path / str(n), *algorithm, f"train.micro_batch={n}") for n in (2, 1)
    )
    mine, theirs = weights(one), weights(two)
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in mine) < 2e-5
    assert (
        one.summary["denoiser_forwards"] == 8 * 8 * 5
        and one.summary["denoiser_backwards"] == 8 * 8 * 2
    )


def test_only_the_windows_steps_are_trained():
    ctx, batch = make_context(FlowSDE(T), prediction="flow"), make_test_batch(2)
    seen, replay = [], ctx.replay
    ctx.replay = lambda rollout, k: (seen.append(k), replay(rollout, k))[1]
    losses = MixGRPO(window=2, shift_every=1, group_size=3)
    list(run_backward(losses.losses(ctx, batch)))
    first, seen[:] = list(seen), []
    list(run_backward(losses.losses(ctx, batch)))
    assert (first, seen) == ([0, 1], [1, 2]) and ctx.sampler.window is None
    assert ctx.last_rollout.log_probs.keys() == {1, 2}


@pytest.mark.parametrize(
    "algorithm",
    [flow_grpo(3), dance_grpo(3), GRPO(3), MixGRPO(group_size=3)],
    ids=["flow", "dance", "plain", "mix"],
)
@pytest.mark.parametrize("micro_batch", [None, 2])
def test_ratios_are_one_at_the_first_update(algorithm, micro_batch):
    ctx = make_context(FlowSDE(T), prediction="flow", guidance=2.0, micro_batch=micro_batch)
    ctx.policy.trainable.float()
    ctx.dtype = torch.float32
    for loss in run_backward(algorithm.losses(ctx, make_test_batch(2))):
        if loss.step:
            break
    worst = torch.cat(ctx._records["log_ratio_squared"]).max().sqrt()
    assert worst < log_ratio_rounding(ctx, ctx.last_rollout)
    assert single_precision().dtype == ctx.dtype


def scored(rewards, **by_name):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    names = {name: torch.tensor(values, dtype=torch.float64) for name, values in by_name.items()}
    return lambda rollout, batch: Scores(rewards, names)


@pytest.mark.parametrize("std", ["global", "group"])
def test_the_first_update_is_reinforce_with_group_advantages(std):
    """Two groups of three; the second has no variance and contributes nothing."""
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch(2)
    rewards = np.array([1.0, 2.0, 4.0, 3.0, 3.0, 3.0])
    ctx.score = scored(rewards)
    list(run_backward(GRPO(3, std=std, advantage_clip=1.2).losses(ctx, batch)))
    spread = rewards.std() if std == "global" else rewards[:3].std()
    advantage = np.append(
        np.clip((rewards[:3] - rewards[:3].mean()) / (spread + 1e-4), -1.2, 1.2), [0, 0, 0]
    )
    expected = reinforce(make_context(DDIM(T, eta=1.0)), batch.repeat(3), torch.tensor(advantage))
    assert relative_error(take_gradients(ctx), expected) < 1e-10
    assert torch.cat(ctx._records["groups_without_variance"]).mean() == 0.5


def test_a_group_without_variance_pays_no_penalty_either():
    """Away from initialisation the KL would pull at the dropped group too."""
    got = []
    for rewards in ([1.0, 2.0, 3.0, 3.0], [1.0, 2.0, 3.0, 3.1]):
        ctx = make_context(DDIM(T, eta=1.0), "gaussian")
        ctx.score = scored(rewards)
        seen, penalty = [], ctx.penalty
        ctx.penalty = lambda new, rollout, k: seen.append(penalty(new, rollout, k)) or seen[-1]
        list(
            run_backward(GRPO(2, std="group", advantage_clip=1e-12).losses(ctx, make_test_batch(2)))
        )
        got.append((take_gradients(ctx), torch.stack(seen).detach()))
    (dropped, penalties), (full, _) = got
    assert penalties.min() > 0 and relative_error(dropped, full) > 0.1


def test_advantages_of_single_rewards_are_summed():
    ctx = make_context(DDIM(T, eta=1.0))
    ctx.rewards = [WeightedReward("a", None, 2.0), WeightedReward("b", None, 0.5)]
    a, b = np.array([1.0, 3.0, 5.0, 5.0]), np.array([0.0, 10.0, 20.0, 0.0])
    scores = scored(2 * a + 0.5 * b, a=a, b=b)(None, None)
    got, kept = GRPO(2, std="group", aggregate="advantage").advantages(ctx, scores)
    one = lambda r: np.where(r.std() > 0, (r - r.mean()) / (r.std() + 1e-4), 0.0)
    expected = np.concatenate([2 * one(a[i : i + 2]) + 0.5 * one(b[i : i + 2]) for i in (0, 2)])
    assert got.tolist() == pytest.approx(expected.tolist(), abs=1e-9) and kept.all()


def by_gdpo(rewards, weights, size):
    """Group z-scores of each reward, their weighted sum, its z-score over the batch; in numpy."""
    total = np.zeros(len(rewards[0]))
    for values, weight in zip(rewards, weights):
        groups = values.reshape(-1, size)
        spread = groups.std(1, keepdims=True) + 1e-4
        total += weight * ((groups - groups.mean(1, keepdims=True)) / spread).flatten()
    return (total - total.mean()) / (total.std() + 1e-4)


@pytest.mark.parametrize("std", ["global", "group"])
def test_gdpo_normalises_within_groups_and_then_over_the_batch(std):
    """So that a reward in other units changes nothing, and `std` is not asked."""
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=12), generator.normal(size=12)
    got = []
    for unit in (1.0, 1e5):
        ctx = make_context(DDIM(T, eta=1.0))
        ctx.rewards = [WeightedReward("a", None, 2.0), WeightedReward("b", None, 0.5)]
        scores = scored(2 * a + 0.5 * unit * b, a=a, b=unit * b)(None, None)
        got.append(GRPO(4, std=std, aggregate="gdpo").advantages(ctx, scores)[0])
    assert got[0].tolist() == pytest.approx(by_gdpo([a, b], [2.0, 0.5], 4).tolist(), rel=1e-6)
    assert torch.allclose(got[0], got[1], atol=1e-3)
    plain = GRPO(4, std="group", aggregate="reward").advantages(ctx, scores)[0]
    assert not torch.allclose(plain, got[1], atol=0.1)  # the sum is the second reward alone


def test_gdpo_over_all_processes_and_without_what_is_left_out():
    ctx = make_context(DDIM(T, eta=1.0))
    ctx.rewards = [WeightedReward("a", None, 1.0)]
    a, theirs = np.array([1.0, 3.0, 2.0, 2.0]), torch.tensor([5.0, -1.0], dtype=torch.float64)
    ctx.gather = lambda values: torch.cat([values, theirs])
    got, kept = GRPO(2, aggregate="gdpo").advantages(ctx, scored(a, a=a)(None, None))
    own = 1 / (1 + 1e-4)
    everyone = np.array([-own, own, 5.0, -1.0])
    expected = (everyone[:2] - everyone.mean()) / (everyone.std() + 1e-4)
    assert got.tolist() == pytest.approx([*expected, 0.0, 0.0], rel=1e-6)
    assert kept.tolist() == [True, True, False, False]


def test_a_group_shares_its_first_noise_alone():
    ctx = make_context(DDIM(T, eta=1.0))
    noise = ctx.noise(make_test_batch(2).repeat(3))
    shared = GroupNoise.of(noise, 3)
    initial, step = shared.draw("initial", (4,)), shared.draw("step0", (4,))
    assert torch.equal(initial[0], initial[1]) and torch.equal(initial[0], initial[2])
    assert not torch.equal(initial[0], initial[3]) and torch.equal(initial[3], initial[5])
    assert torch.equal(step, noise.draw("step0", (4,))) and len(step.unique(dim=0)) == 6
    part = shared.select(slice(1, None, 2))
    assert torch.equal(part.draw("initial", (4,)), initial[1::2]) and torch.equal(
        part.draw("step0", (4,)), step[1::2]
    )


def test_dance_grpo_starts_groups_alike_and_trains_a_part_of_the_steps():
    ctx, batch = make_context(FlowSDE(T), prediction="flow"), make_test_batch(2)
    ctx.rng = random.Random(0)
    visits, replay = [], ctx.replay
    ctx.replay = lambda rollout, k: (visits.append(k), replay(rollout, k))[1]
    list(run_backward(dance_grpo(3).losses(ctx, batch)))
    first = ctx.last_rollout.states[0]
    assert torch.equal(first[0], first[2]) and not torch.equal(first[0], first[3])
    assert not torch.equal(ctx.last_rollout.x0[0], ctx.last_rollout.x0[2])
    assert len(visits) == len(set(visits)) == int(0.6 * T)


def test_the_papers_defaults():
    flow, dance, mix = flow_grpo(), dance_grpo(), MixGRPO()
    assert (flow.group_size, flow.std, flow.schedule.updates, flow.shared_noise) == (
        24,
        "global",
        2,
        False,
    )
    assert (dance.group_size, dance.std, dance.schedule.fraction, dance.shared_noise) == (
        12,
        "group",
        0.6,
        True,
    )
    assert (mix.window, mix.shift_every, mix.grpo.group_size, mix.grpo.aggregate) == (
        4,
        25,
        12,
        "advantage",
    )
    assert {a.surrogate.keywords["clip"] for a in (flow, dance, mix.grpo)} == {1e-4}


def test_an_ode_is_refused_before_anything_is_made(recipe, tmp_path):
    with pytest.raises(RecipeError) as error:
        run_recipe(recipe, tmp_path / "out", "sampler={use: flow_euler, steps: 5}")
    assert str(error.value) == (
        f"{recipe}: 1 problem\n"
        f"  - {recipe}:{line_of(recipe, 'algorithm:')}: algorithm 'flow_grpo' needs 'log_prob', which sampler 'flow_euler' "
        "(--set sampler={use: flow_euler, steps: 5}, plugin 'builtin') does not provide. Write there use: cps / dance_sde / "
        f"ddpm / flow_sde. Algorithms of the listed plugins that would work here: alignprop, denoising, direct, draft, draft_k, "
        f"draft_lv, drtune, refl."
    )
    assert not (tmp_path / "out").exists()


def test_a_window_needs_a_sampler_that_has_one(recipe, tmp_path):
    ddim = [
        "model.prediction=epsilon",
        "sampler={use: ddim, eta: 1.0}",
        "algorithm={use: mix_grpo}",
    ]
    with pytest.raises(RecipeError) as error:
        run_recipe(recipe, tmp_path / "out", *ddim)
    assert str(error.value) == (
        f"{recipe}: 1 problem\n"
        f"  - --set algorithm={{use: mix_grpo}}: algorithm 'mix_grpo' needs 'sde_window', which sampler 'ddim' (--set "
        "sampler={use: ddim, eta: 1.0}, plugin 'builtin') does not provide. Write there use: cps / dance_sde / flow_sde. "
        f"Algorithms of the listed plugins that would work here: alignprop, branch_grpo, dance_grpo, denoising, direct, draft, "
        f"draft_k, draft_lv, drtune, flow_dppo, flow_grpo, grpo, refl."
    )


def test_a_window_of_deterministic_steps_is_refused():
    """CPS's last step draws no noise; a window that holds nothing else cannot learn, in one pass or two."""
    from rewardft_plugins.grpo.cps import CPS

    for micro_batch in (None, 1):
        ctx = make_context(CPS(T), prediction="flow", micro_batch=micro_batch)
        algorithm = MixGRPO(window=1, shift_every=1, group_size=2, frozen_last=0)
        ctx.memory["mix_grpo/batches"] = T - 1
        with pytest.raises(ComponentError) as error:
            list(run_backward(algorithm.losses(ctx, make_test_batch(1))))
        assert str(error.value) == (
            f"policy gradients need steps that draw noise, and none of the window's steps [{T - 1}] does: their densities "
            f"are deterministic. Give the sampler more steps or more noise (eta or noise_level above 0)."
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: GRPO(1),
            "expected group_size >= 2, clip > 0, advantage_clip > 0 and floor > 0, got "
            "group_size=1, clip=0.0001, advantage_clip=5.0, floor=0.0001",
        ),
        (
            lambda: MixGRPO(window=0),
            "expected window >= 1, shift_every >= 1 and frozen_last >= 0, got 0, 25 and 2",
        ),
        (
            lambda: MixGRPO(window=9).draw_window(make_context(FlowSDE(T), prediction="flow")),
            f"window 9 and frozen_last 2 are more than the sampler's {T} steps",
        ),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(ComponentError) as error:
        make()
    assert str(error.value) == message
