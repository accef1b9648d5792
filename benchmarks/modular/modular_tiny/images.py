"""Tiny families that make images."""

from __future__ import annotations

from typing import Any

import diffusers as D
import torch
from rewardft_plugins.text2image.tiny.networks import (
    ddim,
    flux2_transformer,
    flux2_vae,
    flux_transformer,
    image_vae,
    qwen_transformer,
    qwen_vae,
    sd3_transformer,
    sdxl_unet,
    z_image_transformer,
)

from modular_tiny.family import Flow, Tiny
from modular_tiny.texts import (
    LENGTH,
    Embed,
    fixed,
    listed,
    masked,
    plain,
    pooled,
    text,
    with_negative,
)

DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}


def stable_diffusion_3() -> Tiny:
    transformer = sd3_transformer()
    vae = image_vae(scaling_factor=1.5, shift_factor=0.06)
    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.StableDiffusion3AutoBlocks(), parts, with_negative(pooled(32, 64)))


def flux(guidance: bool = True) -> Tiny:
    transformer = flux_transformer(guidance)
    vae = image_vae(scaling_factor=0.36, shift_factor=0.11)
    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.FluxAutoBlocks(), parts, plain(pooled(32, 32)))


def flux_schnell() -> Tiny:
    return flux(guidance=False)


def qwenimage() -> Tiny:
    parts = {"transformer": qwen_transformer(), "vae": qwen_vae(), "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.QwenImageAutoBlocks(), parts, masked(16))


def flux2(blocks: Any, embedded: bool, embed: Embed) -> Tiny:
    transformer = flux2_transformer(embedded)
    parts = {"transformer": transformer, "vae": flux2_vae(), "scheduler": Flow(**DYNAMIC)}
    return Tiny(blocks, parts, embed)


def flux2_klein() -> Tiny:
    return flux2(D.Flux2KleinAutoBlocks(), False, plain(fixed(16)))


def flux2_klein_base() -> Tiny:
    return flux2(D.Flux2KleinBaseAutoBlocks(), False, with_negative(fixed(16)))


def flux2_dev() -> Tiny:
    return flux2(D.Flux2AutoBlocks(), True, plain(fixed(16)))


def z_image() -> Tiny:
    vae = image_vae(scaling_factor=0.36, shift_factor=0.11)
    parts = {"transformer": z_image_transformer(), "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.ZImageAutoBlocks(), parts, listed(16), size=64)


def stable_diffusion_xl() -> Tiny:
    parts = {"unet": sdxl_unet(), "vae": image_vae(scaling_factor=0.13), "scheduler": ddim()}
    return Tiny(D.StableDiffusionXLAutoBlocks(), parts, with_negative(pooled(32, 32)))


def krea2() -> Tiny:
    transformer = D.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=32,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )

    def one(prompt: str) -> dict[str, Any]:
        found = text(prompt + " x" * LENGTH, 32).view(1, LENGTH, 2, 16)
        mask = torch.arange(LENGTH)[None] <= len(prompt.split())
        return {"prompt_embeds": found * mask[..., None, None], "prompt_embeds_mask": mask}

    parts = {"transformer": transformer, "vae": qwen_vae(), "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.Krea2AutoBlocks(), parts, with_negative(one))


def ernie_image() -> Tiny:
    transformer = D.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=32,
        in_channels=4,
        out_channels=4,
        text_in_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    parts = {"transformer": transformer, "vae": flux2_vae(), "scheduler": Flow(shift=3.0)}
    return Tiny(D.ErnieImageAutoBlocks(), parts, listed(16))


def qwenimage21() -> Tiny:
    transformer = D.QwenImage21Transformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        context_in_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vae = D.AutoencoderKLQwenImage21(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )

    def one(prompt: str) -> dict[str, Any]:
        found = text(prompt, 16)
        mask = torch.ones(found.shape[:2])
        names = ("prompt_embeds", "prompt_embeds_mask", "image_pad_mask")
        return dict(zip(names, (found, mask.long(), mask < 0)))

    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.QwenImage21AutoBlocks(), parts, with_negative(one))


def flux3() -> Tiny:
    transformer = D.Flux3Transformer2DModel(
        in_channels=4,
        cond_in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 4, 4, 4),
    )
    parts = {"transformer": transformer, "vae": flux2_vae(), "scheduler": Flow(shift=3.0)}
    return Tiny(D.Flux3AutoBlocks(), parts, with_negative(fixed(16)))


def ideogram4() -> Tiny:
    options = {
        "in_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 32,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "adaln_dim": 16,
        "llm_features_dim": 16,
        "mrope_section": (6, 5, 5),
    }
    parts = {
        "transformer": D.Ideogram4Transformer2DModel(**options),
        "unconditional_transformer": D.Ideogram4Transformer2DModel(**options),
        "vae": flux2_vae(),
        "scheduler": Flow(shift=1.0),
    }

    def one(prompt: str) -> dict[str, Any]:
        found = text(prompt, 16)
        return {"text_features": found, "text_lengths": torch.tensor([found.shape[1]])}

    schedule = {"guidance_schedule": [7.0, 7.0, 3.0]}
    return Tiny(D.Ideogram4AutoBlocks(), parts, plain(one), inputs=schedule)


IMAGES = {
    each.__name__: each
    for each in (
        stable_diffusion_3,
        stable_diffusion_xl,
        flux,
        flux_schnell,
        flux2_klein,
        flux2_klein_base,
        flux2_dev,
        flux3,
        qwenimage,
        qwenimage21,
        z_image,
        krea2,
        ernie_image,
        ideogram4,
    )
}
