"""What both sides of the case `grpo` train: a checkpoint of Stable Diffusion 3's classes with
random weights. Needs torch, diffusers and transformers alone."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from checkpoint import SIZES, TOKENS, autoencoder, tokenizer

# Of the transformer: layers, heads, width of a head; of the encoders' text; latents a side.
TRANSFORMERS: dict[str, dict[str, int]] = {
    "tiny": {"layers": 2, "heads": 2, "head": 16, "text": 32, "latents": 8},
    "mid": {"layers": 4, "heads": 4, "head": 64, "text": 128, "latents": 32},
    "sd15": {"layers": 24, "heads": 24, "head": 64, "text": 2048, "latents": 64},
}
T5_TOKENS = 128  # as flow_grpo has it


def save_sd3(folder: Path, size: str) -> None:
    """Write the checkpoint in diffusers' layout."""
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    torch.manual_seed(0)
    spec = TRANSFORMERS[size]
    width = spec["text"] // 2
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(spec),
        vae=autoencoder(SIZES[size] | {"latents": spec["latents"]}, shift_factor=0.0609),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        text_encoder=clip_encoder(width),
        text_encoder_2=clip_encoder(width),
        text_encoder_3=t5_encoder(2 * spec["text"]),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        tokenizer_3=t5_tokenizer(),
    )
    pipeline.save_pretrained(folder)


def pixels(size: str) -> int:
    """Of the images, a side."""
    return TRANSFORMERS[size]["latents"] * 2 ** (len(SIZES[size]["vae"]) - 1)


def transformer(spec: dict[str, int]) -> Any:
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=spec["latents"],
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=spec["layers"],
        attention_head_dim=spec["head"],
        num_attention_heads=spec["heads"],
        joint_attention_dim=2 * spec["text"],
        caption_projection_dim=spec["heads"] * spec["head"],
        pooled_projection_dim=spec["text"],
        pos_embed_max_size=spec["latents"],
    )


def clip_encoder(width: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    names = len(tokenizer())
    config = CLIPTextConfig(
        vocab_size=names,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=names - 2,
        eos_token_id=names - 1,
        pad_token_id=names - 1,
    )
    return CLIPTextModelWithProjection(config)


def t5_encoder(width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=64, d_model=width, d_kv=16, d_ff=2 * width, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config)


def t5_tokenizer() -> Any:
    from transformers import T5TokenizerFast

    names = ["<pad>", "</s>", "<unk>", "▁", *string.ascii_lowercase, *string.digits]
    pairs = [(name, -float(i)) for i, name in enumerate(names)]
    return T5TokenizerFast(vocab=pairs, extra_ids=0, model_max_length=512)
