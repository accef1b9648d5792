"""Rewards without weights: values by hand, files by pillow, gradients by finite differences."""

import io
import math

import pytest
import torch
from PIL import Image
from rewardft_plugins.rewards.jpeg import SoftJpeg, jpeg_compressibility, jpeg_incompressibility
from rewardft_plugins.rewards.soft_jpeg import (
    CHROMINANCE,
    LUMINANCE,
    block_cosines,
    quantisation_steps,
    soft_bits,
    soft_round,
)
from rewardft_plugins.rewards.statistics import colourfulness, mean_brightness, symmetry
from scipy.stats import spearmanr

from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward
from rewardft.testing.rewards import make_rollout

from .pictures import batch_of, noise_pictures, smooth_pictures


def score(reward, pixels):
    return reward(make_rollout(pixels, batch_of(len(pixels))), batch_of(len(pixels)))


def flat(red, green, blue):
    return torch.tensor([red, green, blue])[None, :, None, None].expand(1, 3, 8, 8)


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reward",
    [mean_brightness, colourfulness, symmetry, SoftJpeg()],
    ids=lambda r: getattr(r, "__name__", "soft_jpeg"),
)
def test_differentiable_rewards_keep_the_contract(reward):
    report = check_reward(reward, noise_pictures(4, 20, 28), batch_of(4), differentiable=True)
    low, high = reward.range
    assert low <= report.low < report.high <= high and report.not_applicable == 0
    assert report.gradient_error < 1e-2


def test_mean_brightness_is_luma():
    assert score(mean_brightness, flat(0.2, 0.4, 0.6)).item() == pytest.approx(
        0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.6
    )
    aimed = mean_brightness(
        make_rollout(flat(1.0, 1.0, 1.0), batch_of(1)), batch_of(1), target=0.25
    )
    assert aimed.item() == pytest.approx(-(0.75**2))


def test_colourfulness_by_hand():
    """Half red, half blue: rg is 255 or 0, yb is 127.5 or -255."""
    pixels = torch.cat([flat(1.0, 0.0, 0.0), flat(0.0, 0.0, 1.0)], dim=3)
    spread = math.sqrt(127.5**2 + 191.25**2)
    mean = math.sqrt(127.5**2 + 63.75**2)
    assert score(colourfulness, pixels).item() == pytest.approx(spread + 0.3 * mean)
    assert score(colourfulness, flat(0.3, 0.3, 0.3)).item() == 0


def test_the_gradient_of_colourfulness_is_finite_on_grey():
    grey = flat(0.5, 0.5, 0.5).clone().requires_grad_()
    score(colourfulness, grey).sum().backward()
    assert torch.isfinite(grey.grad).all()


def test_symmetry_compares_with_the_mirror_image():
    ramp = torch.linspace(0, 1, 5).expand(1, 3, 4, 5)
    assert score(symmetry, ramp).item() == pytest.approx(-(1 + 0.5 + 0 + 0.5 + 1) / 5)
    both = torch.cat([ramp, ramp.flip(-1)], dim=3)
    assert score(symmetry, both).item() == 0


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(RewardError) as caught:
        score(symmetry, torch.rand(2, 12, 3, 8, 8))
    assert str(caught.value) == (
        "symmetry expects RGB images (b, 3, h, w) in [0, 1] as `rollout.decoded`, got shape (2, 12, 3, 8, 8). "
        "Use it with a model that decodes to images."
    )


# -- JPEG --------------------------------------------------------------------------------------------------------------


def file_size(image, quality=95):
    buffer = io.BytesIO()
    array = (image.permute(1, 2, 0) * 255).round().byte().numpy()
    Image.fromarray(array, "RGB").save(buffer, "JPEG", quality=quality)
    return len(buffer.getvalue())


@pytest.mark.parametrize(
    ("reward", "sign"), [(jpeg_incompressibility, 1), (jpeg_compressibility, -1)]
)
def test_exact_sizes_are_those_of_the_files(reward, sign):
    pixels = smooth_pictures(5, 40, 56)
    assert score(reward, pixels).tolist() == pytest.approx(
        [sign * file_size(image) / 1000 for image in pixels]
    )
    report = check_reward(reward, pixels, batch_of(5), differentiable=False)
    low, high = reward.range
    assert low < report.low < report.high < high
    assert reward.differentiable is False


def test_the_estimate_ranks_images_as_the_real_sizes_do():
    pixels = smooth_pictures(80)
    for quality, least in ((95, 0.97), (50, 0.97)):
        sizes = [file_size(image, quality) for image in pixels]
        assert spearmanr(sizes, soft_bits(pixels, quality).tolist()).statistic > least
        assert spearmanr(sizes, score(SoftJpeg(quality), pixels).tolist()).statistic < -least


def test_climbing_the_gradient_shrinks_the_real_file():
    pixels = smooth_pictures(6, seed=3)
    learned = pixels.clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=4e-3)
    for _ in range(15):
        optimizer.zero_grad()
        (-score(SoftJpeg(), learned)).sum().backward()
        optimizer.step()
    before, after = (
        [file_size(image.detach().clamp(0, 1)) for image in images] for images in (pixels, learned)
    )
    assert all(b < 0.97 * a for a, b in zip(before, after))


def test_quantisation_tables_are_pillows():
    for quality in (10, 49, 50, 75, 95, 100):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "JPEG", quality=quality)
        luma, chroma = Image.open(buffer).quantization.values()
        assert sorted(luma) == sorted(
            int(v) for row in quantisation_steps(LUMINANCE, quality) for v in row
        )
        assert sorted(chroma) == sorted(
            int(v) for row in quantisation_steps(CHROMINANCE, quality) for v in row
        )


def test_the_block_transform_is_orthonormal_and_places_blocks():
    planes = torch.zeros(1, 1, 16, 24)
    planes[..., 8:, 16:] = 1.0
    cosines = block_cosines(planes)
    assert cosines.shape == (1, 1, 2, 3, 8, 8)
    assert cosines[0, 0, 1, 2, 0, 0].item() == pytest.approx(8.0)
    cosines[0, 0, 1, 2, 0, 0] = 0.0
    assert cosines.abs().max() < 1e-5
    noise = torch.randn(1, 2, 16, 24, generator=torch.Generator().manual_seed(0))
    assert block_cosines(noise).norm().item() == pytest.approx(noise.norm().item(), rel=1e-5)


def test_smooth_rounding_agrees_at_integers_and_halves():
    x = torch.arange(-6, 7) / 2.0
    assert torch.allclose(soft_round(x), x, atol=1e-6)
    assert soft_round(torch.tensor(0.2)) < 0.06 and soft_round(torch.tensor(0.8)) > 0.94


def test_a_quality_that_jpeg_does_not_have_is_refused():
    with pytest.raises(
        ComponentError, match="jpeg_differentiable: quality must be from 1 to 100, got 0"
    ):
        SoftJpeg(quality=0)
