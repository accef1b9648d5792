"""Rewards that change what is not theirs, or return what are no numbers: an error that names them."""

import pytest
import torch

from rewardft.errors import RewardError
from rewardft.noise import Noise
from rewardft.policy.facts import RewardFacts
from rewardft.policy.rewards import evaluate_rewards
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.types import Batch, Plan, Rollout

BATCH = Batch(("a", "b"), (0, 0), {"goal": torch.zeros(2)})
EDITED = (
    "reward 'mine' changed {} in place, so that what comes after it would see other samples than "
    "were drawn. Work on a copy: x = x.clone()."
)
SET = (
    "reward 'mine' changed torch's {} from {} to {}, which changes the results of everything after "
    "it. Set it for its own work alone, such as by `{}`."
)
PLAIN = (
    "reward 'mine' must return plain numbers, one per sample; got {}. Return a dense tensor of a "
    "floating-point type on the samples' device."
)


def scored(reward, gradient=False, facts=None, on_error="stop"):
    noise = Noise(0, BATCH.ids, BATCH.epochs)
    x0 = torch.linspace(0, 1, 24).reshape(2, 3, 2, 2)
    rollout = Rollout(None, noise, Plan(stop=1), x0=x0, decoder=lambda x: x * 1.0)
    rewards = [WeightedReward("mine", reward, on_error=on_error)]
    return evaluate_rewards(rewards, rollout, BATCH, gradient, facts)


def brightness(rollout):
    return rollout.decoded.flatten(1).mean(1)


def edits_samples(rollout, batch):
    rollout.x0.clamp_(0, 0.5)
    return brightness(rollout)


def edits_pictures(rollout, batch):
    return rollout.decoded.mul_(2).flatten(1).mean(1)


def edits_a_column(rollout, batch):
    batch["goal"].add_(1)
    return brightness(rollout)


def edits_through_numpy(rollout, batch):
    rollout.x0.numpy()[:] = 0
    return brightness(rollout)


def sets_dtype(rollout, batch):
    torch.set_default_dtype(torch.float64)
    return brightness(rollout)


def sets_device(rollout, batch):
    torch.set_default_device("meta")
    return brightness(rollout)


def sets_gradients(rollout, batch):
    torch.set_grad_enabled(True)
    return brightness(rollout)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
@pytest.mark.parametrize(
    ("reward", "what"),
    [
        (edits_samples, "rollout.x0"),
        (edits_pictures, "rollout.decoded"),
        (edits_a_column, "the column 'goal' of the batch"),
    ],
)
def test_a_reward_that_edits_in_place_is_named(reward, what, on_error):
    with pytest.raises(RewardError) as caught:
        scored(reward, on_error=on_error)
    assert str(caught.value) == EDITED.format(what)
    BATCH["goal"].zero_()


def test_an_edit_of_pictures_is_found_where_gradients_are_taken():
    with pytest.raises(RewardError) as caught:
        scored(edits_pictures, gradient=True)
    assert str(caught.value) == EDITED.format("rollout.decoded")


def test_an_edit_through_numpy_is_found_in_the_first_step():
    with pytest.raises(RewardError) as caught:
        scored(edits_through_numpy, facts=RewardFacts())
    assert str(caught.value) == EDITED.format("rollout.x0")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (sets_dtype, ("default dtype", "torch.float32", "torch.float64", "x.double()")),
        (sets_device, ("default device", "cpu", "meta", "x.to(device)")),
        (sets_gradients, ("gradient mode", "False", "True", "with torch.no_grad():")),
    ],
)
def test_a_reward_that_changes_torch_is_named_and_torch_is_put_back(reward, said):
    with pytest.raises(RewardError) as caught:
        scored(reward)
    assert str(caught.value) == SET.format(*said)
    made = torch.zeros(1)
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.zeros(2, dtype=torch.complex64), "complex numbers (torch.complex64)"),
        (torch.zeros(2, device="meta"), "a tensor without data (on the meta device)"),
        (torch.zeros(2).to_sparse(), "a tensor of layout torch.sparse_coo"),
        (torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "a quantized tensor"),
        (torch.nested.nested_tensor([torch.zeros(1)] * 2), "a nested tensor"),
    ],
    ids=["complex", "meta", "sparse", "quantized", "nested"],
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_scores_that_are_no_plain_numbers_are_refused(value, got):
    with pytest.raises(RewardError) as caught:
        scored(lambda rollout, batch: value)
    assert str(caught.value) == PLAIN.format(got)


def test_a_reward_that_works_on_copies_is_left_alone():
    facts = RewardFacts()
    total = scored(lambda r, b: brightness(r) + b["goal"].clone().add_(1), True, facts).total
    torch.testing.assert_close(total, torch.tensor([5.5 / 23 + 1, 17.5 / 23 + 1]))
