"""The full-size path, on a tiny checkpoint of the real classes."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from rewardft_plugins.drpose.model.multiview import MultiviewUNet
from rewardft_plugins.drpose.model.pictures import body_pictures, face_crop
from rewardft_plugins.drpose.weights import read_tensors, write_tensors

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
    assert cond["vectors"].shape == (2, 12, 2 * EMBED)
    assert run(model, given).shape == (2, 12, 4, 8, 8)
    assert model.clean(given).shape == (2, 12, 4, 8, 8)
    assert model.decode(model.clean(given)).shape == (2, 12, 3, 16, 16)
    assert model.scheduler.config.prediction_type == "v_prediction"


def test_the_null_condition_has_no_image_and_keeps_its_text(model):
    cond = model.drop(model.encode(batch()), torch.tensor([True, True]))
    assert sorted(cond) == ["latents", "vectors"]
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
        f"{tmp_path} is not a full-size multi-view model: it lacks unet, image_encoder, scheduler, text_embeddings.safetensors"
    )


def test_text_embeddings_of_another_number_of_views_are_refused(folder):
    with pytest.raises(
        ComponentError,
        match=r"must hold `embeddings` \(14, tokens, dim\) with face: True, got \(12, 5",
    ):
        MultiviewUNet(weights=str(folder), size="full", face=True)


# -- class labels ------------------------------------------------------------------------------------------------------


def with_noising(folder, tmp_path, rows=14):
    """The folder as PSHuman's, with statistics of the embeddings and a schedule for their noise."""
    from diffusers import DDPMScheduler

    path = tmp_path / "pipeline"
    shutil.copytree(folder, path)
    generator = torch.Generator().manual_seed(1)
    (path / "image_normalizer").mkdir()
    statistics = {
        "mean": torch.randn(1, EMBED, generator=generator),
        "std": torch.rand(1, EMBED, generator=generator) + 0.5,
    }
    write_tensors(path / "image_normalizer" / "diffusion_pytorch_model.safetensors", statistics)
    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(
        path / "image_noising_scheduler"
    )
    embeddings = torch.randn(rows, 5, CROSS, generator=generator)
    write_tensors(path / "text_embeddings.safetensors", {"embeddings": embeddings})
    return path, statistics


def test_face_rows_get_the_embedding_of_the_face_crop(folder, tmp_path):
    path, _ = with_noising(folder, tmp_path)
    for name in ("image_normalizer", "image_noising_scheduler"):
        shutil.rmtree(path / name)
    model = MultiviewUNet(weights=str(path), size="full", face=True)
    given = batch()
    found = model.encode(given)["vectors"][..., :EMBED].unflatten(1, (2, 7))
    for image, rows in (
        (given["image"], found[:, :, :6]),
        (face_crop(given["image"]), found[:, :, 6:]),
    ):
        assert torch.allclose(rows, model.image_encoder(image)[:, None, None].expand_as(rows))
    assert not torch.allclose(found[:, :, 0], found[:, :, 6])


def test_labels_are_noised_as_diffusers_does(folder, tmp_path):
    """Against StableUnCLIPImageNormalizer, DDPMScheduler.add_noise at level 0 and the level's embedding."""
    from diffusers import DDPMScheduler
    from diffusers.models.embeddings import get_timestep_embedding
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    path, statistics = with_noising(folder, tmp_path)
    model = MultiviewUNet(weights=str(path), size="full", face=True)
    embeddings, noise = torch.randn(2, 14, EMBED), torch.randn(2, 14, EMBED)
    normalizer = StableUnCLIPImageNormalizer(EMBED)
    normalizer.load_state_dict(statistics)
    schedule = DDPMScheduler.from_pretrained(path / "image_noising_scheduler")
    level = torch.zeros(28, dtype=torch.long)
    scaled = normalizer.scale(embeddings.flatten(0, 1))
    expected = normalizer.unscale(schedule.add_noise(scaled, noise.flatten(0, 1), level))
    known = get_timestep_embedding(level, EMBED, flip_sin_to_cos=True, downscale_freq_shift=0)
    found = model.image_encoder.labels(embeddings, noise).flatten(0, 1)
    assert torch.allclose(found, torch.cat([expected, known], dim=1), atol=1e-6)
    assert not torch.allclose(found[:, :EMBED], embeddings.flatten(0, 1), atol=1e-4)


def test_every_row_has_noise_of_its_own_and_keeps_it(folder, tmp_path):
    path, _ = with_noising(folder, tmp_path)
    model = MultiviewUNet(weights=str(path), size="full", face=True)
    given = batch()
    first, again = (model.encode(given)["vectors"] for _ in range(2))
    assert torch.equal(first, again)
    rows = first[:, :6, :EMBED]  # one picture, six rows
    assert all(not torch.equal(rows[:, 0], rows[:, i]) for i in range(1, 6))


