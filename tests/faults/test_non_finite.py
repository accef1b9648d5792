"""NaN and infinity are traced to where they arose, before a reward sees them; a sample to which no reward applies takes
no part in the update."""

import pytest
import torch

from rewardft.algorithms.advantages import group_advantages, moments, prompt_advantages
from rewardft.errors import AuditError, NonFiniteError, RewardError
from rewardft.noise import Noise
from rewardft.policy.rewards import evaluate_rewards
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.samplers.ddim import DDIM
from rewardft.types import Batch, Plan, Rollout
from tests.bench import Bench
from tests.maths.test_policy_gradient import make_context

BATCH = Batch(("a", "b", "c"), (0, 0, 0), {})
NAN, INF = float("nan"), float("inf")


def make_rollout(x0, decoder=lambda x: x * 1.0):
    noise = Noise(0, BATCH.ids, BATCH.epochs, torch.device("cpu"), torch.float32)
    return Rollout(None, noise, Plan(1), x0=torch.tensor(x0), decoder=decoder)


def mean(rollout, batch):
    return rollout.decoded.flatten(1).mean(1)


def score(reward, rollout, gradient=True, **options):
    return evaluate_rewards([WeightedReward("r", reward, **options)], rollout, BATCH, gradient)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_samples_that_are_not_finite_are_no_reward_s_business(gradient, bad, on_error):
    def never(rollout, batch):
        raise AssertionError("a reward saw the samples")

    rollout = make_rollout([[1.0], [bad], [0.5]])
    rollout.states[3] = rollout.x0
    with pytest.raises(NonFiniteError) as caught:
        score(never, rollout, gradient, on_error=on_error)
    assert str(caught.value) == (
        "the denoiser and the sampler produced NaN or infinite samples: b, from the state that enters step 3 on. Try "
        "train.precision fp32 or a model in float32; if the run had gone well until here, the weights have grown too "
        "far: lower the learning rate."
    )


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_decoder_that_overflows_is_named_and_not_skipped(on_error):
    rollout = make_rollout([[1.0], [7e4], [8e4]], lambda x: x.half().float())
    with pytest.raises(NonFiniteError) as caught:
        score(mean, rollout, gradient=False, on_error=on_error)
    assert str(caught.value) == (
        "the decoder produced NaN or infinite values from finite samples: b, c. Decode in float32: float16 overflows "
        "in some decoders."
    )


def test_the_reward_whose_gradient_is_infinite_is_named_with_samples_and_values():
    def near(rollout, batch):
        return -(0.5 - mean(rollout, batch)).sqrt()

    rewards = [WeightedReward("mean", mean), WeightedReward("near", near, 2.0)]
    with pytest.raises(RewardError) as caught:
        evaluate_rewards(rewards, make_rollout([[0.5], [0.25], [0.5]]), BATCH, True)
    assert str(caught.value) == (
        "reward 'near' has a NaN or infinite gradient at the samples a, c, where its value is -0, -0. Look in it for a "
        "root, logarithm, norm or division at 0, and keep its operand away from 0, such as by (x + 1e-6).sqrt()."
    )


def test_a_decoder_s_gradient_is_told_from_a_reward_s():
    with pytest.raises(NonFiniteError) as caught:
        score(mean, make_rollout([[1.0], [0.0], [4.0]], torch.sqrt))
    assert str(caught.value) == (
        "the decoder's gradient is NaN or infinite at the samples b, where that of reward 'r' is finite. Decode in "
        "float32."
    )


def test_a_sample_without_any_reward_has_none():
    def some(rollout, batch):
        return torch.where(torch.tensor([True, False, True]), mean(rollout, batch), NAN)

    rollout = make_rollout([[1.0], [2.0], [4.0]])
    watched = [WeightedReward("some", some, 3.0), WeightedReward("watched", mean, 0.0)]
    scores = evaluate_rewards(watched, rollout, BATCH, True)
    assert scores.applies.tolist() == [True, False, True]
    assert scores.total.tolist() == [3, 0, 12] and scores.rewards[[0, 2]].tolist() == [3, 12]
    assert scores.gradient.flatten().tolist() == [3, 0, 3]


