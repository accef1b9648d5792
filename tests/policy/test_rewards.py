"""Rewards: weights, names, failures, gradients; and `check_reward` for plugin authors."""

import functools
import inspect
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rewardft.engine.audit import reward_problems
from rewardft.errors import RecipeError, RewardError
from rewardft.plugins.resolve import open_recipe
from rewardft.policy.facts import RewardFacts
from rewardft.policy.reward_gradients import agreement
from rewardft.policy.rewards import evaluate_rewards
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing import check_reward, make_rollout, run_recipe
from rewardft.testing.tiny import tiny_brightness
from rewardft.types import Batch

BATCH = Batch(("a", "b", "c"), (0, 0, 0), {"label": torch.tensor([0, 1, 2])})
X0 = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))


def total(rollout, batch):
    return rollout.x0.flatten(1).sum(1)


def square(rollout, batch):
    return (rollout.x0**2).flatten(1).sum(1)


def second_only(rollout, batch):
    return torch.where(torch.arange(3) == 1, total(rollout, batch), float("nan"))


def test_total_is_the_weighted_sum_and_its_gradient_is_exact():
    rewards = [WeightedReward("total", total, 2.0), WeightedReward("square", square, -0.5)]
    scores = evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, gradient=True)
    assert torch.allclose(scores.total, 2 * X0.flatten(1).sum(1) - 0.5 * (X0**2).flatten(1).sum(1))
    assert torch.allclose(scores.gradient, 2 - X0)
    assert list(scores.by_name) == ["total", "square"] and torch.equal(
        scores.by_name["total"], X0.flatten(1).sum(1)
    )


def test_nan_means_not_applicable_and_adds_nothing():
    rewards = [WeightedReward("some", second_only), WeightedReward("square", square)]
    scores = evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, gradient=True)
    expected = 2 * X0
    expected[1] += 1
    assert torch.allclose(scores.gradient, expected)
    assert scores.by_name["some"].isnan().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (
            lambda r, b: total(r, b) / torch.tensor([1.0, 0.0, 1.0]),
            "reward 'bad' returned inf for the samples b. A reward must be finite, or NaN where it does not apply; "
            "`on_error: skip` beside it in the recipe leaves such batches out.",
        ),
        (
            lambda r, b: total(r, b).mean(),
            "reward 'bad' must return one number per sample, shape (3,); got a tensor of shape (), as if over the whole "
            "batch: reduce all dimensions but the first, such as by x.flatten(1).mean(1)",
        ),
        (
            lambda r, b: 1.0,
            "reward 'bad' must return one number per sample, shape (3,); got float. Return a tensor of the rollout's "
            "device, made from its samples by torch functions",
        ),
        (
            lambda r, b: total(r, b)[:, None],
            "reward 'bad' must return one number per sample, shape (3,); got a tensor of shape (3, 1). Its surplus "
            "dimensions go away with value.flatten()",
        ),
        (
            lambda r, b: total(r, b)[:, None].expand(3, 4),
            "reward 'bad' must return one number per sample, shape (3,); got a tensor of shape (3, 4). Reduce its other "
            "dimensions, such as by value.flatten(1).mean(1)",
        ),
        (
            lambda r, b: total(r, b).detach(),
            f"no gradient reaches the samples from reward 'bad' ({__file__}:LINE). Keep to torch functions of "
            "rollout.decoded or rollout.x0, without detach, numpy or float; or take an algorithm that needs no gradient "
            "(docs/which-algorithm.md has a table).",
        ),
    ],
)
def test_bad_rewards_stop_with_a_sentence(reward, message):
    with pytest.raises(RewardError) as error:
        evaluate_rewards(
            [WeightedReward("bad", reward)], make_rollout(X0, BATCH), BATCH, gradient=True
        )
    assert re.sub(r":\d+\)", ":LINE)", str(error.value)) == message


def test_on_error_skip_leaves_the_batch_out_and_stop_reports_first():
    def broken(rollout, batch):
        raise ZeroDivisionError("no")

    seen = []
    with pytest.raises(ZeroDivisionError):
        evaluate_rewards(
            [WeightedReward("broken", broken)],
            make_rollout(X0, BATCH),
            BATCH,
            False,
            on_error=lambda name, error, rollout, batch: seen.append(
                (name, batch.ids, rollout.x0.shape)
            ),
        )
    assert seen == [("broken", ("a", "b", "c"), X0.shape)]
    rewards = [WeightedReward("broken", broken, on_error="skip"), WeightedReward("total", total)]
    scores = evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, gradient=True)
    assert scores.by_name["broken"].isnan().all() and torch.allclose(
        scores.total, X0.flatten(1).sum(1)
    )
    assert {name: repr(error) for name, error in scores.skipped.items()} == {
        "broken": "ZeroDivisionError('no')"
    }


