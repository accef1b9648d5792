"""The miniature's autoencoder: shapes, standardised latents, saving, learning."""

import pytest
import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.model.autoencoder import KLAutoencoder, LatentAutoencoder
from rewardft_plugins.drpose.training.decoder import (
    crop_bodies,
    detail_error,
    draw_estimates,
    reconstruction_loss,
    train_decoder,
)
from rewardft_plugins.drpose.training.fit import FitOptions
from rewardft_plugins.drpose.training.nets import autoencoder_psnr, train_autoencoder

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
    with pytest.raises(ComponentError, match=r"does not describe a LatentAutoencoder.*depth"):
        LatentAutoencoder.load(tmp_path)


def test_training_improves_the_reconstruction():
    data = discs()
    torch.manual_seed(0)
    before = autoencoder_psnr(LatentAutoencoder(), data)
    reports = []
    model = train_autoencoder(
        [data], FitOptions(steps=80, batch=8, lr=3e-3, log_every=40, bf16=False), reports.append
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


def bodies():
    """Discs again, with labels that say where they are."""
    return [item | {"labels": (item["normals"].amin(1) < 1).byte()} for item in discs(4)]


def test_a_deep_decoder_learns_and_leaves_the_encoder_alone(tmp_path):
    torch.manual_seed(0)
    data, images = bodies(), torch.rand(2, 3, 64, 64)
    model = LatentAutoencoder(width=16)
    latents = model.encode(images)
    train_decoder(model, [data], FitOptions(steps=1, batch=4), lambda text: None)
    before = autoencoder_psnr(model, data)
    train_decoder(model, [data], FitOptions(steps=40, batch=8, lr=3e-3), lambda text: None)
    after = autoencoder_psnr(model, data)
    assert torch.equal(model.encode(images), latents)
    assert after["normals"] > before["normals"] + 3
    model.save(tmp_path)
    loaded = LatentAutoencoder.load(tmp_path)
    assert loaded.config == {"channels": 8, "factor": 4, "width": 16, "decoder": "deep"}
    assert torch.equal(loaded(images), model(images))


def test_windows_hold_the_body_and_cut_all_three_alike():
    image = torch.arange(64 * 64.0).view(1, 1, 64, 64).expand(1, 3, -1, -1)
    latents = image[:, :1, ::4, ::4]  # a latent that names its place
    body = torch.zeros(1, 64, 64, dtype=torch.bool)
    body[0, 30:40, 4:12] = True
    cut, picture, mask = crop_bodies(latents, image, body, 4, torch.Generator().manual_seed(0))
    assert cut.shape == (1, 1, 12, 12) and picture.shape == (1, 3, 48, 48)
    assert torch.equal(picture[:, :1, ::4, ::4], cut)
    assert mask.sum() == body.sum() == 80
    assert set(picture[0, 0][mask[0]].tolist()) == set(image[0, 0][body[0]].tolist())


def test_the_reconstruction_loss_by_hand():
    """One pixel of three channels off by 0.5, on a body that covers the whole picture."""
    images = torch.zeros(1, 3, 4, 4)
    found = images.clone()
    found[..., 1, 1] = 0.5
    whole = torch.ones(1, 4, 4, dtype=torch.bool)
    absolute, square, edges = 1.25 * 0.5 / 16, 1.25 * 0.25 / 16, 2 * (2 * 0.5 / 12)
    expected = absolute + 2 * square + 0.5 * edges
    assert reconstruction_loss(found, images, whole).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder": "deeep"}, r"decoder is 'deeep'\. Did you mean 'deep'"),
        ({"decoder": "deep", "factor": 8}, "enlarges latents 4 times, got factor 8"),
    ],
)
def test_a_decoder_that_there_is_not(options, message):
    with pytest.raises(ComponentError, match=message):
        LatentAutoencoder(**options)


def test_the_detail_error_sees_missing_gradients_and_not_shifted_ones():
    """A checkerboard of ones and zeros: every difference is 1; moved by a pixel it is as detailed."""
    board = (torch.arange(8)[:, None] + torch.arange(9)) % 2
    board = board.float().expand(1, 3, 8, 9)
    moved, flat = board[..., 1:], torch.full((1, 3, 8, 8), 0.5)
    assert detail_error(moved, board[..., :-1]).item() == pytest.approx(0.0, abs=1e-6)
    expected = (2 + 1e-5) ** 0.5 - 1e-5**0.5
    assert detail_error(flat, board[..., :-1]).item() == pytest.approx(expected)


def test_a_bases_estimates_belong_to_their_pictures():
    """A base that answers 0 leaves alpha times the clean latents, plus noise."""
    torch.manual_seed(0)
    model = LatentAutoencoder(width=16)
    noisy = {"normals": (6, 3, 64, 64), "colours": (6, 3, 64, 64), "image": (3, 64, 64)}
    items = [
        {name: torch.rand(shape) for name, shape in noisy.items()}
        | {"labels": torch.ones(6, 64, 64), "joints": torch.zeros(23, 3), "offset": torch.zeros(3)}
        for _ in range(3)
    ]
    model.standardise(model.encode(items[0]["normals"]))

    def base(x, t, picture, skeletons):
        assert x.shape == (2, 12, 8, 16, 16) and skeletons.shape == (2, 4, 46, 32, 32)
        return torch.zeros_like(x)

    generator = torch.Generator().manual_seed(1)
    pictures, shown, latents = draw_estimates([items], model, base, 8, generator)
    assert (pictures.shape, shown.shape) == ((8, 3, 64, 64), (8, 64, 64))
    clean = model.encode(pictures)
    for found, own in zip(latents, range(8)):
        likeness = [F.cosine_similarity(found.flatten(), c.flatten(), 0).item() for c in clean]
        assert likeness[own] == max(likeness) > 0.2
