"""Image <-> latent: a small deterministic autoencoder for the miniature, an adapter for diffusers'
`AutoencoderKL`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rewardft_plugins.drpose.model.decoder import DeepDecoder
from rewardft_plugins.drpose.weights import load_network, save_network
from torch import Tensor, nn

from rewardft.errors import ComponentError, did_you_mean

DECODERS = ("shallow", "deep")


class LatentAutoencoder(nn.Module):
    """Images `(n, 3, s, s)` in [0, 1] <-> latents `(n, channels, s / factor, s / factor)`.

    The encoder, and the shallow decoder that is trained with it, work at the latents' resolution,
    between a pixel-unshuffle and a pixel-shuffle, which is cheap on a CPU. A deeper decoder for the
    same latents can take the shallow one's place. Latents are standardised: zero mean and unit
    variance per channel over the data it was trained on.

    Raises `ComponentError` when `decoder` is neither "shallow" nor "deep", or for a deep one with a
    factor other than 4.
    """

    def __init__(
        self, channels: int = 8, factor: int = 4, width: int = 96, decoder: str = "shallow"
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise ComponentError(f"decoder is {decoder!r}.{did_you_mean(decoder, DECODERS)}")
        if decoder == "deep" and factor != 4:
            raise ComponentError(f"the deep decoder enlarges latents 4 times, got factor {factor}")
        self.channels, self.factor, self.width = channels, factor, width
        pixels = 3 * factor**2
        # Convolutions at the latents' size see 16 times fewer positions than at the picture's.
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(factor),
            nn.Conv2d(pixels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        self.decoder: nn.Module = (
            DeepDecoder(channels) if decoder == "deep" else _shallow(channels, factor, width)
        )
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("std", torch.ones(channels, 1, 1))

    @property
    def config(self) -> dict[str, Any]:
        config = {"channels": self.channels, "factor": self.factor, "width": self.width}
        return config | ({"decoder": "deep"} if self.is_deep else {})

    @property
    def is_deep(self) -> bool:
        return isinstance(self.decoder, DeepDecoder)

    def deepen(self) -> None:
        """Put a new deep decoder, with random weights, in the decoder's place."""
        self.decoder = DeepDecoder(self.channels)

    def encode(self, images: Tensor) -> Tensor:
        return (self.encoder(2 * images - 1) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, nominally in [0, 1] but not clamped."""
        # It was trained on standardised latents; the shallow one on the encoder's own.
        if self.is_deep:
            return self.decoder(latents)
        return self.decoder(latents * self.std + self.mean) / 2 + 0.5

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    @torch.no_grad()
    def standardise(self, latents: Tensor) -> None:
        """Set mean and std so that `latents` `(n, c, h, w)`, as encoded now, would have mean 0 and
        variance 1."""
        shift = latents.mean((0, 2, 3)).view(-1, 1, 1)
        scale = latents.std((0, 2, 3)).view(-1, 1, 1)
        # On top of what was subtracted already: the latents given are standardised once.
        self.mean += shift * self.std
        self.std *= scale

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write autoencoder.json and autoencoder.safetensors."""
        save_network(self, folder, "autoencoder", half=half)

    @classmethod
    def load(cls, folder: Path) -> LatentAutoencoder:
        """Read what `save` wrote. Raises `ComponentError` when something is missing or does not
        fit."""
        return load_network(cls, folder, "autoencoder")


def _shallow(channels: int, factor: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(width, 3 * factor**2, 3, padding=1),
        nn.PixelShuffle(factor),
    )


class KLAutoencoder(nn.Module):
    """diffusers' `AutoencoderKL` behind the same two methods; latents are the mode, times its
    scaling factor."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae: Any = vae
        self.channels = int(vae.config.latent_channels)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        # The mode: a draw would make the same picture another target each time.
        return self.vae.encode(2 * images - 1).latent_dist.mode() * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5


def load_encoder(folder: Path) -> LatentAutoencoder | KLAutoencoder:
    """The miniature's autoencoder, or the VAE of a diffusers pipeline, by what the folder holds.

    Raises `ComponentError` when it is neither.
    """
    # By what lies there: a path says nothing of its kind.
    if (folder / "autoencoder.json").is_file():
        return LatentAutoencoder.load(folder)
    if not (folder / "config.json").is_file():
        raise ComponentError(
            f"{folder} holds no autoencoder: expected autoencoder.json, or the config.json of a VAE"
        )
    from diffusers import AutoencoderKL

    return KLAutoencoder(AutoencoderKL.from_pretrained(folder, use_safetensors=True))
