"""HyGRPO against plain autograd, its groups, its ratios and its calls."""

import math

import pytest
import torch
from rewardft_plugins.posert.hybrid import Hybrid, masked_mean
from rewardft_plugins.posert.hygrpo import HyGRPO

from rewardft.algorithms.regularizers import KL
from rewardft.errors import ComponentError
from rewardft.policy.adapter import attach
from rewardft.policy.context import Context, WeightedRegularizer
from rewardft.policy.policy import Policy
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.recipe.sections import AdapterSpec
from rewardft.testing.conformance import check_calls, gradients_of
from tests.shipped.posert.conftest import small

G = 6


def words(rollout, batch):
    """Share of tokens that are even numbers: differs between answers."""
    x0 = rollout.x0
    return masked_mean((x0["tokens"] % 2 == 0).double(), x0["mask"])


def height(rollout, batch):
    """Of the pose; not applicable where there is none."""
    found = rollout.decoded
    return torch.where(found["valid"], found["joints"][:, 20, 1].double(), torch.nan)


def context(model=None, regularized=True, **options):
    model = small() if model is None else model
    model.trainable.double()
    with torch.no_grad():  # <POSE> in every second answer or so
        model.trainable.lm.lm_head.weight[model.pose_token] *= 1.5
    sampler = Hybrid(length=6)
    kl = [("categorical", 0.3), ("gaussian", 0.7)] if regularized else []
    adapter = attach(model, AdapterSpec(kind="lora", rank=4), seed=0, keep_reference=True)
    for parameter in adapter.parameters:
        parameter.data = parameter.data.double()
    return Context(
        policy=Policy(model),
        sampler=sampler,
        adapter=adapter,
        rewards=[WeightedReward("format", words), WeightedReward("joint_accuracy", height, 2.0)],
        regularizers=[WeightedRegularizer(f"kl_{form}", KL(form), w) for form, w in kl],
        dtype=torch.float64,
        **options,
    )


def moved(ctx, scale=0.02):
    """The policy away from its reference."""
    torch.manual_seed(8)
    for parameter in ctx.adapter.parameters:
        parameter.data += scale * torch.randn_like(parameter)
    return ctx


