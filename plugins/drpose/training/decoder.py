"""Training of a deeper decoder for given latents.

The encoder stays, so everything that reads or makes latents stays valid. A decoder that has seen
only encoded pictures turns a model's softer latents into even softer pictures. With a base, half of
the batches are what that base makes of noised latents, and a term on gradient energy asks each
window for its detail, where the absolute error, unsure of an edge's place, prefers none.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.model.compact import CompactDenoiser, draw_skeletons
from rewardft_plugins.drpose.model.unet import MINI_SCHEDULE
from rewardft_plugins.drpose.training.fit import FitOptions, Report, fit
from rewardft_plugins.drpose.training.nets import draw
from torch import Tensor

from rewardft.contracts.protocols import Dataset

WINDOW = 12  # latents along one side of the crop around the body: the rest of a picture is white
BACKGROUND = 0.25  # weight of pixels away from the body; one more within two pixels of it
SQUARE, EDGE = 2.0, 0.5  # weights of the squared error and of the gradients', beside the absolute
DETAIL_WINDOW = 4  # pixels along one side of the windows that the energy is compared in
NOISED = 700  # a base's latents come from timesteps below this; of 1000


def train_decoder(
    autoencoder: LatentAutoencoder,
    sets: Sequence[Dataset],
    options: FitOptions,
    report: Report,
    *,
    noise: float = 0.15,
    detail: float = 0.0,
    base: CompactDenoiser | None = None,
) -> None:
    """Train a deep decoder, a new one unless the autoencoder has one; the encoder is left alone.

    noise: largest standard deviation of the noise on the latents, which generated ones have too.
    detail: weight of `detail_error`. base: a denoiser whose estimates are half of what is decoded.
    """
    torch.manual_seed(options.seed)
    if not autoencoder.is_deep:
        autoencoder.deepen()
    # The encoder and its standardisation are what every other network was trained on.
    autoencoder.requires_grad_(False)
    autoencoder.decoder.requires_grad_(True)

    def loss_of(generator: torch.Generator) -> Tensor:
        if base is not None and torch.rand((), generator=generator) < 0.5:
            images, bodies, latents = draw_estimates(
                sets, autoencoder, base, options.batch, generator
            )
        else:
            images, bodies = draw_pictures(sets, options.batch, generator)
            latents = autoencoder.encode(images)
        # Only around the body: most of a picture is white, and teaches nothing.
        crops = crop_bodies(latents, images, bodies, autoencoder.factor, generator)
        strength = noise * torch.rand(len(images), 1, 1, 1, generator=generator)
        disturbed = crops[0] + strength * torch.randn(crops[0].shape, generator=generator)
        found = autoencoder.decode(disturbed).float()
        return reconstruction_loss(found, *crops[1:]) + detail * detail_error(found, crops[1])

    fit(autoencoder.decoder, loss_of, options, report)
    autoencoder.requires_grad_(False)


def draw_pictures(
    sets: Sequence[Dataset], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """`(count, 3, s, s)` pictures, normals and colours alike, and where they show a body, bool."""
    names = ("normals", "colours", "labels")
    normals, colours, labels = draw(sets, -(-count // 4), names, generator)
    # (12 samples, 3, s, s).
    pictures = torch.cat([normals, colours], dim=1).flatten(0, 1)
    bodies = (labels > 0).repeat(1, 2, 1, 1).flatten(0, 1)
    chosen = torch.randperm(len(pictures), generator=generator)[:count]
    return pictures[chosen], bodies[chosen]


@torch.no_grad()
def draw_estimates(
    sets: Sequence[Dataset],
    autoencoder: LatentAutoencoder,
    base: CompactDenoiser,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures and bodies as `draw_pictures`, with a base's estimates of their latents from noised
    ones."""
    samples = -(-count // 4)
    names = ("normals", "colours", "labels", "image", "joints", "offset")
    normals, colours, labels, image, joints, offset = draw(sets, samples, names, generator)
    pictures = torch.cat([normals, colours], dim=1)
    bodies = (labels > 0).repeat(1, 2, 1, 1)
    clean = autoencoder.encode(pictures.flatten(0, 1)).float().unflatten(0, pictures.shape[:2])
    t = torch.randint(NOISED, (samples,), generator=generator)
    alpha = DDIMScheduler.from_config(MINI_SCHEDULE).alphas_cumprod[t].view(-1, 1, 1, 1, 1)
    x = alpha.sqrt() * clean + (1 - alpha).sqrt() * torch.randn(clean.shape, generator=generator)
    skeletons = draw_skeletons(joints + offset[:, None])
    v = base(x, t, autoencoder.encode(image).float(), skeletons).float()
    # x0 from v.
    found = alpha.sqrt() * x - (1 - alpha).sqrt() * v
    # 12 rows of a sample are alike; a random choice mixes samples in a batch.
    chosen = torch.randperm(12 * samples, generator=generator)[:count]
    pictures, bodies, found = (rows.flatten(0, 1)[chosen] for rows in (pictures, bodies, found))
    return pictures, bodies, found


def crop_bodies(
    latents: Tensor, images: Tensor, bodies: Tensor, factor: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Windows of `WINDOW` latents around each body, shifted at random by up to two, and the same of
    images `(n, 3, s, s)` and bodies `(n, s, s)`."""
    room = latents.shape[-1] - WINDOW
    rows = []
    for latent, image, body in zip(latents, images, bodies):
        where = body.nonzero().float()
        # In latents, as windows are cut on their grid.
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
    # The body and two pixels around it: edges are what the decoder is for.
    weight = BACKGROUND + F.max_pool2d(bodies[:, None].float(), 5, 1, 2)
    error = found - images
    edges = torch.diff(error, dim=-1).abs().mean() + torch.diff(error, dim=-2).abs().mean()
    return (weight * error.abs()).mean() + SQUARE * (weight * error**2).mean() + EDGE * edges


def detail_error(found: Tensor, images: Tensor) -> Tensor:
    """Mean difference of the root gradient energy in windows, of pictures `(n, 3, s, s)`."""
    return (_detail(found) - _detail(images)).abs().mean()


def _detail(pictures: Tensor) -> Tensor:
    # Both cut to (s - 1, s - 1), so that they add up pixel by pixel.
    down = torch.diff(pictures, dim=-2)[..., :-1].square()
    across = torch.diff(pictures, dim=-1)[..., :-1, :].square()
    energy = F.avg_pool2d((down + across).mean(1, keepdim=True), DETAIL_WINDOW, DETAIL_WINDOW // 2)
    # The root keeps single strong edges from outweighing all else; 1e-5 keeps its slope finite.
    return (energy + 1e-5).sqrt()