def test_half_of_the_noising_is_refused(folder, tmp_path):
    path, _ = with_noising(folder, tmp_path)
    shutil.rmtree(path / "image_normalizer")
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(weights=str(path), size="full", face=True)
    assert str(error.value) == (
        f"{path} has one of image_noising_scheduler and image_normalizer; expected both or none"
    )


# -- PSHuman's layout --------------------------------------------------------------------------------------------------

PUBLISHED_BLOCKS = {
    "CrossAttnDownBlock2D": "CrossAttnDownBlockMV2D",
    "CrossAttnUpBlock2D": "CrossAttnUpBlockMV2D",
    "UNetMidBlock2DCrossAttn": "UNetMidBlockMV2DCrossAttn",
}


def published(folder, tmp_path, inputs=8):
    """A folder as PSHuman saves it: its class, its block names, options that diffusers does not know, all keys."""
    from rewardft_plugins.drpose.model.unclip import unet_options
    from rewardft_plugins.drpose.model.unet import build_unet

    path, _ = with_noising(folder, tmp_path, rows=12)
    config = json.loads((path / "unet" / "config.json").read_text())
    config["in_channels"] = inputs
    unet = build_unet(unet_options(config))
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(2))
    weights = {name: value.clone() for name, value in unet.state_dict().items()}
    write_tensors(path / "unet" / "diffusion_pytorch_model.safetensors", weights)
    named = {
        name: [PUBLISHED_BLOCKS.get(block, block) for block in config[name]]
        for name in ("down_block_types", "up_block_types")
    }
    own = {
        "_class_name": "UNetMV2DConditionModel",
        "num_views": 6,
        "selfattn_block": "self_rowwise",
    }
    mid = {"mid_block_type": PUBLISHED_BLOCKS[config["mid_block_type"]]}
    (path / "unet" / "config.json").write_text(json.dumps({**config, **named, **mid, **own}))
    (path / "model_index.json").write_text('{"_class_name": "StableUnCLIPImg2ImgPipeline"}')
    (path / "tokenizer").mkdir()
    (path / "tokenizer" / "vocab.json").write_text("{}")
    return path, weights


def test_what_was_published_so_is_saved_so(folder, tmp_path):
    """Key by key and byte by byte, but for what was trained: the program that it comes from reads it."""
    path, weights = published(folder, tmp_path)
    model = MultiviewUNet(weights=str(path), size="full")
    with torch.no_grad():
        model.trainable.unet.conv_out.bias += 1
    model.save(tmp_path / "tuned")
    saved = read_tensors(tmp_path / "tuned/unet/diffusion_pytorch_model.safetensors")
    assert saved.keys() == weights.keys()
    assert [name for name in saved if not torch.equal(saved[name], weights[name])] == [
        "conv_out.bias"
    ]
    before, after = (
        json.loads((root / "unet/config.json").read_text()) for root in (path, tmp_path / "tuned")
    )
    assert before == after
    for part in (
        "model_index.json",
        "tokenizer/vocab.json",
        "image_noising_scheduler/scheduler_config.json",
    ):
        assert (tmp_path / "tuned" / part).read_bytes() == (path / part).read_bytes()
    again = MultiviewUNet(weights=str(tmp_path / "tuned"), size="full")
    given = batch()
    assert torch.equal(run(again, given), run(model, given))


def test_the_smpl_variant_takes_a_picture_of_the_body_in_each_view(folder, tmp_path):
    path, _ = published(folder, tmp_path, inputs=12)
    model = MultiviewUNet(weights=str(path), size="full", guidance=2.0)
    assert model.trainable.unet.conv_in.weight.shape[1] == 12
    given = batch()
    shown = Batch(given.ids, given.epochs, {**given.columns, "smpl": torch.rand(2, 6, 3, 16, 16)})
    cond = model.encode(shown)
    assert cond["smpl"].shape == (2, 6, 4, 8, 8)
    expected = model.autoencoder.encode(shown["smpl"][1])
    assert torch.allclose(cond["smpl"][1], expected, atol=1e-6)
    base = run(model, shown)
    assert base.shape == (2, 12, 4, 8, 8)
    # row (domain, view) of the input holds the body in that view
    rows = []
    hook = model.trainable.unet.conv_in.register_forward_pre_hook(lambda _, x: rows.append(x[0]))
    run(model, shown)
    hook.remove()
    seen = rows[0][:, 8:].unflatten(0, (2, 4, 6))[:, 2:]  # after the unconditional samples
    assert torch.allclose(seen, cond["smpl"].expand(2, -1, -1, -1, -1, -1), atol=1e-6)
    assert rows[0][:, 8:].unflatten(0, (2, 4, 6))[:, :2].abs().max() == 0