def test_where_every_reward_is_skipped_the_slope_is_zero():
    def broken(rollout, batch):
        raise ValueError("no face")

    for rewards in (
        [WeightedReward("broken", broken, on_error="skip")],
        [WeightedReward("none", lambda r, b: torch.full((3,), float("nan")))],
    ):
        scores = evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, gradient=True)
        assert torch.equal(scores.gradient, torch.zeros_like(X0)) and scores.total.tolist() == [
            0,
            0,
            0,
        ]
    detached = WeightedReward("detached", lambda r, b: total(r, b).detach())
    with pytest.raises(
        RewardError, match="no gradient reaches the samples from reward 'detached' \\("
    ):
        evaluate_rewards([*rewards, detached], make_rollout(X0, BATCH), BATCH, gradient=True)


def test_a_handler_that_fails_is_noted_and_does_not_hide_the_rewards_error():
    def broken(rollout, batch):
        raise ValueError("no face")

    def full_disk(name, error, rollout, batch):
        raise OSError("no space left on device")

    with pytest.raises(ValueError) as caught:
        evaluate_rewards(
            [WeightedReward("broken", broken)],
            make_rollout(X0, BATCH),
            BATCH,
            False,
            on_error=full_disk,
        )
    assert str(caught.value) == "no face"
    assert caught.value.__notes__ == [
        "the samples that reward 'broken' failed on could not be written: OSError: no space left on device",
        f"reward 'broken' is made at {__file__}:{broken.__code__.co_firstlineno}",
    ]


def test_without_a_handler_the_samples_are_named_and_where_the_reward_is():
    class Deep(torch.nn.Module):
        def forward(self, rollout, batch):
            raise KeyError("weight")

    for reward, place in ((Deep(), Deep), (functools.partial(total_of, scale=2.0), total_of)):
        with pytest.raises((KeyError, RewardError)) as caught:
            evaluate_rewards([WeightedReward("r", reward)], make_rollout(X0, BATCH), BATCH, False)
        first, second = caught.value.__notes__
        assert first == "reward 'r' failed on the samples a, b, c"
        assert second == f"reward 'r' is made at {__file__}:{inspect.getsourcelines(place)[1]}"


def total_of(rollout, batch, scale):
    return scale * rollout.x0.mean()


@pytest.mark.parametrize("gradient", [False, True])
def test_a_mean_over_the_batch_is_found_out_however_it_is_shaped(gradient):
    def averaged(rollout, batch):
        return total(rollout, batch).mean().expand(len(batch))

    def constant(rollout, batch):
        return 0.0 * total(rollout, batch) + 1.0

    facts = RewardFacts()
    rewards = [
        WeightedReward("averaged", averaged),
        WeightedReward("constant", constant),
        WeightedReward("good", total),
    ]
    evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, gradient, facts)
    assert list(facts.values["averages_over_the_batch"]) == ["averaged"]
    (said,) = [text for text in reward_problems(facts.values) if "averages" in text]
    assert said.startswith(
        "reward 'averaged' gives all samples of a batch one value, and another one to half of them"
    )


def ratio(divisor):
    return lambda rollout, batch: total(rollout, batch) * divisor / divisor


def test_a_nan_out_of_arithmetic_is_told_from_a_masked_one():
    """0 / 0 is NaN, and so is its slope: what is not applicable must be selected before it is divided."""
    divisor = torch.tensor([1.0, 0.0, 2.0])
    safe = torch.where(divisor == 0, 1.0, divisor)
    masked = WeightedReward(
        "masked", lambda r, b: torch.where(divisor == 0, float("nan"), ratio(safe)(r, b))
    )
    scores = evaluate_rewards([masked], make_rollout(X0, BATCH), BATCH, gradient=True)
    assert scores.total[1] == 0 and torch.equal(scores.gradient[1], torch.zeros_like(X0[1]))
    assert torch.equal(scores.gradient[[0, 2]], torch.ones_like(X0[[0, 2]]))
    with pytest.raises(RewardError) as caught:
        evaluate_rewards(
            [masked, WeightedReward("ratio", ratio(divisor))], make_rollout(X0, BATCH), BATCH, True
        )
    assert str(caught.value) == (
        "reward 'ratio' is NaN (not applicable) for the samples b, and so is its gradient there: the NaN comes out of "
        "arithmetic such as 0 / 0, whose slope is NaN whatever hides the value. Select before dividing (torch.where on "
        "the operands), or return NaN through masking (torch.where(applies, value, nan) of a finite value)."
    )


