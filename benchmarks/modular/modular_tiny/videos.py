"""Tiny families that make videos."""

from __future__ import annotations

from typing import Any

import diffusers as D
import torch
from rewardft_plugins.text2image.tiny.networks import unipc, wan_transformer, wan_vae

from modular_tiny.family import Flow, Tiny
from modular_tiny.texts import draw, fixed, padded, plain, tokens, with_negative

FRAMES = 5


def wan(scheduler: Any = None) -> Tiny:
    parts = {"transformer": wan_transformer(), "vae": wan_vae()}
    parts["scheduler"] = scheduler or Flow(shift=3.0)
    return Tiny(D.WanBlocks(), parts, with_negative(fixed(32)), frames=FRAMES)


def wan_unipc() -> Tiny:
    return wan(unipc())


def wan22() -> Tiny:
    parts = {"transformer": wan_transformer(), "transformer_2": wan_transformer()}
    parts |= {"vae": wan_vae(), "scheduler": Flow(shift=3.0)}
    return Tiny(D.Wan22Blocks(), parts, with_negative(fixed(32)), frames=FRAMES)


def ltx() -> Tiny:
    transformer = D.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = D.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4,
        layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        patch_size=1,
        patch_size_t=1,
    )

    def one(prompt: str) -> dict[str, Any]:
        return dict(zip(("prompt_embeds", "prompt_attention_mask"), padded(prompt, 32)))

    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.LTXAutoBlocks(), parts, with_negative(one), frames=FRAMES)


def ltx2() -> Tiny:
    transformer = D.LTX2VideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        audio_in_channels=4,
        audio_out_channels=4,
        audio_num_attention_heads=2,
        audio_attention_head_dim=4,
        audio_cross_attention_dim=8,
        num_layers=2,
        caption_channels=16,
        rope_double_precision=False,
        vae_scale_factors=(8, 32, 32),
    )
    vae = D.AutoencoderKLLTX2Video(
        latent_channels=4,
        block_out_channels=(8,),
        decoder_block_out_channels=(8,),
        layers_per_block=(1,),
        decoder_layers_per_block=(1, 1),
        spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False),
        downsample_type=("spatial",),
        upsample_residual=(False,),
        upsample_factor=(1,),
        patch_size=1,
        patch_size_t=1,
    )
    sound = D.AutoencoderKLLTX2Audio(
        base_channels=4,
        output_channels=2,
        ch_mult=(1,),
        num_res_blocks=1,
        attn_resolutions=None,
        in_channels=2,
        resolution=32,
        latent_channels=2,
        mel_bins=8,
    )

    def one(prompt: str) -> dict[str, Any]:
        found, mask = padded(prompt, 16)
        heard = padded(prompt, 16, "sound")[0]
        names = ("connector_prompt_embeds", "connector_audio_prompt_embeds")
        return dict(zip(names, (found, heard))) | {"connector_attention_mask": mask.long()}

    def embed(prompt: str, negative: bool) -> dict[str, Any]:
        counted = {"batch_size": 1, "dtype": torch.float32}  # as the family's connectors do
        return with_negative(one)(prompt, negative) | counted

    parts = {"transformer": transformer, "vae": vae, "audio_vae": sound}
    parts["scheduler"] = Flow(shift=3.0, use_dynamic_shifting=True)
    rate = {"frame_rate": 24.0}
    return Tiny(D.LTX2AutoBlocks(), parts, embed, frames=FRAMES, inputs=rate)


def hunyuan_video() -> Tiny:
    transformer = D.HunyuanVideo15Transformer3DModel(
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_refiner_layers=1,
        mlp_ratio=2.0,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=12,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="t2v",
    )
    vae = D.AutoencoderKLHunyuanVideo15(
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        downsample_match_channel=False,
        upsample_match_channel=False,
    )

    def one(prompt: str) -> dict[str, Any]:
        (found, mask), (second, mask_2) = padded(prompt, 16), padded(prompt, 32, "second")
        names = ("prompt_embeds", "prompt_embeds_mask", "prompt_embeds_2", "prompt_embeds_mask_2")
        return dict(zip(names, (found, mask.float(), second, mask_2.float())))

    parts = {"transformer": transformer, "vae": vae, "scheduler": Flow(shift=3.0)}
    return Tiny(D.HunyuanVideo15AutoBlocks(), parts, with_negative(one), frames=FRAMES)


def cosmos3() -> Tiny:
    transformer = D.Cosmos3OmniTransformer(
        head_dim=16,
        hidden_size=32,
        intermediate_size=32,
        latent_channel=16,
        num_attention_heads=2,
        num_hidden_layers=2,
        num_key_value_heads=1,
        patch_latent_dim=64,
        vocab_size=100,
        rope_axes_dim=(2, 3, 3),
        rope_scaling={"mrope_section": [2, 3, 3]},
    )

    def one(prompt: str) -> dict[str, Any]:
        ids = (draw(prompt, (tokens(prompt),)).abs() * 30).long().clamp(max=99)
        return {"cond_input_ids": ids.tolist(), "uncond_input_ids": [1, 2, 3]}

    parts = {"transformer": transformer, "vae": wan_vae(), "scheduler": unipc()}
    rate = {"fps": 24.0}
    return Tiny(D.Cosmos3OmniBlocks(), parts, plain(one), frames=FRAMES, inputs=rate)


VIDEOS = {
    each.__name__: each for each in (wan, wan_unipc, wan22, ltx, ltx2, hunyuan_video, cosmos3)
}
