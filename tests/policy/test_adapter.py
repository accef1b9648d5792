"""The adapter: peft's layout and strength, the reference policy, targets, precision; loadable by peft and diffusers."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rewardft.errors import CheckpointError, ComponentError
from rewardft.policy.adapter import attach, load_adapter
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora
from rewardft.testing.tiny import TinyModel


def spec(**options):
    return SimpleNamespace(
        **{"kind": "lora", "rank": 4, "alpha": None, "targets": None, "dropout": 0.0} | options
    )


def inputs():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(2, 3, 8, 8, generator=generator),
        torch.tensor([10.0, 700.0]),
        torch.tensor([0, 3]),
    )


def train(adapter, seed=1):
    """Stand-in for training: every adapter tensor gets a value that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in adapter.parameters:
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator))


def trained(**options):
    model = TinyModel(width=12)
    adapter = attach(model, spec(**options), 0, False)
    train(adapter)
    return model, adapter


def test_the_saved_config_is_what_peft_needs(tmp_path):
    _, adapter = trained(rank=4, alpha=8.0, dropout=0.1)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    wanted = {"peft_type": "LORA", "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1, "bias": "none"}
    assert {key: config[key] for key in wanted} == wanted
    assert config["target_modules"] == ["to_out", "to_q"]
    names = {
        f"base_model.model.{layer}.lora_{part}.weight"
        for layer in ("to_q", "to_out")
        for part in "AB"
    }
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert saved.keys() == names and {t.dtype for t in saved.values()} == {torch.float32}


@pytest.mark.parametrize("alpha", [None, 2.0, 8.0])
def test_peft_loads_what_was_saved_and_computes_the_same(tmp_path, alpha):
    from peft import PeftModel

    model, adapter = trained(alpha=alpha)
    adapter.save(tmp_path)
    loaded = PeftModel.from_pretrained(copy.deepcopy(TinyModel(width=12).trainable), str(tmp_path))
    base = TinyModel(width=12).trainable
    x = inputs()
    with torch.no_grad():
        assert torch.allclose(loaded(*x), model.trainable(*x), rtol=0, atol=1e-6)
        assert (loaded(*x) - base(*x)).abs().max() > 1e-2
        with loaded.disable_adapter():
            assert torch.allclose(loaded(*x), base(*x), rtol=0, atol=1e-6)


def tiny_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        cross_attention_dim=8,
        norm_num_groups=4,
    ).eval()


def test_diffusers_loads_what_was_saved_and_computes_the_same(tmp_path):
    """The alpha differs from the rank, so that a lost scaling would show."""
    model = SimpleNamespace(trainable=tiny_unet())
    adapter = Lora(model, spec(targets=["to_q", "to_k", "to_v", "to_out.0"], alpha=8.0), 0)
    train(adapter)
    adapter.save(tmp_path)
    x = torch.randn(2, 4, 8, 8), torch.tensor([3, 900]), torch.randn(2, 5, 8)
    loaded = tiny_unet()
    with torch.no_grad():
        base = loaded(*x).sample
        loaded.load_lora_adapter(
            str(tmp_path), weight_name="adapter_model.safetensors", prefix="base_model.model"
        )
        assert torch.allclose(loaded(*x).sample, model.trainable(*x).sample, rtol=0, atol=1e-6)
        assert (loaded(*x).sample - base).abs().max() > 1e-3


def test_saved_and_loaded_weights_are_equal_and_misfits_are_listed(tmp_path):
    model, adapter = trained()
    adapter.save(tmp_path)
    other = TinyModel(width=12)
    fresh = attach(other, spec(), 5, False)
    load_adapter(fresh, tmp_path)
    assert torch.equal(other.trainable(*inputs()), model.trainable(*inputs()))
    wide = attach(TinyModel(width=12), spec(rank=2, targets=["to_q", "time"]), 0, False)
    with pytest.raises(CheckpointError) as error:
        load_adapter(wide, tmp_path)
    prefix = "base_model.model."
    assert str(error.value) == (
        f"{tmp_path}/adapter_model.safetensors: does not fit this model and adapter (6 tensors differ)\n"
        f"  - {prefix}to_q.lora_A.weight: expected shape (2, 12), got (4, 12)\n"
        f"  - {prefix}to_q.lora_B.weight: expected shape (12, 2), got (12, 4)\n"
        f"  - missing {prefix}time.lora_A.weight\n"
        f"  - missing {prefix}time.lora_B.weight\n"
        f"  - unexpected {prefix}to_out.lora_A.weight\n"
        f"  - unexpected {prefix}to_out.lora_B.weight"
    )


