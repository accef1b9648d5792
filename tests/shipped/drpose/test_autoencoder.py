"""The miniature's autoencoder: shapes, standardised latents, saving, learning."""

import pytest
import torch
from rewardft_plugins.drpose.model.autoencoder import KLAutoencoder, LatentAutoencoder
from rewardft_plugins.drpose.training.nets import FitOptions, autoencoder_psnr, train_autoencoder

from rewardft.errors import ComponentError


def discs(count=16):
    """Six views each of a coloured disc on white: something an autoencoder can learn in seconds."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    items = []
    for i in range(count):
        centre = torch.rand(6, 2, 1, 1, generator=generator) - 0.5
        inside = (x - centre[:, 0]).square() + (y - centre[:, 1]).square() < 0.1
        colour = torch.rand(6, 3, 1, 1, generator=generator)
        maps = torch.where(inside[:, None], colour, 1.0)
        items.append({"id": str(i), "normals": maps, "colours": 1 - maps / 2})
    return items


def test_shapes():
    model = LatentAutoencoder(channels=5, factor=8, width=16)
    latents = model.encode(torch.rand(2, 3, 64, 64))
    assert latents.shape == (2, 5, 8, 8)
    assert model.decode(latents).shape == (2, 3, 64, 64)


def test_standardised_latents_have_mean_zero_variance_one_and_decode_as_before():
    torch.manual_seed(0)
    model = LatentAutoencoder()
    images = torch.rand(8, 3, 64, 64)
    before = model(images)
    model.standardise(model.encode(images))
    latents = model.encode(images)
    torch.testing.assert_close(latents.mean((0, 2, 3)), torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(model(images), before, rtol=1e-4, atol=1e-4)


def test_save_and_load(tmp_path):
    model = LatentAutoencoder(width=16)
    model.standardise(torch.randn(4, 8, 16, 16) * 3 + 1)
    model.save(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(LatentAutoencoder.load(tmp_path)(images), model(images))


def test_a_configuration_that_is_not_ours_is_explained(tmp_path):
    LatentAutoencoder().save(tmp_path)
    (tmp_path / "autoencoder.json").write_text('{"depth": 3}')
    with pytest.raises(ComponentError, match=r"does not describe this autoencoder.*depth"):
        LatentAutoencoder.load(tmp_path)


def test_training_improves_the_reconstruction():
    data = discs()
    torch.manual_seed(0)
    before = autoencoder_psnr(LatentAutoencoder(), data)
    reports = []
    model = train_autoencoder(
        [data], FitOptions(steps=80, batch=32, lr=3e-3, log_every=40, bf16=False), reports.append
    )
    after = autoencoder_psnr(model, data)
    assert after["normals"] > before["normals"] + 8
    assert after["colours"] > before["colours"] + 4
    assert [line.split()[:2] for line in reports] == [["step", "40"], ["step", "80"]]


def test_the_kl_autoencoder_speaks_pixels_in_0_1_and_scaled_latents():
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    model = KLAutoencoder(vae.eval())
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        latents = model.encode(images)
        torch.testing.assert_close(latents, 0.5 * vae.encode(2 * images - 1).latent_dist.mean)
        torch.testing.assert_close(model.decode(latents), vae.decode(2 * latents).sample / 2 + 0.5)
    assert (model.channels, model.factor, latents.shape) == (4, 2, (2, 4, 8, 8))
