"""The full-size model: a diffusers folder of PSHuman's kind (SD-2.1-unCLIP derived), read into this
plugin's parts.

The folder holds `unet/`, `vae/`, `image_encoder/` and `scheduler/`, as diffusers and transformers
save them, and `text_embeddings.safetensors`: the fixed embeddings of "a rendering image of 3D
human, {view} view, {color|normal} map.", as a tensor `embeddings` `(2 v, tokens, dim)` with rows
(domain, view).
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
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
from rewardft.files.atomic import make_folder

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
UNET_FILE = f"unet/{WEIGHTS_FILE}"
NOISING = ("image_noising_scheduler", "image_normalizer")
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
    """Tokens are fixed text embeddings, one sequence for each (domain, view); the vectors are the
    image's own, and the face crop's in face rows."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings: Tensor
        self.register_buffer("embeddings", embeddings)

    def forward(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Returns tokens `(b, 2 v, l, d)` and vectors `(b, 2 v, e)`."""
        vectors = cond["vectors"]
        return self.embeddings.expand(len(vectors), -1, -1, -1), vectors


class ImageEncoder(nn.Module):
    """unCLIP's class labels: CLIP's image embedding, noised at level 0, and the embedding of that
    level.

    PSHuman noises every row's embedding by itself: standardised by the folder's `image_normalizer`,
    mixed with noise by the first level of its `image_noising_scheduler`, and scaled back. Without
    those two folders nothing is mixed in.

    clip: a `CLIPVisionModelWithProjection`.
    signal: share of the embedding's variance that level 0 keeps, in (0, 1].
    mean, std: `(e,)` of the embeddings.
    """

    def __init__(
        self, clip: Any, signal: float = 1.0, mean: Tensor | None = None, std: Tensor | None = None
    ) -> None:
        super().__init__()
        self.clip: Any = clip
        self.signal = signal
        width = clip.config.projection_dim
        self.mean: Tensor
        self.std: Tensor
        self.embedding_mean: Tensor
        self.embedding_std: Tensor
        for name, value in {
            "mean": torch.tensor(CLIP_MEAN).view(3, 1, 1),
            "std": torch.tensor(CLIP_STD).view(3, 1, 1),
            "embedding_mean": torch.zeros(width) if mean is None else mean.flatten(),
            "embedding_std": torch.ones(width) if std is None else std.flatten(),
        }.items():
            # Not in the state: they belong to the folder, and are read from it.
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """CLIP embeddings `(n, e)` of images `(n, 3, s, s)` in [0, 1], without noise."""
        side = self.clip.config.image_size
        # Clamped, because bicubic interpolation overshoots at edges.
        resized = interpolate(
            images, (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        embedding: Tensor = self.clip(pixel_values=(resized - self.mean) / self.std).image_embeds
        return embedding

    def labels(self, embeddings: Tensor, noise: Tensor) -> Tensor:
        """Class labels `(..., 2 e)` of embeddings `(..., e)`; noise is standard normal, `(..., e)`.

        x = std (sqrt(a) (e - mean) / std + sqrt(1 - a) noise) + mean, with a = `signal`.
        """
        # Noise is mixed in where every number has variance 1.
        scaled = (embeddings - self.embedding_mean) / self.embedding_std
        mixed = self.signal**0.5 * scaled + (1 - self.signal) ** 0.5 * noise
        noised = mixed * self.embedding_std + self.embedding_mean
        # PSHuman gives level 0 always, so the second half of a label is a constant.
        level = torch.zeros(1, device=noised.device)
        known = get_timestep_embedding(
            level, noised.shape[-1], flip_sin_to_cos=True, downscale_freq_shift=0
        )
        return torch.cat([noised, known.expand_as(noised)], dim=-1)


@dataclass
class UnclipParts:
    """The parts of a full-size model, as a folder holds them."""

    unet: Any
    unet_config: dict[str, Any]
    smpl: bool
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
            f"{folder} is not a full-size multi-view model: it lacks {', '.join(missing)}"
        )
    published = read_json(folder / "unet" / "config.json")
    config = unet_options(published)
    unet = build_unet(config, face=face)
    # A plain unCLIP checkpoint reads noisy latents alone.
    tensors = widen_input(read_tensors(folder / UNET_FILE), unet)
    load_into(unet, tensors, str(folder / UNET_FILE), may_lack=NEW_LAYERS)
    autoencoder = KLAutoencoder(AutoencoderKL.from_pretrained(folder / "vae", use_safetensors=True))
    return UnclipParts(
        unet=unet,
        # Kept as published, so that PSHuman's own program reads what is saved.
        unet_config={**published, "in_channels": config["in_channels"]},
        smpl=config["in_channels"] == 3 * config["out_channels"],
        conditioner=TextConditioner(_text_embeddings(folder / TEXT_FILE, face)),
        autoencoder=autoencoder,
        image_encoder=_image_encoder(folder),
        scheduler=DDIMScheduler.from_config(
            read_json(folder / "scheduler" / "scheduler_config.json")
        ),
    )


def unet_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `UNet2DConditionModel` in a saved configuration: its blocks by their standard
    names, eight inputs."""
    # The folder's config names options of PSHuman's own class too, which diffusers' does not take.
    known = set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}
    options = {name: value for name, value in config.items() if name in known}
    for name in ("down_block_types", "up_block_types"):
        options[name] = [STANDARD_BLOCKS.get(block, block) for block in options[name]]
    options["mid_block_type"] = STANDARD_BLOCKS.get(
        options.get("mid_block_type", ""), options.get("mid_block_type")
    )
    # Noisy latents, then those of the condition image, then, in PSHuman's SMPL variant, those of
    # the body's picture in each view.
    smpl = options.get("in_channels") == 3 * options["out_channels"]
    options["in_channels"] = (3 if smpl else 2) * options["out_channels"]
    return options


