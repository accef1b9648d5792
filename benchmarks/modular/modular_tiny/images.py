"""Tiny families that make images."""

from __future__ import annotations

from typing import Any

import diffusers as D
import torch

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

DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
DYNAMIC = {"shift": 3.0, "use_dynamic_shifting": True}


def image_vae(channels: int = 4, **options: Any) -> Any:
    return D.AutoencoderKL(
        latent_channels=channels,
        block_out_channels=(8, 16),
        down_block_types=DOWN,
        up_block_types=UP,
        norm_num_groups=4,
        **options,
    )


def qwen_vae() -> Any:
    return D.AutoencoderKLQwenImage(
        base_dim=24,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
    )


def flux2_vae() -> Any:
    return D.AutoencoderKLFlux2(
        block_out_channels=(4, 4),
        down_block_types=DOWN,
        up_block_types=UP,
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=1,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def stable_diffusion_3() -> Tiny:
    transformer = D.SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        pooled_projection_dim=64,
        pos_embed_max_size=32,
    )
    vae = image_vae(scaling_factor=1.5, shift_factor=0.06)
    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.StableDiffusion3AutoBlocks(), parts, with_negative(pooled(32, 64)))


def flux(guidance: bool = True) -> Tiny:
    transformer = D.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    )
    vae = image_vae(scaling_factor=0.36, shift_factor=0.11)
    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.FluxAutoBlocks(), parts, plain(pooled(32, 32)))


def flux_schnell() -> Tiny:
    return flux(guidance=False)


def qwen_transformer() -> Any:
    return D.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    )


def qwenimage() -> Tiny:
    parts = {"transformer": qwen_transformer(), "vae": qwen_vae(), "scheduler": Flow(**DYNAMIC)}
    return Tiny(D.QwenImageAutoBlocks(), parts, masked(16))


def flux2_transformer(embedded: bool, text_width: int = 16) -> Any:
    return D.Flux2Transformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text_width,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=embedded,
    )


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


def z_image_transformer() -> Any:
    return D.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 6, 6],
        axes_lens=[256, 32, 32],
    )


def z_image() -> Tiny:
    vae = image_vae(scaling_factor=0.36, shift_factor=0.11)
    parts = {"transformer": z_image_transformer(), "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.ZImageAutoBlocks(), parts, listed(16), size=64)


def stable_diffusion_xl() -> Tiny:
    unet = D.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    scheduler = D.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    parts = {"unet": unet, "vae": image_vae(scaling_factor=0.13), "scheduler": scheduler}
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
