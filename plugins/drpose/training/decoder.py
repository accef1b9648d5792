"""Training of a deeper decoder for given latents.

The encoder stays, so everything that reads or makes latents stays valid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.training.nets import FitOptions, Report, draw, fit
from torch import Tensor

from rewardft.contracts.protocols import Dataset

WINDOW = 12  # latents along one side of the crop around the body: the rest of a picture is white
BACKGROUND = 0.25  # weight of pixels away from the body; one more within two pixels of it
SQUARE, EDGE = 2.0, 0.5  # weights of the squared error and of the gradients', beside the absolute


def train_decoder(
    autoencoder: LatentAutoencoder,
    sets: Sequence[Dataset],
    options: FitOptions,
    report: Report,
    *,
    noise: float = 0.15,
) -> None:
    """Replace the autoencoder's decoder by a deep one and fit it; the encoder is left alone.

    noise: largest standard deviation of the noise on the latents, which generated ones have too.
    """
    torch.manual_seed(options.seed)
    autoencoder.deepen()
    autoencoder.requires_grad_(False)
    autoencoder.decoder.requires_grad_(True)

    def loss_of(generator: torch.Generator) -> Tensor:
        images, bodies = draw_pictures(sets, options.batch, generator)
        latents = autoencoder.encode(images)
        crops = crop_bodies(latents, images, bodies, autoencoder.factor, generator)
        strength = noise * torch.rand(len(images), 1, 1, 1, generator=generator)
        disturbed = crops[0] + strength * torch.randn(crops[0].shape, generator=generator)
        return reconstruction_loss(autoencoder.decode(disturbed).float(), *crops[1:])

    fit(autoencoder.decoder, loss_of, options, report)
    autoencoder.requires_grad_(False)


def draw_pictures(
    sets: Sequence[Dataset], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`(count, 3, s, s)` pictures, normals and colours alike, and where they show a body, bool."""
    names = ("normals", "colours", "labels")
    normals, colours, labels = draw(sets, -(-count // 4), names, generator)
    pictures = torch.cat([normals, colours], dim=1).flatten(0, 1)
    bodies = (labels > 0).repeat(1, 2, 1, 1).flatten(0, 1)
    chosen = torch.randperm(len(pictures), generator=generator)[:count]
    return pictures[chosen], bodies[chosen]


def crop_bodies(
    latents: Tensor, images: Tensor, bodies: Tensor, factor: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of `WINDOW` latents around each body, shifted at random by up to two, and the same of
    images `(n, 3, s, s)` and bodies `(n, s, s)`."""
    room = latents.shape[-1] - WINDOW
    rows = []
    for latent, image, body in zip(latents, images, bodies):
        where = body.nonzero().float()
        centre = where.mean(0) / factor if len(where) else torch.full((2,), latent.shape[-1] / 2)
        shift = torch.randint(-2, 3, (2,), generator=generator)
        y, x = (centre.long() - WINDOW // 2 + shift).clamp(0, room).tolist()
        pixels = (
            ...,
            slice(factor * y, factor * (y + WINDOW)),
            slice(factor * x, factor * (x + WINDOW)),
        )
        rows.append((latent[:, y : y + WINDOW, x : x + WINDOW], image[pixels], body[pixels]))
    cut, pictures, masks = (torch.stack(column) for column in zip(*rows))
    return cut, pictures, masks


def reconstruction_loss(found: Tensor, images: Tensor, bodies: Tensor) -> Tensor:
    """Absolute and squared error, weighted towards the body, and the gradients' error on both axes.

    found, images: `(n, 3, s, s)`. bodies: `(n, s, s)` bool.
    """
    weight = BACKGROUND + F.max_pool2d(bodies[:, None].float(), 5, 1, 2)
    error = found - images
    edges = torch.diff(error, dim=-1).abs().mean() + torch.diff(error, dim=-2).abs().mean()
    return (weight * error.abs()).mean() + SQUARE * (weight * error**2).mean() + EDGE * edges
