"""Training loops of the small networks: they learn on a handful of bodies, and their commands explain themselves."""

import pytest
import torch
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.training.fit import FitOptions, fit
from rewardft_plugins.drpose.training.nets import (
    Encoded,
    disturb,
    encode_dataset,
    judge_quality,
    skeleton_quality,
    train_judge,
    train_skeleton,
)
from torch import nn
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def items(rendered_bodies):
    names = ("normals", "colours", "labels", "joints", "joints2d")
    return [{"id": str(i), **{name: rendered_bodies[name][i] for name in names}} for i in range(8)]


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    model = LatentAutoencoder(width=16)
    return model.eval()


def test_fit_reaches_the_minimum_and_reports():
    model = nn.Linear(1, 1)
    lines = []

    def loss_of(generator):
        x = torch.rand(16, 1, generator=generator)
        return (model(x) - 3 * x).square().mean()

    fit(
        model,
        loss_of,
        FitOptions(steps=400, lr=0.1, weight_decay=0.0, bf16=False, log_every=200),
        lines.append,
    )
    assert model.weight.item() == pytest.approx(3.0, abs=0.05)
    assert [line.split()[1] for line in lines] == ["200", "400"]


def test_fit_repeats_exactly():
    def run():
        torch.manual_seed(1)
        model = nn.Linear(4, 4)
        fit(
            model,
            lambda g: (model(torch.randn(8, 4, generator=g)) - 1).square().mean(),
            FitOptions(steps=5),
            print,
        )
        return model.weight

    assert torch.equal(run(), run())


def test_disturbed_latents_keep_their_content():
    latents = torch.randn(4, 12, 8, 16, 16)
    generator = torch.Generator().manual_seed(0)
    noisy = disturb(latents, generator)
    assert noisy.shape == latents.shape
    similarity = torch.cosine_similarity(noisy.flatten(1), latents.flatten(1))
    assert (similarity > 0.3).all() and (similarity < 1).all()


def test_skeleton_training_learns_the_maps(items, autoencoder):
    data = encode_dataset(autoencoder, items)
    assert isinstance(data, Encoded) and len(data) == 8
    assert data.latents.dtype == torch.float16
    short = train_skeleton([data], FitOptions(steps=1, batch=4, bf16=False), print)
    before = skeleton_quality(short, data)
    after = skeleton_quality(
        train_skeleton([data], FitOptions(steps=30, batch=4, lr=5e-3), print), data
    )
    assert sorted(after) == ["overlay_psnr", "overlay_ssim", "psnr", "ssim"]
    assert after["psnr"] > before["psnr"] + 8


def test_judge_training_learns_joints_and_parts(items, autoencoder):
    before = judge_quality(
        train_judge([items], autoencoder, FitOptions(steps=1, batch=4), print), items
    )
    after = judge_quality(
        train_judge([items], autoencoder, FitOptions(steps=30, batch=4, lr=5e-3), print), items
    )
    assert after["mpjpe_mm"] < 0.8 * before["mpjpe_mm"]
    assert after["iou"] == before["iou"] > 0.8  # needs no network


def test_the_data_option_is_explained(tmp_path):
    from rewardft_plugins.drpose.commands.training import app

    result = CliRunner().invoke(
        app, ["train-autoencoder", str(tmp_path), "--data", "nocolon", "--val", "x:y"]
    )
    assert result.exit_code == 2
    assert "expected ROOT:SPLIT, for example data/drpose:train, got 'nocolon'" in " ".join(
        result.output.replace("│", " ").split()
    )