@pytest.mark.parametrize("combine", ["sum", "normalised"])
@pytest.mark.parametrize("weights", [(-2.0, 0.0), (-2.0, 0.5)])
def test_the_audit_has_the_gradient_of_each_reward_without_its_weight(weights, combine):
    """Of a single one, whose gradient is read off the total, as of one of several."""
    rewards = [WeightedReward("square", square, weights[0])]
    rewards.append(WeightedReward("second", second_only, weights[1]))
    facts = RewardFacts()
    # In parts: the largest norm counts.
    for x0 in (X0, X0 / 2):
        rollout = make_rollout(x0, BATCH)
        evaluate_rewards(rewards, rollout, BATCH, True, facts, combine=combine)
    norms = facts.values["reward_gradient_norm"]
    expected = {"square": (2 * X0).norm()}
    if weights[1]:
        expected["second"] = torch.tensor(8.0).sqrt()
    assert norms.keys() == expected.keys()
    for name, norm in expected.items():
        torch.testing.assert_close(norms[name], norm)


def test_the_audit_says_nothing_of_a_gradient_where_the_reward_applies_to_nothing():
    def nowhere(rollout, batch):
        return torch.where(torch.zeros(3) == 1, total(rollout, batch), float("nan"))

    facts = RewardFacts()
    rewards = [WeightedReward("square", square, 0.0), WeightedReward("nowhere", nowhere)]
    evaluate_rewards(rewards, make_rollout(X0, BATCH), BATCH, True, facts)
    assert "reward_gradient_norm" not in facts.values


def test_pictures_that_a_reward_finds_alike_are_decoded_in_part_once_more():
    """To tell a reward that is the same by chance from one that averages over the batch."""
    lengths = []

    def alike(rollout, batch):
        lengths.append(len(rollout.decoded))
        return rollout.decoded.flatten(1).sum(1) * 0 + 1

    facts = RewardFacts()
    rollout = replace(make_rollout(X0, BATCH), decoder=lambda x0: x0 * 2)
    evaluate_rewards([WeightedReward("alike", alike)], rollout, BATCH, False, facts)
    assert lengths == [3, 1]
    assert "averages_over_the_batch" not in facts.values


def test_the_audit_sees_every_part_of_the_first_step():
    """The range of all parts, the share of clamped values of all parts, and the failures of all of them."""

    def touchy(rollout, batch):
        if rollout.x0.max() > 1:
            raise ValueError("too bright")
        return total(rollout, batch)

    facts = RewardFacts()
    for x0 in (torch.tensor([[2.0, -0.5]]), torch.tensor([[0.5, 0.25], [0.5, 0.0]])):
        batch = Batch(tuple("ab"[: len(x0)]), (0,) * len(x0), {})
        rollout = make_rollout(x0, batch)
        rewards = [
            WeightedReward("pixels", lambda r, b: r.decoded.sum(1)),
            WeightedReward("touchy", touchy, 1.0, "skip"),
        ]
        evaluate_rewards(rewards, rollout, batch, gradient=True, facts=facts)
    audit = facts.values
    assert (float(audit["decoded_min"]), float(audit["decoded_max"])) == (-0.5, 2.0)
    assert float(audit["decoded_clamped"]) == pytest.approx(3 / 6) and audit["decoded_values"] == 6
    assert audit["skipped"] == {
        "touchy": {"batches": 2, "failed": 1, "error": "ValueError: too bright"}
    }


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, rollout, batch):
        return self.layer(rollout.x0.flatten(1)).squeeze(1)


def test_check_reward_accepts_a_good_one():
    report = check_reward(tiny_brightness, torch.rand(3, 3, 8, 8), BATCH, differentiable=True)
    assert (
        -1 <= report.low <= report.high <= 0
        and report.gradient_error < 0.01
        and report.not_applicable == 0
    )
    check_reward(lambda r, b: total(r, b).detach().round(), X0, BATCH, differentiable=False)
    check_reward(second_only_by_label, X0, BATCH, differentiable=True)