def widen_input(tensors: dict[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """Give a checkpoint's `conv_in` the channels of the condition latents where it lacks them. They
    are zero, so the widened network computes at first what the checkpoint does."""
    weight, wanted = tensors.get("conv_in.weight"), unet.conv_in.weight
    if weight is None or weight.shape[1] * 2 != wanted.shape[1]:
        return tensors
    return tensors | {"conv_in.weight": torch.cat([weight, torch.zeros_like(weight)], dim=1)}


def _text_embeddings(path: Path, face: bool) -> Tensor:
    embeddings = read_tensors(path).get("embeddings")
    # A row too few would give every following row its neighbour's text.
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
    clip = CLIPVisionModelWithProjection.from_pretrained(
        folder / "image_encoder", use_safetensors=True
    )
    encoder = ImageEncoder(clip, *_noising(folder))
    freeze(encoder)
    return encoder


def _noising(folder: Path) -> tuple[float, Tensor | None, Tensor | None]:
    """Signal of level 0, mean and deviation of the embeddings, as the folder has them."""
    present = [(folder / name).is_dir() for name in NOISING]
    if not any(present):
        return 1.0, None, None
    # With one of the two the noise would be mixed at the wrong scale.
    if not all(present):
        raise ComponentError(f"{folder} has one of {' and '.join(NOISING)}; expected both or none")
    schedule = DDPMScheduler.from_config(read_json(folder / NOISING[0] / "scheduler_config.json"))
    tensors = read_tensors(folder / NOISING[1] / WEIGHTS_FILE)
    lacking = [name for name in ("mean", "std") if name not in tensors]
    if lacking:
        raise ComponentError(f"{folder / NOISING[1] / WEIGHTS_FILE} lacks {', '.join(lacking)}")
    return float(schedule.alphas_cumprod[0]), tensors["mean"], tensors["std"]


def save_unclip(parts: UnclipParts, source: Path, folder: Path) -> None:
    """Write a full-size model that came from `source` in the layout that `load_unclip` reads.

    The U-Net's configuration is the one that was read, with its own names of classes and blocks, so
    that the program that the weights come from reads them; what it needs beside these parts
    (tokenizer, text encoder, ...) is copied from the folder that was read.
    """
    _copy_rest(source, folder)
    make_folder(folder / "unet")
    write_json(folder / "unet" / "config.json", parts.unet_config)
    write_tensors(folder / UNET_FILE, parts.unet.state_dict())
    write_tensors(folder / TEXT_FILE, {"embeddings": parts.conditioner.embeddings})
    parts.autoencoder.vae.save_pretrained(folder / "vae")
    parts.image_encoder.clip.save_pretrained(folder / "image_encoder")
    scheduler: Any = parts.scheduler
    scheduler.save_pretrained(folder / "scheduler")


def _copy_rest(source: Path, folder: Path) -> None:
    """Copy the parts of a pipeline that are neither trained nor written by `save_unclip`."""
    # Saving over the folder that was read: everything else is there already.
    if source.resolve() == folder.resolve():
        return
    written = {"unet", "vae", "image_encoder", "scheduler", TEXT_FILE}
    for part in sorted(source.iterdir()):
        if part.name in written or part.name.startswith("."):
            continue
        if part.is_dir():
            shutil.copytree(part, folder / part.name, dirs_exist_ok=True)
        else:
            shutil.copy2(part, folder / part.name)
