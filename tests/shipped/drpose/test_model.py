"""The model contract: rows, conditions, guidance, decoding, saving."""

import json
from types import SimpleNamespace

import pytest
import torch
from rewardft_plugins.drpose.model.multiview import MultiviewUNet
from rewardft_plugins.drpose.model.pictures import face_crop, straight_through_clamp
from rewardft_plugins.drpose.model.unet import MINI_SCHEDULE

from rewardft.engine.session import build_policy
from rewardft.errors import ComponentError
from rewardft.policy import rollout_weights
from rewardft.types import Batch, select_rows


def batch(count=2, targets=False):
    generator = torch.Generator().manual_seed(3)
    columns = {"image": torch.rand(count, 3, 64, 64, generator=generator)}
    if targets:
        columns |= {
            name: torch.rand(count, 6, 3, 64, 64, generator=generator)
            for name in ("normals", "colours")
        }
    return Batch(tuple(str(i) for i in range(count)), (0,) * count, columns)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MultiviewUNet()


def states(cond, count=2):
    return torch.randn(count, *cond_shape(cond), generator=torch.Generator().manual_seed(4))


def cond_shape(cond):
    return (12, *cond["latents"].shape[2:])


def test_shapes_and_schedule(model):
    cond = model.encode(batch())
    assert model.sample_shape(cond) == (12, 8, 16, 16)
    assert cond["latents"].shape == (2, 1, 8, 16, 16)
    assert not cond["latents"].requires_grad
    assert model.clean(batch(targets=True)).shape == (2, 12, 8, 16, 16)
    assert model.scheduler.config.prediction_type == "v_prediction"
    assert model.scheduler.config.timestep_spacing == MINI_SCHEDULE["timestep_spacing"]
    assert sum(p.requires_grad for p in model.autoencoder.parameters()) == 0


def test_clean_puts_normals_before_colours(model):
    given = batch(targets=True)
    expected = model.autoencoder.encode(given["colours"][:, 4])
    torch.testing.assert_close(model.clean(given)[:, 6 + 4], expected, rtol=1e-4, atol=1e-5)


def test_a_dropped_condition_is_that_of_no_image(model):
    cond = model.encode(batch())
    dropped = model.drop(cond, torch.tensor([True, False]))
    assert dropped["latents"][0].abs().max() == 0
    assert torch.equal(dropped["latents"][1], cond["latents"][1])


def test_guidance_combines_both_predictions(model):
    cond = model.encode(batch())
    x, t = states(cond), torch.tensor([100, 800])
    with torch.no_grad():
        model.guidance = 1.0
        conditional = model.denoise(x, t, cond)
        unconditional = model.denoise(x, t, model.drop(cond, torch.tensor([True, True])))
        model.guidance = 2.5
        guided = model.denoise(x, t, cond)
        model.guidance = 1.0
    torch.testing.assert_close(
        guided, unconditional + 2.5 * (conditional - unconditional), rtol=1e-3, atol=1e-4
    )
    assert not torch.allclose(conditional, unconditional, atol=1e-3)


def guided_gradient(model, where):
    cond = select_rows(model.encode(batch()), slice(0, 1))
    x, t = states(cond, 1), torch.tensor([500])
    model.guidance, model.guidance_gradient = 3.0, where
    try:
        return torch.autograd.grad(
            model.denoise(x, t, cond).square().mean(), model.trainable.unet.conv_out.bias
        )[0]
    finally:
        model.guidance, model.guidance_gradient = 1.0, "inside"


def test_guidance_outside_the_gradient_keeps_the_unconditional_half_constant(model):
    # conv_out's bias enters both halves alike: d(u + g (c - u)) is 1 inside, and g outside
    inside, outside = guided_gradient(model, "inside"), guided_gradient(model, "outside")
    torch.testing.assert_close(outside, 3.0 * inside, rtol=1e-3, atol=1e-6)


def test_decoding_is_clamped_but_keeps_every_gradient(model):
    x = torch.tensor([-1.0, 0.25, 3.0], requires_grad=True)
    y = straight_through_clamp(x)
    assert y.tolist() == [0.0, 0.25, 1.0]
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
    latents = (10 * torch.randn(2, 12, 8, 16, 16)).requires_grad_()
    pixels = model.decode(latents)
    assert pixels.shape == (2, 12, 3, 64, 64)
    assert pixels.min() == 0.0 and pixels.max() == 1.0
    pixels.sum().backward()
    assert (latents.grad.flatten(2).abs().sum(-1) > 0).all()