def test_moments_leave_out_what_is_absent_and_are_torch_s_own_otherwise():
    rows = torch.tensor([[1.0, NAN, 4.0], [0.1, 0.2, 0.7]])
    for unbiased in (False, True):
        center, std = moments(rows, unbiased)
        known = torch.tensor([1.0, 4.0])
        assert float(center[0]) == 2.5 and torch.allclose(std[0], known.std(unbiased=unbiased))
        assert torch.equal(center[1], rows[1:].mean(1))
        assert torch.equal(std[1], rows[1:].std(1, unbiased=unbiased))


@pytest.mark.parametrize("std", ["group", "global"])
def test_group_advantages_are_those_of_the_others(std):
    """As if the absent members had never been drawn; a group of which one is left has nothing to compare."""
    ctx = make_context(DDIM(3, eta=1.0))
    rewards = torch.tensor([1.0, NAN, 3.0, NAN, NAN, 2.0])
    got, kept = group_advantages(ctx, rewards, 3, std)
    known = torch.tensor([1.0, 3.0] if std == "group" else [1.0, 3.0, 2.0])
    expected = 1 / (known.std(unbiased=False) + 1e-4)
    assert torch.allclose(got, torch.tensor([-expected, 0, expected, 0, 0, 0]))
    assert kept.tolist() == [True, False, True, False, False, False]


def test_prompt_statistics_hold_no_absent_reward():
    ctx = make_context(DDIM(3, eta=1.0))
    keys = torch.tensor([7, 7, 7, 8])
    got = prompt_advantages(ctx, torch.tensor([1.0, NAN, 3.0, NAN]), keys, 8, 2)
    assert torch.allclose(got, torch.tensor([-1.0, 0.0, 1.0, 0.0]))
    history = ctx.memory["policy_gradient/prompt_rewards"]
    assert history["7"].tolist() == [1, 3] and len(history["8"]) == 0


SPOILT = """
class Spoilt(TinyModel):
    def __init__(self):
        super().__init__(width=8)
        self.trainable.WHERE.weight.data[0] = float("nan")

@hookimpl
def register_models():
    return {"spoilt": Spoilt}
"""


def test_trained_weights_that_diverged_are_not_the_base_s(tmp_path):
    """Of full fine-tuning the model's own weights are the trained ones, once it has gone on."""
    from rewardft.runs.open import open_run

    session = open_run(Bench(tmp_path).run("adapter={kind: full}", "train.steps=1").folder)
    session.adapter.parameters[0].data.fill_(NAN)
    assert session.evaluation_context(step=1).bad_base() is None
    assert "base model's own" in session.evaluation_context().bad_base()


@pytest.mark.parametrize("where", ["to_q", "enter"])
@pytest.mark.parametrize("command", ["evaluation", "score", "loss"])
def test_a_base_that_is_not_finite_is_named(tmp_path, where, command):
    """Whichever meets it first: an evaluation, a score, or a loss that no reward is in. Precision is not to blame."""
    bench = Bench(tmp_path)
    bench.plugin("spoilt", SPOILT.replace("WHERE", where))
    sets = {
        "evaluation": ["evaluate.every=1"],
        "score": [],
        "loss": ["algorithm={use: denoising}", "rewards=[]"],
    }
    with pytest.raises((NonFiniteError, AuditError)) as caught:
        bench.run("model={use: spoilt}", *sets[command])
    message = (
        f"he base model's own weights are NaN or infinite, in 1 of 11 tensors: {where}.weight. The file that they come "
        "from is damaged, or was written in a precision that is too narrow: load another one."
    )
    if command == "loss":
        assert caught.value.__notes__[0] == f"a gradient is NaN or infinite. T{message}"
    else:
        assert str(caught.value) == f"t{message}"


def test_sharded_weights_are_not_read_by_one_process_alone():
    """Each read would wait for the others; a stand-in with the mark of a DTensor is enough."""
    from types import SimpleNamespace

    from rewardft.policy.finite import bad_base

    part = torch.nn.Linear(2, 2)
    part.weight.data.fill_(NAN)
    model = SimpleNamespace(trainable=part)
    assert "in 1 of 2 tensors: weight" in bad_base(model, ())
    part.bias.full_tensor = None
    assert bad_base(model, ()) is None