@pytest.mark.parametrize(
    ("rank", "alpha", "strength"), [(4, None, 1.0), (4, 8.0, 2.0), (4, 1.0, 0.25)]
)
def test_the_update_is_alpha_over_rank_times_b_a(rank, alpha, strength):
    model, adapter = trained(rank=rank, alpha=alpha)
    layer = model.trainable.to_q
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(2))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        assert torch.allclose(layer(x), layer.base_layer(x) + strength * x @ a.T @ b.T, atol=1e-6)
        adapter.scale(0.5)
        assert torch.allclose(
            layer(x), layer.base_layer(x) + 0.5 * strength * x @ a.T @ b.T, atol=1e-6
        )
        adapter.scale(0.0)
        assert torch.equal(layer(x), layer.base_layer(x))
        adapter.scale(1.0)
        assert torch.allclose(layer(x), layer.base_layer(x) + strength * x @ a.T @ b.T, atol=1e-6)


def test_the_reference_is_the_base_model_to_the_bit_and_keeps_gradients_on():
    model, adapter = trained()
    base = TinyModel(width=12).trainable
    with adapter.disabled():
        assert torch.equal(model.trainable(*inputs()), base(*inputs()))
        assert all(p.requires_grad for p in adapter.parameters)
    assert not torch.equal(model.trainable(*inputs()), base(*inputs()))
    with pytest.raises(RuntimeError), adapter.disabled():
        raise RuntimeError
    assert not torch.equal(model.trainable(*inputs()), base(*inputs()))


def test_only_the_adapter_is_trainable_and_its_start_is_the_base_model_whatever_the_global_seed():
    torch.manual_seed(123)
    model = TinyModel(width=12)
    state = torch.get_rng_state()
    adapter = attach(model, spec(), 7, False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(321)
    again = attach(TinyModel(width=12), spec(), 7, False)
    other = attach(TinyModel(width=12), spec(), 8, False)
    assert all(torch.equal(a, b) for a, b in zip(adapter.parameters, again.parameters))
    assert not all(torch.equal(a, b) for a, b in zip(adapter.parameters, other.parameters))
    assert torch.equal(model.trainable(*inputs()), TinyModel(width=12).trainable(*inputs()))
    names = {n for n, p in model.trainable.named_parameters() if p.requires_grad}
    assert names == set(adapter.named) and all(".lora_" in n for n in names)


def test_the_adapter_is_float32_on_a_bf16_base_and_small_updates_are_not_lost():
    model = TinyModel(width=12)
    model.trainable.to(torch.bfloat16)
    adapter = attach(model, spec(), 0, False)
    assert {p.dtype for p in adapter.parameters} == {torch.float32}
    assert model.trainable.to_q.base_layer.weight.dtype == torch.bfloat16
    train(adapter)
    x = inputs()
    out = model.trainable(x[0].bfloat16(), x[1].bfloat16(), x[2])
    out.float().square().sum().backward()
    assert all(
        torch.isfinite(p.grad).all() and p.grad.any() and p.grad.dtype == torch.float32
        for p in adapter.parameters
    )
    before = adapter.parameters[0].detach().clone()
    with torch.no_grad():
        adapter.parameters[0].mul_(1 + 1e-5)  # far below bf16's resolution of 4e-3
    assert (adapter.parameters[0] != before).float().mean() > 0.9


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("to_queue", " Did you mean 'to_q'?"),
        ("attention", " Choose one of: enter, leave, time, to_out, to_q."),
    ],
)
def test_a_target_that_matches_nothing_is_an_error(target, hint):
    with pytest.raises(ComponentError) as error:
        attach(TinyModel(width=12), spec(targets=["to_q", target]), 0, False)
    text = f"adapter.targets: no linear or convolution layer of TinyDenoiser is called {target!r}.{hint}"
    assert str(error.value) == text


def test_targets_default_to_the_models_then_to_every_linear_layer():
    names = {n.rsplit(".lora_", 1)[0] for n in trained()[1].named}
    assert names == {"to_q", "to_out"}
    every = attach(SimpleNamespace(trainable=TinyModel(width=12).trainable), spec(), 0, False)
    assert {n.rsplit(".lora_", 1)[0] for n in every.named} == {"time", "to_q", "to_out"}
    convolution = attach(TinyModel(width=12), spec(targets=["enter"]), 0, False)
    assert {n.rsplit(".lora_", 1)[0] for n in convolution.named} == {"enter"}


def test_full_fine_tuning_keeps_a_frozen_reference_and_has_no_scale():
    model = TinyModel(width=12)
    adapter = attach(model, spec(kind="full"), 0, True)
    assert isinstance(adapter, FullFineTuning) and len(adapter.named) == len(
        list(model.trainable.parameters())
    )
    before = model.trainable(*inputs()).detach()
    train(adapter)
    with adapter.disabled():
        assert torch.equal(model.trainable(*inputs()), before)
        assert not any(p.requires_grad for p in model.trainable.parameters())
    assert not torch.equal(model.trainable(*inputs()), before)
    with pytest.raises(
        ComponentError, match="only LoRA adapters can be scaled; this run trained all weights"
    ):
        adapter.scale(0.5)
    alone = attach(TinyModel(width=12), spec(kind="full"), 0, False)
    text = "full fine-tuning was set up without a reference model, and something asks for one"
    with pytest.raises(ComponentError, match=text), alone.disabled():
        pass