def test_checkpointing_changes_no_gradient(monkeypatch):
    """Nor what large networks do to keep a decoder's graph small: this one is computed again as it is."""
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    torch.manual_seed(0)
    model = MultiviewUNet()
    cond = model.encode(batch(1))
    x, t = states(cond, 1), torch.tensor([400])

    def gradients(checkpointing):
        train = SimpleNamespace(
            precision="fp32", checkpointing=checkpointing, decode_checkpointing=False
        )
        policy = build_policy(SimpleNamespace(train=train), model)
        loss = policy.decode(policy.denoise(x, t, cond)).square().mean()
        return torch.autograd.grad(loss, list(model.trainable.parameters()), allow_unused=True)

    plain = gradients(False)
    model.enable_checkpointing()
    for a, b in zip(gradients(True), plain, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


def test_save_and_load_give_the_same_model(tmp_path, model):
    model.save(tmp_path / "base")
    assert sorted(p.name for p in (tmp_path / "base").iterdir()) == [
        "autoencoder.json",
        "autoencoder.safetensors",
        "config.json",
        "scheduler_config.json",
        "unet.safetensors",
    ]
    loaded = MultiviewUNet(weights=str(tmp_path / "base"))
    cond = model.encode(batch())
    x, t = states(cond), torch.tensor([100, 800])
    assert torch.equal(loaded.encode(batch())["latents"], cond["latents"])
    with torch.no_grad():
        assert torch.equal(loaded.denoise(x, t, cond), model.denoise(x, t, cond))
    assert dict(loaded.scheduler.config)["beta_end"] == 0.012


def test_half_precision_on_disk_is_float32_in_memory(tmp_path, model):
    model.save(tmp_path, half=True)
    loaded = MultiviewUNet(weights=str(tmp_path))
    assert {p.dtype for p in loaded.trainable.parameters()} == {torch.float32}
    a, b = loaded.trainable.unet.conv_in.weight, model.trainable.unet.conv_in.weight
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_weights_that_do_not_fit_are_listed(tmp_path, model):
    from safetensors.torch import load_file, save_file

    model.save(tmp_path)
    path = tmp_path / "unet.safetensors"
    tensors = load_file(path)
    tensors["unet.conv_oot.bias"] = tensors.pop("unet.conv_out.bias")
    tensors["unet.conv_in.bias"] = torch.zeros(5)
    save_file(tensors, path)
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(weights=str(tmp_path))
    assert str(error.value) == (
        f"{path} does not fit the model:\n"
        "  - missing unet.conv_out.bias (8,)\n"
        "  - unexpected unet.conv_oot.bias. Did you mean 'unet.conv_out.bias'?\n"
        "  - unet.conv_in.bias has shape (5,), expected (32,)"
    )


def test_a_truncated_file_is_named(tmp_path, model):
    model.save(tmp_path)
    path = tmp_path / "unet.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ComponentError, match="cannot be read as safetensors"):
        MultiviewUNet(weights=str(tmp_path))


def test_a_missing_folder_is_named():
    with pytest.raises(ComponentError) as error:
        MultiviewUNet(weights="no/such/folder")
    assert str(error.value) == (
        "expected a folder with the base weights, got 'no/such/folder', which is not a folder. "
        'Give the path of a saved folder, or "shipped".'
    )


def test_the_kind_of_weights_is_checked(tmp_path, model):
    model.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"kind": "other"}))
    with pytest.raises(ComponentError, match="is of kind 'other', expected 'multiview_unet'"):
        MultiviewUNet(weights=str(tmp_path))


def test_weights_with_and_without_faces_are_not_mixed(tmp_path, model):
    model.save(tmp_path)
    with pytest.raises(ComponentError, match="was trained with face: False, the recipe says True"):
        MultiviewUNet(weights=str(tmp_path), face=True)


def test_an_adapter_must_be_merged_before_saving(tmp_path):
    from peft import LoraConfig, inject_adapter_in_model

    model = MultiviewUNet()
    model.trainable = inject_adapter_in_model(
        LoraConfig(r=2, target_modules=["to_q"]), model.trainable
    )
    with pytest.raises(ComponentError, match="still carries a LoRA adapter"):
        model.save(tmp_path)


def test_face_rows_follow_the_six_views():
    torch.manual_seed(0)
    model = MultiviewUNet(face=True)
    given = batch(targets=True)
    cond = model.encode(given)
    assert model.sample_shape(cond) == (14, 8, 16, 16)
    x = torch.randn(2, 14, 8, 16, 16)
    with torch.no_grad():
        assert model.denoise(x, torch.tensor([1, 2]), cond).shape == x.shape
    face = model.autoencoder.encode(face_crop(given["normals"][:, 0]))
    torch.testing.assert_close(model.clean(given)[:, 6], face, rtol=1e-4, atol=1e-5)


def test_the_face_is_the_top_centre_third():
    image = torch.zeros(1, 3, 63, 63)
    image[..., :21, 21:42] = 1.0
    assert face_crop(image).min() == 1.0
