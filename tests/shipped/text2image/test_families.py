"""What every latent family does: prompts, guidance, gradients, decoding; and how much code a family is."""

import warnings
from pathlib import Path

import pytest
import torch
from rewardft_plugins.text2image import register_models
from rewardft_plugins.text2image.flux import Flux
from rewardft_plugins.text2image.sd3 import StableDiffusion3
from rewardft_plugins.text2image.sdxl import StableDiffusionXL
from rewardft_plugins.text2image.stable_diffusion import StableDiffusion
from rewardft_plugins.text2image.text import PromptCache
from torch.nn.functional import softplus

from rewardft.errors import ComponentError
from rewardft.policy.lora import Lora
from rewardft.recipe.sections import AdapterSpec
from rewardft.types import Batch
from tests.shipped.text2image import checkpoints

FACTORIES = {
    "stable_diffusion": StableDiffusion,
    "sdxl": StableDiffusionXL,
    "sd3": StableDiffusion3,
    "flux": Flux,
}
SHORT = {"sd3": {"t5_length": 6}, "flux": {"t5_length": 6, "height": 16, "width": 16}}
PROMPTS = ["a red dog", "a cat", "a red dog"]
every_family = pytest.mark.parametrize("name", FACTORIES)


@pytest.fixture
def build(folders):
    return lambda name, **options: FACTORIES[name](
        weights=str(folders[name]), **SHORT.get(name, {}), **options
    )


def batch(prompts=PROMPTS):
    return Batch(tuple(map(str, range(len(prompts)))), (0,) * len(prompts), {"prompt": prompts})


def states(model, count=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *model.sample_shape(None), generator=generator)
    return x, torch.full((count,), 400)


def test_a_family_is_at_most_120_lines():
    """All that is a family's own is in its file; the rest it shares."""
    files = {
        factory: Path(__import__(factory.__module__, fromlist=["_"]).__file__)
        for factory in register_models().values()
    }
    assert len(set(files.values())) == 6
    lengths = {path.name: len(path.read_text().splitlines()) for path in files.values()}
    assert max(lengths.values()) <= 120 and lengths["stable_diffusion.py"] <= 35


# -- prompts -----------------------------------------------------------------------------------------------------------


@every_family
def test_cached_embeddings_equal_fresh_ones(name, build):
    cached, fresh = build(name), build(name, cache_mb=0)
    calls = []
    embed = cached.embed
    cached.embed = lambda prompt: calls.append(prompt) or embed(prompt)
    first, again, uncached = cached.encode(batch()), cached.encode(batch()), fresh.encode(batch())
    assert calls == ["a red dog", "a cat"] and not fresh.cache.entries
    for key, value in first.items():
        assert value.shape[0] == 3 and not value.requires_grad
        assert torch.equal(value, again[key]) and torch.equal(value, uncached[key])
        assert torch.equal(value[0], value[2]) and not torch.equal(value[0], value[1])


def test_sd3_beyond_its_positions_is_explained(build):
    """16 positions a side, of 2 x 2 latents, of 2 x 2 pixels."""
    assert build("sd3", height=64, width=64).latent_size == (32, 32)
    with pytest.raises(ComponentError) as error:
        build("sd3", height=64, width=68)
    assert str(error.value) == (
        "height and width must be at most 64, got 64 and 68: the transformer has 16 positions a side "
        "(pos_embed_max_size)"
    )


def test_the_cache_forgets_what_was_used_longest_ago():
    cache, calls = PromptCache(limit=2 * 16), []

    def embed(prompt):
        calls.append(prompt)
        return {"text": torch.full((4,), float(len(calls)))}

    for prompt in ("a", "b", "a", "c", "a", "b"):
        cache.get([prompt], embed)
    assert calls == ["a", "b", "c", "b"] and list(cache.entries) == ["a", "b"] and cache.size == 32
    assert cache.get(["a", "d", "b"], embed)["text"][:, 0].tolist() == [1.0, 5.0, 4.0]
    assert list(cache.entries) == ["d", "b"]


