"""The full-size model: a diffusers folder of PSHuman's kind (SD-2.1-unCLIP derived), read into this
plugin's parts.

The folder holds `unet/`, `vae/`, `image_encoder/` and `scheduler/`, as diffusers and transformers
save them, and
`text_embeddings.safetensors`: the fixed embeddings of "a rendering image of 3D human, {view} view,
{color|normal} map.", as a tensor `embeddings` `(2 v, tokens, dim)` with rows (domain, view).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.embeddings import get_timestep_embedding
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from rewardft_plugins.drpose.model.autoencoder import KLAutoencoder
from rewardft_plugins.drpose.model.unet import Condition, build_unet
from rewardft_plugins.drpose.weights import (
    freeze,
    load_into,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rewardft.errors import ComponentError

if TYPE_CHECKING:
    from rewardft_plugins.drpose.model.multiview import MultiviewUNet

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"
TEXT_FILE = "text_embeddings.safetensors"
# PSHuman's own block classes hold the weights of diffusers' blocks under the same names.
STANDARD_BLOCKS = {
    "CrossAttnDownBlockMV2D": "CrossAttnDownBlock2D",
    "CrossAttnUpBlockMV2D": "CrossAttnUpBlock2D",
    "UNetMidBlockMV2DCrossAttn": "UNetMidBlock2DCrossAttn",
}
# A plain unCLIP checkpoint has no multi-view attention yet: it starts at zero.
NEW_LAYERS = ("attn_mv.", "norm_mv.")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TextConditioner(nn.Module):
    """Tokens are fixed text embeddings, one sequence for each (domain, view); the vector is the
    image's own."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings: Tensor
        self.register_buffer("embeddings", embeddings)

    def forward(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Returns tokens `(b, 2 v, l, d)` and vectors `(b, 2 v, e)`."""
        vector = cond["vector"]
        rows = len(self.embeddings)
        tokens = self.embeddings.expand(len(vector), -1, -1, -1)
        return tokens, vector[:, None].expand(-1, rows, -1)


class ImageEncoder(nn.Module):
    """CLIP's image embedding, followed by the embedding of noise level 0: unCLIP's class label,
    `(b, 2 e)`."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip: Any = clip
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        side = self.clip.config.image_size
        resized = interpolate(
            images, (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        embedding = self.clip(pixel_values=(resized - self.mean) / self.std).image_embeds
        level = torch.zeros(len(images), device=images.device)
        return torch.cat(
            [embedding, get_timestep_embedding(level, embedding.shape[-1], flip_sin_to_cos=True)],
            dim=-1,
        )


@dataclass
class UnclipParts:
    """What `load_unclip` found in a folder."""

    unet: Any
    unet_config: dict[str, Any]
    conditioner: TextConditioner
    autoencoder: KLAutoencoder
    image_encoder: ImageEncoder
    scheduler: DDIMScheduler


def load_unclip(folder: Path, *, face: bool) -> UnclipParts:
    """Read a full-size model. Raises `ComponentError` when a part is missing or does not fit."""
    missing = [
        name
        for name in ("unet", "vae", "image_encoder", "scheduler", TEXT_FILE)
        if not (folder / name).exists()
    ]
    if missing:
        raise ComponentError(
            f"{folder} is no full-size multi-view model: it lacks {', '.join(missing)}"
        )
    config = unet_options(read_json(folder / "unet" / "config.json"))
    unet = build_unet(config, face=face)
    tensors = widen_input(read_tensors(folder / UNET_FILE), unet)
    load_into(unet, tensors, str(folder / UNET_FILE), may_lack=NEW_LAYERS)
    autoencoder = KLAutoencoder(AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True))
    return UnclipParts(
        unet=unet,
        unet_config=config,
        conditioner=TextConditioner(_text_embeddings(folder / TEXT_FILE, face)),
        autoencoder=autoencoder,
        image_encoder=_image_encoder(folder / "image_encoder"),
        scheduler=DDIMScheduler.from_config(
            read_json(folder / "scheduler" / "scheduler_config.json")
        ),
    )


def unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `UNet2DConditionModel` in a saved configuration: its blocks by their standard
    names, eight inputs."""
    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    options = {name: value for name, value in config.items() if name in known}
    for name in ("down_block_types", "up_block_types"):
        options[name] = [STANDARD_BLOCKS.get(block, block) for block in options[name]]
    options["mid_block_type"] = STANDARD_BLOCKS.get(
        options.get("mid_block_type", ""), options.get("mid_block_type")
    )
    options["in_channels"] = (
        2 * options["out_channels"]
    )  # noisy latents, then those of the condition image
    return options


def widen_input(tensors: dict[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """Give a checkpoint's `conv_in` the channels of the condition latents, at zero, where it lacks
    them."""
    weight, wanted = tensors.get("conv_in.weight"), unet.conv_in.weight
    if weight is None or weight.shape[1] * 2 != wanted.shape[1]:
        return tensors
    return tensors | {"conv_in.weight": torch.cat([weight, torch.zeros_like(weight)], dim=1)}


def _text_embeddings(path: Path, face: bool) -> Tensor:
    embeddings = read_tensors(path).get("embeddings")
    rows = DOMAINS * (BODY_VIEWS + face)
    if embeddings is None or embeddings.ndim != 3 or len(embeddings) != rows:
        got = "no such tensor" if embeddings is None else tuple(embeddings.shape)
        raise ComponentError(
            f"{path} must hold `embeddings` ({rows}, tokens, dim) with face: {face}, got {got}"
        )
    return embeddings


def _image_encoder(folder: Path) -> ImageEncoder:
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError as error:
        raise ComponentError(
            f"the full-size model needs the package `transformers`: {error}"
        ) from error
    encoder = ImageEncoder(
        CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True)
    )
    freeze(encoder)
    return encoder


def save_unclip(model: MultiviewUNet, folder: Path) -> None:
    """Write the parts of a full-size model in the layout that `load_unclip` reads."""
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    denoiser: Any = model.trainable
    frozen: Any = model
    write_json(folder / "unet" / "config.json", model.unet_config)
    write_tensors(folder / UNET_FILE, denoiser.unet.state_dict())
    write_tensors(folder / TEXT_FILE, {"embeddings": denoiser.conditioner.embeddings})
    frozen.autoencoder.vae.save_pretrained(folder / "vae")
    frozen.image_encoder.clip.save_pretrained(folder / "image_encoder")
    model.scheduler.save_pretrained(folder / "scheduler")