def second_only_by_label(rollout, batch):
    return torch.where(batch["label"] == 1, total(rollout, batch), float("nan"))


@pytest.mark.parametrize(
    ("reward", "differentiable", "message"),
    [
        (
            lambda r, b: total(r, b)[:2],
            True,
            "a reward returns one number per sample, shape (3,), got (2,)",
        ),
        (
            lambda r, b: total(r, b) - total(r, b).mean(),
            True,
            "a sample's value depends on the batch it is in",
        ),
        (
            lambda r, b: total(r, b) + torch.arange(3.0)[: len(b)],
            True,
            "the order of the batch changes the values",
        ),
        (
            lambda r, b: total(r, b).detach(),
            True,
            "the reward says that it is differentiable, but no gradient reaches x0",
        ),
        (total, False, "the reward says that it is not differentiable, but a gradient reaches x0"),
        (lambda r, b: total(r, b) * 0, True, "the gradient is zero everywhere"),
        (
            lambda r, b: total(r, b) + (square(r, b) - square(r, b).detach()),
            True,
            "the gradient differs from finite differences by",
        ),
        (
            lambda r, b: total(r, b) / 0,
            True,
            "a reward is finite, or NaN where it does not apply; got inf",
        ),
    ],
)
def test_check_reward_names_the_broken_rule(reward, differentiable, message):
    with pytest.raises(AssertionError) as error:
        check_reward(reward, X0, BATCH, differentiable=differentiable)
    assert str(error.value).startswith(message)


def test_check_reward_finds_a_gradient_left_on_the_reward_itself():
    reward = Learned()
    check_reward(reward, X0, BATCH, differentiable=True)
    reward(make_rollout(X0, BATCH), BATCH).sum().backward()
    with pytest.raises(AssertionError, match=r"left a gradient on its own weight layer\.weight"):
        check_reward(reward, X0, BATCH, differentiable=True)


class Elsewhere:
    """Brightness, also on a thread."""

    def __init__(self):
        self.pool = ThreadPoolExecutor(1)

    def value(self, rollout):
        return rollout.decoded.detach().flatten(1).sum(1)

    def __call__(self, rollout, batch):
        return self.value(rollout)

    def begin_scoring(self, rollout, batch):
        return self.pool.submit(self.value, rollout)


class Brighter(Elsewhere):
    def begin_scoring(self, rollout, batch):
        return self.pool.submit(lambda: self.value(rollout) + 1)


class Forgetful(Elsewhere):
    """Answers for the samples that it was given last."""

    def begin_scoring(self, rollout, batch):
        self.last = rollout
        return SimpleNamespace(result=lambda: self.value(self.last), cancel=lambda: None)


class Hopeful(Elsewhere):
    """Does not say that it failed."""

    def begin_scoring(self, rollout, batch):
        try:
            return super().begin_scoring(rollout.with_x0(rollout.decoded), batch)
        except ValueError:
            return self.pool.submit(lambda: torch.full((len(batch),), float("nan")))


class Endless(Elsewhere):
    def begin_scoring(self, rollout, batch):
        return SimpleNamespace(result=lambda: self.value(rollout))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Brighter, "begin_scoring gives other values than a call: ["),
        (Forgetful, "two batches that are under way get other values than alone: ["),
        (
            Hopeful,
            "with samples that cannot be decoded, begin_scoring and result() raise nothing, and a "
            "call raises ValueError: check_reward: samples that cannot be decoded",
        ),
        (
            Endless,
            "begin_scoring returns what waits for the values, an object with result() and "
            "cancel(); got SimpleNamespace without cancel",
        ),
    ],
)
def test_check_reward_looks_at_rewards_that_are_begun(kind, message):
    check_reward(Elsewhere(), X0, BATCH, differentiable=False)
    with pytest.raises(AssertionError) as error:
        check_reward(kind(), X0, BATCH, differentiable=False)
    assert str(error.value).startswith(message)


# -- several gradients ---------------------------------------------------------------------------------------------


def three_rewards():
    return [
        WeightedReward("total", total, 2.0),
        WeightedReward("square", square, -0.5),
        WeightedReward("some", second_only),
        WeightedReward("unused", total, 0.0),
        WeightedReward("flat", lambda r, b: r.x0.detach().flatten(1).sum(1)),
    ]