@every_family
def test_offloaded_text_encoders_move_for_new_prompts_alone(name, build):
    model = build(name, offload_text=True)
    encoders = model.encoders.values()
    moves = []
    for encoder in encoders:
        encoder.network.to = lambda device: moves.append(str(device))
    model.to(torch.device("cpu"))
    assert moves == []
    expected = ["cpu"] * 2 * len(encoders)  # there and back
    assert torch.equal(
        model.encode(batch())["pooled" if name != "stable_diffusion" else "text"],
        build(name).encode(batch())["pooled" if name != "stable_diffusion" else "text"],
    )
    assert moves == expected
    model.encode(batch())
    assert moves == expected


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(build):
    model = build("stable_diffusion")
    with pytest.warns(UserWarning) as caught:
        model.encode(batch(["a very long story"]))
    assert [str(w.message) for w in caught] == [
        "a prompt of 16 tokens is cut to the 12 that the text encoder reads: 'a very long story'"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(batch(["a very long story"]))


def test_a_data_set_without_prompts_is_refused(build):
    with pytest.raises(ComponentError) as error:
        build("stable_diffusion").encode(
            Batch(("a",), (0,), {"label": torch.tensor([1]), "group": ["x"]})
        )
    assert str(error.value) == (
        "StableDiffusion needs a column `prompt` of texts, and the data set gives: label, group. "
        "The data set `prompts` has one."
    )


# -- guidance ------------------------------------------------------------------------------------------------------------


def count_calls(model):
    calls = []
    model.trainable.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    return calls


@pytest.mark.parametrize("name", ["stable_diffusion", "sdxl", "sd3"])
def test_guidance_is_one_forward_and_equals_its_formula(name, build):
    model = build(name)
    x, t = states(model)
    cond, calls = model.encode(batch()), count_calls(model)
    with torch.no_grad():
        guided = model.denoise(x, t, cond)
        assert len(calls) == 1
        model.guidance = 1.0
        conditional = model.denoise(x, t, cond)
        assert len(calls) == 2
        dropped = model.drop(cond, torch.tensor([True, False, True]))
        null = model.denoise(x, t, model.drop(cond, torch.ones(3, dtype=torch.bool)))
        mixed = model.denoise(x, t, dropped)
    scale = FACTORIES[name].guidance
    assert torch.allclose(guided, null + scale * (conditional - null), atol=1e-4)
    assert torch.allclose(mixed[[0, 2]], null[[0, 2]], atol=1e-5) and torch.allclose(
        mixed[1], conditional[1], atol=1e-5
    )
    assert not torch.allclose(guided, conditional, atol=1e-3)


def test_the_negative_prompt_is_what_guidance_leads_away_from(build):
    """With the prompt itself as the negative one, guidance changes nothing; SDXL's own is zeros, not the empty prompt."""
    model = build("stable_diffusion", negative_prompt="a cat", guidance=5.0)
    x, t = states(model)
    cond = model.encode(batch(["a cat"] * 3))
    with torch.no_grad():
        assert torch.allclose(model.denoise(x, t, cond), model.predict(x, t, cond), atol=1e-4)
    assert all(not value.any() for value in build("sdxl").null(2).values())
    assert all(value.any() for value in build("sdxl", negative_prompt="").null(2).values())


def test_flux_takes_guidance_as_an_input(build, tmp_path):
    model = build("flux")
    x, t = states(model)
    cond, calls = model.encode(batch()), count_calls(model)
    with torch.no_grad():
        first = model.denoise(x, t, cond)
        model.guidance = 1.0
        second = model.denoise(x, t, cond)
    assert [call["guidance"].tolist() for call in calls] == [[3.5] * 3, [1.0] * 3]
    assert not torch.allclose(first, second)
    folder = checkpoints.flux(tmp_path, guidance_embeds=False)
    with pytest.raises(ComponentError) as error:
        Flux(weights=str(folder), **SHORT["flux"])
    assert str(error.value) == (
        f"{folder}/transformer was not distilled with guidance (it is schnell): `guidance: 3.5` would do nothing. "
        "Write `guidance: 1`."
    )


@pytest.mark.parametrize("name", ["stable_diffusion", "sd3"])
def test_gradients_outside_guidance_are_those_of_the_conditional_half(name, build):
    gradients = {}
    for mode in ("inside", "outside"):
        model = build(name, guidance=3.0, guidance_gradient=mode)
        x, t = states(model)
        cond = model.encode(batch())
        weight = next(
            p for n, p in model.trainable.named_parameters() if n.endswith("to_q.weight")
        ).requires_grad_(True)
        (gradients[mode],) = torch.autograd.grad(model.denoise(x, t, cond).sum(), weight)
        if mode == "outside":
            (conditional,) = torch.autograd.grad(model.predict(x, t, cond).sum(), weight)
    assert torch.allclose(gradients["outside"], 3 * conditional, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(gradients["inside"], gradients["outside"], rtol=1e-2)


# -- gradients and decoding ------------------------------------------------------------------------------------------------


@every_family
def test_gradient_reaches_every_adapter_tensor_and_checkpointing_changes_nothing(name, build):
    found = []
    for checkpointing in (False, True):
        model = build(name)
        if checkpointing:
            model.enable_checkpointing()
            model.enable_decode_checkpointing()
        adapter = Lora(model, AdapterSpec(rank=2), seed=0)
        for key, parameter in adapter.named.items():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(key)))
        x, t = states(model)
        x0 = x - model.denoise(x, t, model.encode(batch()))
        model.decode(0.3 * x0).mean().backward()
        assert len(adapter.named) >= 8 and all(p.grad is not None for p in adapter.parameters)
        assert sum(bool(p.grad.any()) for p in adapter.parameters) >= 0.7 * len(adapter.named)
        assert all(
            p.grad is None for n, p in model.trainable.named_parameters() if "lora_" not in n
        )
        found.append(torch.cat([p.grad.flatten() for p in adapter.parameters]))
    assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-8)


