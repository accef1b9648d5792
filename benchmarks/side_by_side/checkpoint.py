"""What both sides of `benchmarks/peers.py` train: a checkpoint of Stable Diffusion's classes with
random weights, prompts, and a reward. Needs torch, diffusers and transformers alone."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

# Sizes: of the network, of the autoencoder, of the latents; `sd15` is that of Stable Diffusion 1.5.
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"unet": (32, 64), "vae": (16, 32), "layers": 1, "text": 64, "latents": 8},
    "mid": {
        "unet": (64, 128, 256, 256),
        "vae": (32, 64, 128, 128),
        "layers": 1,
        "text": 256,
        "latents": 32,
    },
    "sd15": {
        "unet": (320, 640, 1280, 1280),
        "vae": (128, 256, 512, 512),
        "layers": 2,
        "text": 768,
        "latents": 64,
    },
}
PROMPTS = [f"a photo of animal number {i}" for i in range(64)]
TOKENS = 77


def save(folder: Path, size: str) -> None:
    """Write the checkpoint in diffusers' layout."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    torch.manual_seed(0)
    spec = SIZES[size]
    pipeline = StableDiffusionPipeline(
        vae=autoencoder(spec),
        text_encoder=text_encoder(spec["text"]),
        tokenizer=tokenizer(),
        unet=denoiser(spec),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)


def denoiser(spec: dict[str, Any]) -> Any:
    from diffusers import UNet2DConditionModel

    depth = len(spec["unet"])
    return UNet2DConditionModel(
        sample_size=spec["latents"],
        block_out_channels=spec["unet"],
        down_block_types=("CrossAttnDownBlock2D",) * (depth - 1) + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (depth - 1),
        layers_per_block=spec["layers"],
        attention_head_dim=8,
        cross_attention_dim=spec["text"],
    )


def autoencoder(spec: dict[str, Any], **extra: Any) -> Any:
    from diffusers import AutoencoderKL

    depth = len(spec["vae"])
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=spec["vae"],
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        layers_per_block=spec["layers"],
        norm_num_groups=16,
        sample_size=spec["latents"] * 2 ** (depth - 1),
        **extra,
    )


def tokenizer() -> Any:
    """A token for each letter: no merges."""
    from transformers import CLIPTokenizer

    letters = string.ascii_lowercase + string.digits
    names = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)


def text_encoder(width: int) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    names = len(tokenizer())
    config = CLIPTextConfig(
        vocab_size=names,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        bos_token_id=names - 2,
        eos_token_id=names - 1,
        pad_token_id=names - 1,
    )
    return CLIPTextModel(config)


class Judge(nn.Module):
    """A random ViT on 224 x 224 pixels: pictures `(b, 3, h, w)` in [0, 1] -> `(b,)`."""

    def __init__(self, width: int = 256, layers: int = 6) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.patches = nn.Conv2d(3, width, 16, 16)
            layer = nn.TransformerEncoderLayer(
                width, 8, 4 * width, batch_first=True, norm_first=True
            )
            self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
            self.head = nn.Linear(width, 1)
        self.requires_grad_(False).eval()

    def forward(self, pictures: Tensor) -> Tensor:
        pixels = interpolate(pictures, (224, 224), mode="bilinear")
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.head(self.layers(tokens).mean(1)).flatten()