def scored(combine, rewards=None):
    found = rewards or three_rewards()
    rollout = make_rollout(X0, BATCH)
    return evaluate_rewards(found, rollout, BATCH, True, combine=combine)


def test_gradients_that_are_taken_apart_add_up_to_the_sum():
    apart, plain = scored("conflict"), scored("sum")
    assert torch.allclose(apart.gradient, plain.gradient, atol=1e-6) and plain.slopes == {}
    assert list(apart.slopes) == ["total", "square", "some"]
    assert torch.equal(apart.slopes["total"], torch.full_like(X0, 2.0))
    assert torch.allclose(apart.slopes["square"], -X0)
    own = torch.zeros_like(X0)
    own[1] = 1.0
    assert torch.equal(apart.slopes["some"], own)


def test_normalised_gradients_are_as_long_as_their_weights():
    expected = torch.zeros_like(X0)
    for i in range(3):
        expected[i] += 2.0 / 8**0.5 - 0.5 * X0[i] / X0[i].norm()
    expected[1] += 1 / 8**0.5
    assert torch.allclose(scored("normalised").gradient, expected, atol=1e-6)


def test_agreement_is_the_length_of_each_gradient_and_the_cosine_of_each_pair():
    found = dict(agreement(scored("conflict").slopes))
    assert list(found) == [
        "reward_gradient/total",
        "reward_gradient/square",
        "reward_gradient/some",
        "gradient_cosine/total/square",
        "gradient_cosine/total/some",
        "gradient_cosine/square/some",
    ]
    assert found["reward_gradient/total"].tolist() == pytest.approx([2 * 8**0.5] * 3)
    cosine = -X0.flatten(1).sum(1) / (8**0.5 * X0.flatten(1).norm(dim=1))
    assert torch.allclose(found["gradient_cosine/total/square"], cosine, atol=1e-6)
    # Where a reward does not apply there is nothing to agree with.
    assert found["gradient_cosine/total/some"].isnan().tolist() == [True, False, True]
    assert float(found["gradient_cosine/total/some"][1]) == pytest.approx(1.0)


def test_a_gradient_that_is_not_finite_is_not_hidden_by_its_length():
    def rooted(rollout, batch):
        return (rollout.x0.flatten(1).sum(1) * 0.0).sqrt()

    rewards = [WeightedReward("rooted", rooted), WeightedReward("total", total)]
    with pytest.raises(RewardError, match=r"^reward 'rooted' has a NaN or infinite gradient"):
        scored("normalised", rewards)


def test_rewards_without_any_gradient_are_refused_as_ever():
    flat = WeightedReward("flat", lambda r, b: r.x0.detach().flatten(1).sum(1))
    with pytest.raises(RewardError, match=r"^no gradient reaches the samples"):
        scored("conflict", [flat])


CONFLICT = """\
plugins: [rewardft.testing.tiny]
model: {use: tiny, width: 8}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, size: 4, batch_size: 2}
rewards: [{use: tiny_brightness}, {use: tiny_brightness, name: dark, weight: -0.5}]
algorithm: {use: draft_k}
optimizer: {use: adamw, lr: 1e-3}
# Taken apart, to see how far they agree.
train: {steps: 2, reward_gradients: conflict, micro_batch: 1}
"""


def test_a_run_logs_the_conflict_of_its_rewards(tmp_path):
    """Bright against dark: the gradients are opposite, so the cosine is -1."""
    (tmp_path / "recipe.yaml").write_text(CONFLICT)
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run.column("gradient_cosine/tiny_brightness/dark") == pytest.approx([-1.0, -1.0])
    bright, dark = (run.column(f"reward_gradient/{name}") for name in ("tiny_brightness", "dark"))
    assert dark == pytest.approx([0.5 * length for length in bright])


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("rewards=[{use: tiny_brightness}]", "the recipe lists 1 reward"),
        ("algorithm={use: denoising}", "algorithm 'denoising' asks for no gradient"),
    ],
)
def test_gradients_can_be_taken_apart_only_where_there_are_several(tmp_path, override, why):
    (tmp_path / "recipe.yaml").write_text(CONFLICT)
    with pytest.raises(RecipeError) as error:
        open_recipe(tmp_path / "recipe.yaml", [override])
    place = f"{tmp_path / 'recipe.yaml'}:9"
    wanted = (
        f"{place}: train.reward_gradients: 'conflict' takes the gradients of several rewards apart, and {why}. "
        "Leave it out."
    )
    assert wanted in error.value.problems
