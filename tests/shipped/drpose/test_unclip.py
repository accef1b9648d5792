"""The full-size path, on a tiny checkpoint of the real classes."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from rewardft_plugins.drpose.model.multiview import MultiviewUNet
from rewardft_plugins.drpose.weights import write_tensors

from rewardft.errors import ComponentError
from rewardft.types import Batch

CROSS, EMBED = 16, 12


def tiny_unet():
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=[8, 16],
        layers_per_block=1,
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        norm_num_groups=4,
        cross_attention_dim=CROSS,
        attention_head_dim=[2, 4],
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBED,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What SD-2.1-unCLIP looks like on disk, in miniature: four input channels and no multi-view attention."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("unclip")
    tiny_unet().save_pretrained(path / "unet")
    AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    ).save_pretrained(path / "vae")
    config = transformers.CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=14,
        patch_size=7,
        projection_dim=EMBED,
    )
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(path / "image_encoder")
    DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear").save_pretrained(
        path / "scheduler"
    )
    write_tensors(path / "text_embeddings.safetensors", {"embeddings": torch.randn(12, 5, CROSS)})
    return path


@pytest.fixture(scope="module")
def model(folder):
    return MultiviewUNet(weights=str(folder), size="full", guidance=2.0)


def batch():
    columns = {name: torch.rand(2, 6, 3, 16, 16) for name in ("normals", "colours")}
    return Batch(("a", "b"), (0, 0), {"image": torch.rand(2, 3, 16, 16), **columns})


def run(model, given, seed=0):
    cond = model.encode(given)
    x = torch.randn(2, *model.sample_shape(cond), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model.denoise(x, torch.tensor([10, 900]), cond)


def test_it_runs_from_condition_to_pixels(model):
    given = batch()
    cond = model.encode(given)
    assert model.sample_shape(cond) == (12, 4, 8, 8)
    assert cond["vector"].shape == (2, 2 * EMBED)
    assert run(model, given).shape == (2, 12, 4, 8, 8)
    assert model.clean(given).shape == (2, 12, 4, 8, 8)
    assert model.decode(model.clean(given)).shape == (2, 12, 3, 16, 16)
    assert model.scheduler.config.prediction_type == "v_prediction"


def test_the_null_condition_has_no_image_and_keeps_its_text(model):
    cond = model.drop(model.encode(batch()), torch.tensor([True, True]))
    assert sorted(cond) == ["latents", "vector"]
    assert all(value.abs().max() == 0 for value in cond.values())


def test_new_layers_start_without_effect(model, folder):
    """With zero condition latents and no view attending to another, every view is what the plain weights make of it."""
    original = UNet2DConditionModel.from_pretrained(folder / "unet")
    assert torch.equal(model.trainable.unet.conv_in.weight[:, :4], original.conv_in.weight)
    assert model.trainable.unet.conv_in.weight[:, 4:].abs().max() == 0
    given = batch()
    before = run(model, given)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn_mv.to_out.0"
    assert model.trainable.unet.get_submodule(name).weight.abs().max() == 0
    assert torch.isfinite(before).all()


def test_save_and_load(model, tmp_path):
    given = batch()
    model.save(tmp_path)
    again = MultiviewUNet(weights=str(tmp_path), size="full", guidance=2.0)
    assert torch.equal(run(again, given), run(model, given))


def test_the_size_must_match_the_folder(folder):
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(weights=str(folder))
    assert str(error.value) == f"{folder} is a diffusers folder; say `size: full` to load it"


def test_full_size_needs_weights():
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(size="full")
    assert str(error.value) == (
        "size: full takes `weights`, a diffusers folder, and neither `autoencoder` nor `unet`"
    )


def test_what_a_folder_lacks_is_named(tmp_path):
    (tmp_path / "vae").mkdir()
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(weights=str(tmp_path), size="full")
    assert str(error.value) == (
        f"{tmp_path} is no full-size multi-view model: it lacks unet, image_encoder, scheduler, text_embeddings.safetensors"
    )


def test_text_embeddings_of_another_number_of_views_are_refused(folder):
    with pytest.raises(
        ComponentError,
        match=r"must hold `embeddings` \(14, tokens, dim\) with face: True, got \(12, 5",
    ):
        MultiviewUNet(weights=str(folder), size="full", face=True)
