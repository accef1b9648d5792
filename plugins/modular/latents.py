"""From given pictures and videos to latents as the loop has them.

Workflows that start from texts have no block that turns pictures into latents, but their decoding
blocks say what the autoencoder gets for a state x: each entry of x in another place (unpacking),
scaled and shifted (normalisation). Probes find that map, and it is turned round. So it is the
pipeline's own arithmetic in every family, the ones to come included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from rewardft_plugins.modular.blocks import BlockChain, Prepared, join, parts
from torch import Tensor

from rewardft.errors import ComponentError, DataError

DIGIT = 4096  # places are probed in digits that float32 holds beside a shift


@dataclass(frozen=True)
class LatentMap:
    """z = scale * x[place] + shift, entry by entry: from a state x to what is decoded.

    place, scale, shift: `(n,)`, float64.
    x_shape, z_shape: of one sample.
    """

    place: Tensor
    scale: Tensor
    shift: Tensor
    x_shape: tuple[int, ...]
    z_shape: tuple[int, ...]

    def back(self, z: Tensor) -> Tensor:
        """`(b, *z_shape)` -> `(b, *x_shape)`, float32."""
        # float64, so that dividing by a small scale loses nothing.
        x = torch.empty(len(z), len(self.place), dtype=torch.float64, device=z.device)
        x[:, self.place] = (z.flatten(1).double() - self.shift) / self.scale
        return x.float().unflatten(1, self.x_shape)


class DecoderReached(Exception):
    """Ends a run of blocks where the decoder would begin. z: what it was to decode."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z


class Probe:
    """Stands for an autoencoder in full precision and decodes nothing."""

    dtype = torch.float64

    def __init__(self, vae: Any) -> None:
        self._vae = vae

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, z: Tensor, *_: Any, **__: Any) -> None:
        raise DecoderReached(z)


@torch.no_grad()
def decoded_of(chain: BlockChain, prepared: Prepared, x: Tensor) -> Tensor:
    """What the autoencoder gets to decode for states x `(1, ...)`."""
    vae = chain.pipe.vae
    chain.pipe.vae = Probe(vae)
    try:
        chain.decode(x, prepared)
    except DecoderReached as reached:
        return reached.z.double()
    finally:
        chain.pipe.vae = vae
    raise ComponentError(f"{type(chain.pipe).__name__} decodes without a call of `vae.decode`")


def find_map(chain: BlockChain, prepared: Prepared) -> LatentMap:
    """The map of a chain, from a batch of one.

    Raises ComponentError where the decoding blocks do anything else.
    """
    name = type(chain.pipe).__name__
    start = join(prepared.step, chain.pipe)
    # Latents of sound cannot be had from a video without it.
    if len(parts(prepared.step, chain.pipe)) > 1:
        raise ComponentError(
            f"{name} samples sound beside its video, and given videos have none here: algorithms "
            "that learn from given samples do not go with it"
        )
    shape, count = tuple(start.shape[1:]), start[0].numel()
    # (n,): every entry of x by its number.
    order = torch.arange(count, device=start.device)

    def z_of(x: Tensor) -> Tensor:
        return decoded_of(chain, prepared, x.double().reshape(1, *shape))

    zero = z_of(torch.zeros_like(order))
    shift = zero.flatten()
    scale = z_of(torch.ones_like(order)).flatten() - shift
    place = torch.zeros_like(order)
    for power in range(math.ceil(math.log(max(count, 2), DIGIT))):
        # A place is probed digit by digit: its number itself would not survive float32.
        digits = (z_of(order // DIGIT**power % DIGIT).flatten() - shift) / scale
        place += digits.round().long() * DIGIT**power
    # A permutation: every entry of x goes to one place, and none is left out.
    if not torch.equal(place.sort().values, order):
        raise ComponentError(
            f"{name}: the decoding blocks do more than move, scale and shift latents, so pictures "
            "cannot be turned into latents"
        )
    return LatentMap(place, scale, shift, shape, tuple(zero.shape[1:]))


def encoded(vae: Any, pixels: Tensor, z_shape: tuple[int, ...]) -> Tensor:
    """The mean of the autoencoder's Gaussian `(b, *z_shape)`, sample by sample; differentiable.

    Args:
        pixels: `(b, 3, h, w)` or `(b, frames, 3, h, w)` in [0, 1].

    Raises DataError for samples that the model does not make.
    """
    images = 2 * pixels - 1
    if len(z_shape) == 4:  # autoencoders of videos have time behind the channels
        images = images[:, :, None] if images.ndim == 4 else images.transpose(1, 2)
    channels = vae.config.get("in_channels", images.shape[1])
    if channels == images.shape[1] + 1:  # with opacity
        images = torch.cat([images, torch.ones_like(images[:, :1])], 1)
    parts = [vae.encode(image.to(vae.dtype)).latent_dist.mode() for image in images.split(1)]
    z = torch.cat(parts)
    if tuple(z.shape[1:]) != z_shape:
        raise DataError(
            f"given samples of shape {tuple(pixels.shape[1:])} have latents of shape "
            f"{tuple(z.shape[1:])}, and the model makes {z_shape}: they must have its height, "
            "width and frames"
        )
    return z