@every_family
def test_decoded_pixels_are_in_range_and_none_is_dead(name, build):
    model = build(name, decode_batch=2)
    x0 = states(model)[0].mul(3).requires_grad_(True)
    with torch.no_grad():
        model.vae.decoder.conv_out.weight.mul_(3)
    pixels = model.decode(x0)
    assert pixels.shape == (3, 3, 16, 16) and pixels.dtype == torch.float32
    assert pixels.min() >= -1e-6 and pixels.max() <= 1 + 1e-6
    with torch.no_grad():
        config = model.vae.config
        raw = (
            model.vae.decode(x0 / config.scaling_factor + (config.shift_factor or 0.0)).sample / 2
            + 0.5
        )
    outside = (raw < 0) | (raw > 1)
    assert 0.01 < outside.float().mean() < 0.99, "the case is there"
    assert torch.allclose(pixels, raw.clamp(0, 1), atol=1e-5)
    softplus(pixels[outside]).sum().backward()
    assert x0.grad.abs().sum() > 0, "pixels beyond the ends can be pulled back"


@every_family
def test_clean_samples_are_the_latents_that_the_decoder_takes(name, build):
    model = build(name)
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = model.vae.config
    latents = model.clean(Batch(("a", "b"), (0, 0), {"image": image}))
    expected = model.vae.encode(2 * image - 1).latent_dist.mode()
    assert torch.allclose(
        latents / config.scaling_factor + (config.shift_factor or 0.0), expected, atol=1e-5
    )


def test_latent_statistics_per_channel_are_used(folders):
    model = StableDiffusion(weights=str(folders["stable_diffusion"]))
    plain = model.decode(torch.ones(1, 4, 8, 8))
    model.vae.register_to_config(
        latents_mean=[0.0, 0.1, 0.2, 0.3], latents_std=[1.0, 2.0, 3.0, 4.0]
    )
    x0 = torch.ones(1, 4, 8, 8)
    channels = x0 * torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1) / 0.18215 + torch.tensor(
        [0, 0.1, 0.2, 0.3]
    ).view(-1, 1, 1)
    assert torch.allclose(
        model.decode(x0), (model.vae.decode(channels).sample / 2 + 0.5).clamp(0, 1), atol=1e-5
    )
    assert not torch.allclose(model.decode(x0), plain, atol=1e-3)


@every_family
def test_half_precision_keeps_adapters_and_pixels_in_float32(name, build):
    model = build(name, dtype="bf16")
    assert {p.dtype for p in model.trainable.parameters()} == {torch.bfloat16}
    assert {p.dtype for e in model.encoders.values() for p in e.network.parameters()} == {
        torch.bfloat16
    }
    adapter = Lora(model, AdapterSpec(rank=2), seed=0)
    x, t = states(model)
    output = model.denoise(x, t, model.encode(batch()))
    assert output.dtype == torch.bfloat16 and {p.dtype for p in adapter.parameters} == {
        torch.float32
    }
    reference = build(name)
    with torch.no_grad():
        exact = reference.denoise(x, t, reference.encode(batch()))
    assert (output - exact).abs().mean() < 0.1 * exact.abs().mean()
    pixels = model.decode(x)
    assert pixels.dtype == torch.float32 and next(model.vae.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name, multiple", [("stable_diffusion", 2), ("sd3", 4)])
def test_an_image_size_that_cannot_be_made_is_refused(name, multiple, folders):
    with pytest.raises(ComponentError) as error:
        FACTORIES[name](weights=str(folders[name]), height=15)
    assert str(error.value) == f"height and width must be multiples of {multiple}, got 15 and 16"
