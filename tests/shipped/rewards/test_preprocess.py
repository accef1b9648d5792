"""Differentiable preparation of images against the library's own processor and against pillow."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rewardft_plugins.rewards.preprocess import CLIP_STD, Preprocess, read_preprocess
from rewardft_plugins.rewards.resize import resize, resize_matrix
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewardft.errors import ComponentError

SIZES = [(24, 24), (37, 53), (64, 48), (224, 224), (300, 211), (512, 512)]


def random_bytes(height, width):
    return np.random.default_rng(height * width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )


def as_tensor(array):
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def library(size, array):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    return processor(images=[Image.fromarray(array)], return_tensors="pt")["pixel_values"]


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_quantised_preparation_is_the_librarys(shape, size):
    array = random_bytes(*shape)
    assert (
        Preprocess(size, quantise=True)(as_tensor(array)) - library(size, array)
    ).abs().max() < 1e-6


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_without_rounding_it_differs_by_about_a_grey_level_at_most(shape, size):
    """Pillow rounds twice, after columns and rows: half a level each, and what the second makes of the first."""
    array = random_bytes(*shape)
    levels = (
        (Preprocess(size)(as_tensor(array)) - library(size, array))
        * torch.tensor(CLIP_STD).view(3, 1, 1)
        * 255
    )
    assert levels.abs().max() < 1.1 and levels.abs().mean() < 0.32


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_resizing_is_pillows_on_floating_point_pictures(shape):
    """In a contrast that never reaches the ends: pillow clips bytes, and floating point not."""
    array = (0.4 + 0.2 * random_bytes(*shape) / 255).astype(np.float32)
    planes = [
        np.asarray(Image.fromarray(array[..., c]).resize((45, 60), Image.Resampling.BICUBIC))
        for c in range(3)
    ]
    got = resize(torch.from_numpy(array).permute(2, 0, 1)[None], 60, 45)
    assert (got - torch.from_numpy(np.stack(planes))).abs().max() < 1e-5


def test_resizing_weights_sum_to_one_and_leave_equal_sizes_alone():
    for sizes in ((7, 19), (19, 7), (100, 33)):
        assert (
            np.allclose(resize_matrix(*sizes).sum(1), 1)
            and resize_matrix(*sizes).shape == sizes[::-1]
        )
    assert np.array_equal(resize_matrix(9, 9), np.eye(9))


def test_padding_keeps_the_whole_image_in_the_middle():
    pixels = torch.ones(1, 3, 20, 40)
    prepared = Preprocess(32, mean=(0.5,) * 3, std=(0.5,) * 3, fit="pad")(pixels)
    assert prepared.shape == (1, 3, 32, 32)
    rows = prepared[0, 0, :, 0].tolist()
    assert rows == pytest.approx([-1.0] * 8 + [1.0] * 16 + [-1.0] * 8, abs=1e-5)


@pytest.mark.parametrize("missing", range(9))
def test_the_middle_is_torchvisions_or_transformers(missing):
    """Half of an odd number of pixels: transformers rounds down, torchvision to the even number."""
    pixels = as_tensor(random_bytes(24 + missing, 24))
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    even = Preprocess(24, middle="even", **plain)(pixels)
    top = [0, 0, 1, 2, 2, 2, 3, 4, 4][missing]  # int(round(missing / 2.0))
    assert torch.equal(even, pixels[..., top : top + 24, :])
    top = missing // 2
    assert torch.equal(Preprocess(24, **plain)(pixels), pixels[..., top : top + 24, :])


def test_imagerewards_crop_of_a_portrait_is_the_released_one():
    """832 x 1216 becomes 224 x 327, of which 103 go: torchvision begins at row 52."""
    rows = torch.linspace(0, 1, 1216)[None, None, :, None].expand(1, 3, 1216, 832)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    whole = resize(rows, 327, 224)
    even = Preprocess(224, middle="even", **plain)(rows)
    assert torch.equal(even, whole[..., 52:276, :])


@pytest.mark.parametrize("shape", [(20, 30), (60, 45), (32, 32), (31, 32)], ids=str)
@pytest.mark.parametrize("quantise", [False, True])
def test_hpsv2_resizes_floating_point_numbers_without_clipping(shape, quantise):
    """Its own steps: the longest edge, torch's bicubic with antialiasing, black borders."""
    array = 255 * (random_bytes(*shape) > 127).astype(np.uint8)  # black and white overshoot most
    pixels, scale = as_tensor(array), 32 / max(shape)
    height, width = (round(n * scale) for n in shape)
    small = F.interpolate(pixels, (height, width), mode="bicubic", antialias=True)
    top, left = (32 - height) // 2, (32 - width) // 2
    expected = F.pad(small, (left, 32 - width - left, top, 32 - height - top))
    config = {"size": 32, "image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
    got = read_preprocess(config, "x", fit="pad", quantise=quantise)(pixels)
    assert (got - expected).abs().max() < 1e-5
    outside = float((got - got.clamp(0, 1)).abs().max())
    assert outside > 0.01 if scale > 1 else outside < 1


def test_gradients_pass_through_the_rounding():
    pixels = as_tensor(random_bytes(40, 40))
    slopes = []
    for quantise in (False, True):
        leaf = pixels.clone().requires_grad_()
        (Preprocess(32, quantise=quantise)(leaf) * torch.linspace(-1, 1, 32)).sum().backward()
        slopes.append(leaf.grad)
    assert slopes[0].abs().mean() > 0
    assert (slopes[0] - slopes[1]).abs().mean() < 0.02 * slopes[0].abs().mean(), (
        "they differ where rounding meets an end"
    )


def test_configurations_old_and_new_are_read():
    new = read_preprocess(
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "resample": 3},
        "x",
    )
    assert new == read_preprocess({"size": 64, "crop_size": 64}, "x") == Preprocess(64)


def test_a_configuration_that_is_not_clips_is_refused():
    config = {
        "size": {"shortest_edge": 256},
        "crop_size": 224,
        "resample": 2,
        "do_normalize": False,
    }
    with pytest.raises(ComponentError) as caught:
        read_preprocess(config, "some/model")
    assert str(caught.value) == (
        "some/model: its image processor is not one of CLIP: resample is 2, expected 3 (bicubic); "
        "crop_size is 224 x 224 and size 256, expected one square; do_resize or do_normalize is off"
    )
