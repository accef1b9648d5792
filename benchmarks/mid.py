"""The model of the speed and memory figures, as a plugin: of the shape of Stable Diffusion, random
weights, a tenth of its size."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rewardft import Batch, Rollout, hookimpl

TEXT = (77, 256)  # tokens and their width


class Mid:
    """A U-Net of 64-128-256-256 channels on `latents` x `latents`, an autoencoder to eight times as
    many pixels."""

    provides = frozenset({"denoiser"})
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, latents: int = 32, guidance: float = 5.0) -> None:
        torch.manual_seed(0)
        self.latents, self.guidance = latents, guidance
        self.trainable: Any = UNet2DConditionModel(
            sample_size=latents,
            block_out_channels=(64, 128, 256, 256),
            layers_per_block=1,
            attention_head_dim=8,
            cross_attention_dim=TEXT[1],
        ).eval()
        self.vae: Any = AutoencoderKL(
            block_out_channels=(32, 64, 128, 128),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
        ).eval()
        self.vae.requires_grad_(False)
        self.scheduler = DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
        )

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)
        self.vae.to(device)

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"text": batch["text"]}

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (4, self.latents, self.latents)

    def denoise(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """Both halves of guidance in one call of the network."""
        text = torch.cat([torch.zeros_like(cond["text"]), cond["text"]])
        both = self.trainable(torch.cat([x, x]), torch.cat([t, t]), text).sample
        null, full = both.chunk(2)
        return null + self.guidance * (full - null)

    def decode(self, x0: Tensor) -> Tensor:
        return (self.vae.decode(x0 / 0.18215).sample / 2 + 0.5).sigmoid()

    def enable_checkpointing(self) -> None:
        self.trainable.enable_gradient_checkpointing()

    def enable_decode_checkpointing(self) -> None:
        self.vae.enable_gradient_checkpointing()


class Prompts:
    """Random text features."""

    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        return {"id": str(index), "text": torch.randn(TEXT, generator=generator)}


class Vit(nn.Module):
    """A random ViT on 224 x 224 pixels."""

    provides = frozenset({"reward_gradient"})

    def __init__(self, width: int = 256, layers: int = 6) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.patches = nn.Conv2d(3, width, 16, 16)
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 1)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        pixels = interpolate(rollout.decoded, (224, 224), mode="bilinear")
        tokens = self.patches(pixels).flatten(2).transpose(1, 2)
        return self.head(self.layers(tokens).mean(1)).flatten()


@hookimpl
def register_models() -> dict[str, Any]:
    return {"mid": Mid}


@hookimpl
def register_datasets() -> dict[str, Any]:
    return {"mid_prompts": Prompts}


@hookimpl
def register_rewards() -> dict[str, Any]:
    return {"mid_vit": Vit}