def test_the_body_is_drawn_where_a_data_set_has_no_pictures_of_it(folder, tmp_path):
    pytest.importorskip("smplx")
    path, _ = published(folder, tmp_path, inputs=12)
    model = MultiviewUNet(weights=str(path), size="full")
    with pytest.raises(ComponentError) as error:
        model.encode(batch())
    assert str(error.value) == (
        "this model is conditioned on pictures of the body in each view; the data set has no column "
        "'smpl' and, to draw them, lacks pose, betas, offset"
    )
    given = batch()
    pose = {"pose": torch.zeros(2, 22, 3), "betas": torch.zeros(2, 10), "offset": torch.zeros(2, 3)}
    shown = Batch(given.ids, given.epochs, {**given.columns, **pose})
    drawn = body_pictures(shown)
    assert drawn.shape == (2, 6, 3, 16, 16) and drawn.min() < 0.8 < drawn.max()
    assert model.encode(shown)["smpl"].shape == (2, 6, 4, 8, 8)


# -- training and size -------------------------------------------------------------------------------------------------


def test_g_skel_learns_from_latents_of_the_vae(folder):
    from rewardft_plugins.drpose.model.autoencoder import load_encoder
    from rewardft_plugins.drpose.training.fit import FitOptions
    from rewardft_plugins.drpose.training.nets import encode_dataset, train_skeleton

    vae = load_encoder(folder / "vae")
    columns = {"normals": torch.rand(6, 3, 16, 16), "colours": torch.rand(6, 3, 16, 16)}
    dataset = [{**columns, "joints2d": torch.rand(6, 23, 2) - 0.5}] * 3
    with torch.no_grad():
        encoded = encode_dataset(vae, dataset)
    expected = vae.encode(columns["colours"]).detach()
    assert torch.allclose(encoded.latents[1, 6:].float(), expected, atol=2e-3)
    net = train_skeleton([encoded], FitOptions(steps=1, batch=2), lambda _: None)
    assert net.channels == 4
    assert net(encoded.latents.float()).shape == (3, 6, 23, 16, 16)


def narrow(**changes):
    """The published architecture with a tenth of the channels."""
    from rewardft_plugins.drpose.model.estimate import FULL_UNET

    return {
        **FULL_UNET,
        "block_out_channels": [32, 64, 128, 128],
        "attention_head_dim": [1, 2, 4, 4],
        "cross_attention_dim": 32,
        "projection_class_embeddings_input_dim": 2 * EMBED,
        **changes,
    }


def test_the_published_architecture_takes_a_step_at_reduced_width(folder, tmp_path):
    """Four levels, two layers each, a face row, guidance and checkpointing: loss, gradient, update."""
    from rewardft_plugins.drpose.model.unet import build_unet

    path, _ = with_noising(folder, tmp_path)
    config = narrow(sample_size=8)
    unet = build_unet(config, face=True)
    (path / "unet" / "config.json").write_text(json.dumps(config))
    write_tensors(path / "unet" / "diffusion_pytorch_model.safetensors", unet.state_dict())
    write_tensors(path / "text_embeddings.safetensors", {"embeddings": torch.randn(14, 5, 32)})
    model = MultiviewUNet(weights=str(path), size="full", guidance=3.0, face=True)
    model.enable_checkpointing()
    cond = model.encode(batch())
    x = torch.randn(2, *model.sample_shape(cond))
    adam = torch.optim.AdamW(model.trainable.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model.denoise(x, torch.tensor([10, 900]), cond).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.trainable.parameters())


def test_operations_and_bytes_are_those_of_a_real_pass():
    """A narrow network on meta tensors against the same one computed."""
    from rewardft_plugins.drpose.model.estimate import _inputs, estimate
    from rewardft_plugins.drpose.model.unet import build_unet
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    config = narrow(
        down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
        block_out_channels=[32, 64],
        attention_head_dim=[1, 2],
        layers_per_block=1,
    )
    found = estimate(64, face=True, config=config)
    unet = build_unet(config, face=True)
    given = {
        name: torch.rand(value.shape) if isinstance(value, torch.Tensor) else value
        for name, value in _inputs(config, 64, 14).items()
    }
    # the fused kernel of the CPU is not counted; matrix products are
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        unet(**given)
    assert found.parameters == sum(p.numel() for p in unet.parameters())
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert 0 < found.checkpointed < found.kept / 2


def test_the_estimate_of_the_published_size():
    from rewardft_plugins.drpose.model.estimate import Estimate, describe

    lines = describe(Estimate(10**9, 10**13, 8 * 2**30, 2**30), batch=2, teraflops=100.0)
    assert lines[1:] == [
        "one forward pass of one sample: 10.0 TFLOP",
        "kept for its backward pass: 8.0 GiB, 1.0 GiB with checkpointing",
        "one step of 2 samples: 1.20 PFLOP, at least 12 s at 100 TFLOP/s",
        "kept by 8 passes of a step at once: 64 GiB, 8 GiB with checkpointing; less by micro-batches",
    ]
