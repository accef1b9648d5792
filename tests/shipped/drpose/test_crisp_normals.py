"""`crisp_normals`: values by hand, gradients, and that averages of bodies lose by it."""

import math

import pytest
import torch
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.rewards.crisp_normals import TRUTH, CrispNormals, log_detail

from rewardft.errors import ComponentError
from rewardft.testing import make_rollout
from rewardft.types import Batch


def square(left, size=16):
    """A grey square on white, `(3, size, size)`."""
    picture = torch.ones(3, size, size, dtype=torch.float64)
    picture[:, 4:12, left : left + 8] = 0.5
    return picture


def test_the_detail_of_a_square_by_hand():
    """Its outline has 4 x 8 steps of 0.5 in three channels; its area is 8 x 8."""
    expected = math.log(3 * 32 * 0.25 / 64)
    assert log_detail(square(4)).item() == pytest.approx(expected)
    assert log_detail(torch.stack([square(2), square(6)])).tolist() == pytest.approx([expected] * 2)


def test_an_average_of_two_places_has_less_detail_than_either():
    average = (square(1) + square(7)) / 2
    assert log_detail(average) < log_detail(square(1)) - 0.5


def test_gradients_are_those_of_finite_differences():
    picture = (0.8 + 0.15 * torch.rand(1, 3, 6, 6, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: log_detail(x).sum(), (picture,))


def test_the_reward_is_what_is_missing_and_nothing_more(tmp_path):
    torch.manual_seed(0)
    autoencoder = LatentAutoencoder(width=8)
    autoencoder.save(tmp_path)
    reward = CrispNormals(slack=0.25, autoencoder=str(tmp_path))
    batch = Batch(ids=("a", "b"), epochs=(0, 0), columns={"image": torch.rand(2, 3, 64, 64)})
    latents = torch.randn(2, 12, 8, 16, 16, requires_grad=True)
    value = reward(make_rollout(latents, batch), batch)
    pixels = autoencoder.decode(latents[:, :6].flatten(0, 1)).clamp(0, 1).unflatten(0, (2, 6))
    missing = TRUTH - 0.25 - log_detail(pixels).mean(1)
    torch.testing.assert_close(value, -missing.clamp_min(0))
    (gradient,) = torch.autograd.grad(value.sum(), latents)
    assert gradient[:, 6:].abs().max() == 0  # colours are not looked at
    speckled = torch.rand(2, 6, 3, 64, 64).round()
    assert (log_detail(speckled).mean(1) > TRUTH).all()  # such a set would score 0, the most


def test_a_negative_slack_is_refused():
    with pytest.raises(ComponentError) as caught:
        CrispNormals(slack=-0.1)
    assert str(caught.value) == "crisp_normals: expected slack >= 0, got -0.1"
