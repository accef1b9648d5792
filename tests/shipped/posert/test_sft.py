"""Supervised training of words and poses: what each value of `beta` weighs."""

import pytest
import torch
from rewardft_plugins.posert.head import density
from rewardft_plugins.posert.hybrid import pose_step
from rewardft_plugins.posert.sft import PoseSFT, beta_nll

from rewardft.errors import ComponentError

SIZE = 132


def step(rank: int = 0):
    """A pose that was given, under a Gaussian with parameters of its own, in float64."""
    torch.manual_seed(0)
    mean = torch.randn(3, SIZE, dtype=torch.float64, requires_grad=True)
    deviation = (0.1 + torch.rand(3, SIZE, dtype=torch.float64)).requires_grad_()
    factor = torch.randn(3, SIZE, rank, dtype=torch.float64)
    pose = torch.randn(3, SIZE, dtype=torch.float64)
    given = {"tokens": None, "pose": pose}
    return pose_step(given, mean, deviation, factor), pose, mean, deviation


def test_beta_0_is_the_likelihood():
    transition, pose, mean, deviation = step()
    expected = -density(mean, deviation, torch.zeros(3, SIZE, 0)).log_prob(pose) / SIZE
    torch.testing.assert_close(beta_nll(transition, 0.0), expected)


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_gradients_are_those_of_the_paper(beta):
    # Seitzer et al. 2022, equations 8 and 9, over the dimensions of one sample.
    transition, pose, mean, deviation = step()
    beta_nll(transition, beta).sum().backward()
    scale = deviation.detach() ** (2 * beta)
    variance = deviation.detach() ** 2
    off = pose - mean.detach()
    torch.testing.assert_close(mean.grad, -scale * off / variance / SIZE)
    # For the variance; the chain rule of a square gives the deviation's.
    by_variance = scale * (variance - off**2) / (2 * variance**2) / SIZE
    torch.testing.assert_close(deviation.grad, by_variance * 2 * deviation.detach())


def test_at_beta_1_the_mean_learns_as_under_squared_error():
    transition, pose, mean, _ = step()
    beta_nll(transition, 1.0).sum().backward()
    learned = mean.grad.clone()
    mean.grad = None
    (0.5 * (pose - mean) ** 2).mean(1).sum().backward()
    torch.testing.assert_close(learned, mean.grad)


def test_beta_needs_a_diagonal_covariance():
    transition, *_ = step(rank=2)
    with pytest.raises(ComponentError, match="`beta` is for a diagonal covariance, `rank: 0`"):
        beta_nll(transition, 0.5)


@pytest.mark.parametrize("options", [{"beta": -0.1}, {"beta": 1.1}, {"pose_weight": -1.0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ComponentError, match="expected pose_weight >= 0 and beta in"):
        PoseSFT(**options)