def taken_apart(model, rollout):
    """Log-probabilities of tokens and pose written out again, `(b, l)` and `(b, 132)`."""
    x0 = rollout.x0
    logits, mean, std, _ = model.answer(rollout.cond, x0["tokens"], x0["mask"])
    scores = logits.double().log_softmax(-1)
    own = scores.gather(-1, x0["tokens"][..., None])[..., 0]
    pose = -0.5 * ((x0["pose"] - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    return own, pose, scores, mean, std


def by_hand(ctx, rollout, algorithm, reference, old):
    """J of equation 6 with a plus sign for losses, in loops over groups and members."""
    x0 = rollout.x0
    own, pose, scores, mean, std = taken_apart(ctx.policy.model, rollout)
    _, _, ref_scores, ref_mean, ref_std = reference
    old_own, old_pose = old
    total, groups = 0.0, len(own) // G
    r_words, r_pose = words(rollout, None), 2.0 * height(rollout, None)
    for g in range(groups):
        members = list(range(g * G, (g + 1) * G))
        posed = [i for i in members if x0["valid"][i]]
        for chosen, rewards, part in ((members, r_words, "words"), (posed, r_pose, "pose")):
            values = [float(rewards[i]) for i in chosen]
            if not values:
                continue
            centre = sum(values) / len(values)
            spread = math.sqrt(sum((v - centre) ** 2 for v in values) / len(values))
            flat = max(values) == min(values)
            for i, value in zip(chosen, values):
                advantage = 0.0 if flat else (value - centre) / (spread + 1e-4)
                count = int(x0["mask"][i].sum())
                if part == "words":
                    ratio = torch.exp((own[i, :count] - old_own[i, :count]).mean())
                    clip, weight = algorithm.clip, 1.0
                    p, q = scores[i, :count], ref_scores[i, :count]
                    kl = 0.3 * (p.exp() * (p - q)).sum(-1).mean()
                else:
                    ratio = torch.exp((pose[i] - old_pose[i]).mean())
                    clip, weight = algorithm.pose_clip, algorithm.pose_weight
                    m, s, mr, sr = mean[i], std[i], ref_mean[i], ref_std[i]
                    kl = 0.7 * ((sr / s).log() + (s**2 + (m - mr) ** 2) / (2 * sr**2) - 0.5).mean()
                clipped = ratio.clamp(1 - clip, 1 + clip)
                gain = torch.minimum(ratio * advantage, clipped * advantage)
                total = total + (kl - weight * gain) / (len(chosen) * groups)
    return total


@pytest.mark.parametrize("ratio", ["old", "reference"])
@pytest.mark.parametrize("clip", [0.2, 0.002])
def test_the_gradient_of_one_update_is_that_of_the_objective_written_out(batch, ratio, clip):
    """Against autograd in float64, with a KL, a policy that has left its reference, a clip range
    that some ratios leave, and groups with fewer poses than answers."""
    ctx = moved(context(micro_batch=5))
    algorithm = HyGRPO(G, ratio=ratio, clip=clip, pose_clip=clip)
    found = gradients_of(algorithm, ctx, batch)
    rollout = ctx.last_rollout
    valid = rollout.x0["valid"].view(-1, G).sum(1).tolist()
    assert len(set(valid)) > 2 and max(valid) > 1 and min(valid) < G
    with torch.no_grad():
        with ctx.adapter.disabled():
            reference = taken_apart(ctx.policy.model, rollout)
        old = reference[:2] if ratio == "reference" else taken_apart(ctx.policy.model, rollout)[:2]
    loss = by_hand(ctx, rollout, algorithm, reference, old)
    expected = torch.autograd.grad(loss, ctx.adapter.parameters, allow_unused=True)
    largest = max(float(g.abs().max()) for g in expected if g is not None)
    for got, wanted in zip(found, expected):
        assert (got - (0 if wanted is None else wanted)).abs().max() < 1e-8 * max(largest, 1)
    assert largest > 1e-3


@pytest.mark.parametrize("ratio", ["old", "reference"])
def test_ratios_are_1_at_the_first_update(batch, ratio):
    ctx = context(regularized=False)
    gradients_of(HyGRPO(G, ratio=ratio), ctx, batch)
    for name in ("ratio/tokens", "ratio/pose"):
        values = torch.cat(ctx._records[name])
        assert (values[~values.isnan()] - 1).abs().max() < 1e-9
    assert torch.cat(ctx._records["ratio/pose"]).isnan().tolist() == [
        not valid for valid in ctx.last_rollout.x0["valid"].tolist()
    ]


def test_pose_advantages_and_weights_of_groups_with_fewer_poses():
    ctx = context(regularized=False)
    scores = {
        "format": torch.arange(12.0),
        "joint_accuracy": torch.tensor([1.0, 2, 9, 9, 9, 9, 5, 9, 9, 9, 9, 9]),
    }
    valid = torch.tensor([1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]).bool()
    score = type("Scores", (), {"by_name": scores, "total": torch.zeros(12)})
    spoken, posed = HyGRPO(G, pose_weight=1.0, floor=1e-12).parts(ctx, score, valid)
    steps = (torch.arange(6.0) - 2.5) / torch.arange(6.0).std(correction=0)
    assert torch.allclose(spoken.advantage, steps.repeat(2))
    assert torch.allclose(spoken.weight, torch.full((12,), 1 / 12))
    assert posed.advantage.tolist() == pytest.approx([-1, 1, *[0] * 10])  # V = 2, and V = 1
    assert posed.weight.tolist() == pytest.approx([0.25, 0.25, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, 0])


def test_plain_grpo_leaves_the_pose_to_itself_and_joint_gives_both_one_advantage():
    ctx = context(regularized=False)
    scores = {
        "format": torch.arange(6.0),
        "joint_accuracy": torch.tensor([3.0, torch.nan, 1, 1, 1, 1]),
    }
    valid = torch.tensor([1, 0, 1, 1, 1, 1]).bool()
    score = type("Scores", (), {"by_name": scores, "total": torch.zeros(6)})
    total = torch.tensor([6.0, 1, 4, 5, 6, 7])  # joint_accuracy has the weight 2
    expected = (total - total.mean()) / (total.std(correction=0) + 1e-4)
    (alone,) = HyGRPO(G, advantage="tokens").parts(ctx, score, valid)
    spoken, posed = HyGRPO(G, advantage="joint").parts(ctx, score, valid)
    assert torch.allclose(alone.advantage, expected)
    assert torch.allclose(spoken.advantage, expected)
    assert torch.allclose(posed.advantage, torch.where(valid, expected, 0.0))


def test_plain_grpo_never_moves_the_head_of_poses(batch):
    ctx = context(regularized=False)
    found = gradients_of(HyGRPO(G, advantage="tokens"), ctx, batch)
    names = dict(zip(ctx.adapter.named, found))
    of_poses = [g for name, g in names.items() if name.startswith("head.")]
    assert of_poses and not any(g.any() for g in of_poses)
    assert any(g.any() for name, g in names.items() if "lm_head" in name)


def test_a_micro_batch_changes_nothing_and_updates_share_every_group(batch):
    whole = gradients_of(HyGRPO(G), moved(context()), batch)
    cut = gradients_of(HyGRPO(G), moved(context(micro_batch=4)), batch)
    for one, other in zip(whole, cut):
        assert torch.allclose(one, other, atol=1e-10)
    halves = moved(context(), 0.0)
    steps = [loss.step for loss in HyGRPO(G, updates=2, inner_epochs=2).losses(halves, batch)]
    assert steps == [True] * 4


@pytest.mark.parametrize("regularized", [False, True])
@pytest.mark.parametrize("options", [{}, {"ratio": "reference"}, {"advantage": "tokens"}])
def test_its_calls_are_those_it_tells(batch, regularized, options):
    ctx = context(regularized=regularized)
    algorithm = HyGRPO(G, inner_epochs=2, **options)
    for loss in algorithm.losses(ctx, batch):
        loss.backward()
    check_calls(algorithm, ctx, batch)


def test_what_it_refuses(batch):
    ctx = context()
    ctx.rewards = [WeightedReward("formt", words)]
    message = (
        r"^hygrpo: is the reward 'formt' of the words or of the pose\? Name it in `words` or "
        r"`poses`. Did you mean 'format'\?$"
    )
    with pytest.raises(ComponentError, match=message):
        list(HyGRPO(G).losses(ctx, batch))
    with pytest.raises(ComponentError, match=r"^expected group_size >= 2, clip, pose_clip and flo"):
        HyGRPO(1)
    with pytest.raises(
        ComponentError, match=r"updates that divide group_size, got 1 and 4 with gr"
    ):
        HyGRPO(6, updates=4)
