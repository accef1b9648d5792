"""Pre-training of the compact denoiser: v-prediction on plain poses, under skeletons drawn from
disturbed true joints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler
from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
from rewardft_plugins.drpose.model.compact import CompactDenoiser, draw_skeletons
from rewardft_plugins.drpose.model.unet import MINI_SCHEDULE
from rewardft_plugins.drpose.training.fit import FitOptions, Report, fit
from rewardft_plugins.drpose.training.nets import draw
from rewardft_plugins.humans.body import PARENTS
from rewardft_plugins.humans.reflect import reflect, reflect_pictures
from torch import Tensor, nn

from rewardft.contracts.protocols import Dataset

JOINT_NOISE = 0.1
"""Largest standard deviation of the noise on the joints, in metres; each sample's own is drawn
uniformly below it.
"""

# V-loss weight min(SNR + 1, 5) / (SNR + 1): little for what is nearly clean (2303.09556)
MOST_WEIGHT = 5.0
NO_SKELETON, NO_PICTURE = 0.08, 0.03  # how often a condition is left out
_SPREAD = (0.35, 0.35, 1.0)  # an estimator errs most in depth


def disturb_joints(joints: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Joints `(b, 23, 3)` with errors like an estimator's: they grow along the limbs and are
    largest in depth.

    strength: `(b, 1, 1)` metres.
    """
    errors = torch.randn(joints.shape, generator=generator) * torch.tensor(_SPREAD)
    along: list[Tensor] = []
    for joint, parent in enumerate(PARENTS):
        # An error of the elbow carries the wrist along.
        along.append(
            errors[:, joint] if parent < 0 else 0.85 * along[parent] + 0.6 * errors[:, joint]
        )
    return joints + strength * torch.stack(along, dim=1)


@dataclass(frozen=True)
class Clean:
    """Clean samples: latents `(b, 12, c, h, w)`, the picture's `(b, c, h, w)`, joints `(b, 23, 3)`
    in the rendered frame.
    """

    latents: Tensor
    picture: Tensor
    joints: Tensor


def draw_clean(
    sets: Sequence[Dataset], autoencoder: LatentAutoencoder, count: int, generator: torch.Generator
) -> Clean:
    """`count` random samples of sets with targets, all reflected or none."""
    names = ("normals", "colours", "image", "labels", "joints", "joints2d", "offset")
    # Views (b, 6, 3, s, s), picture (b, 3, s, s), joints (b, 23, 3) from the pelvis.
    normals, colours, image, labels, joints, joints2d, offset = draw(sets, count, names, generator)
    # Into the rendered frame, in which skeletons are drawn.
    joints = joints + offset[:, None]
    if torch.rand((), generator=generator) < 0.5:
        normals, joints, _, _ = reflect(normals, joints, joints2d, labels)
        colours, image = reflect_pictures(colours), image.flip(-1)
    pictures = torch.cat([normals, colours, image[:, None]], dim=1)
    with torch.no_grad():
        latents = (
            autoencoder.encode(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).float()
        )
    return Clean(latents[:, :-1], latents[:, -1], joints)


def spread_timesteps(count: int, generator: torch.Generator, power: float = 0.8) -> Tensor:
    """`(count,)` timesteps in 0 .. 999, spread over the batch evenly; a power below 1 favours the
    noisy ones.
    """
    # One timestep from each of `count` equal parts: less noise in the loss than free draws.
    share = (
        torch.rand((), generator=generator) + torch.randperm(count, generator=generator) / count
    ) % 1
    return (share**power * 1000).long().clamp(max=999)


def denoising_loss(
    model: CompactDenoiser, clean: Clean, alphas: Tensor, generator: torch.Generator
) -> Tensor:
    """Weighted squared error of v at random timesteps; alphas: `(1000,)` cumulative products of the
    schedule.
    """
    count = len(clean.latents)
    t = spread_timesteps(count, generator)
    alpha = alphas[t].view(-1, 1, 1, 1, 1)
    noise = torch.randn(clean.latents.shape, generator=generator)
    # At test time skeletons come from an estimator; true joints would be trusted too much.
    strength = JOINT_NOISE * torch.rand(count, 1, 1, generator=generator)
    skeletons = draw_skeletons(disturb_joints(clean.joints, strength, generator))
    # Left out now and then, so that the network is worth something without either condition.
    skeletons = skeletons * (torch.rand(count, 1, 1, 1, 1, generator=generator) > NO_SKELETON)
    picture = clean.picture * (torch.rand(count, 1, 1, 1, generator=generator) > NO_PICTURE)
    x = alpha.sqrt() * clean.latents + (1 - alpha).sqrt() * noise
    # v = alpha epsilon - sigma x0 (Salimans & Ho 2022, 2202.00512).
    v = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean.latents
    inverse = 1 / (1 - alpha)  # SNR + 1
    weight = inverse.clamp(max=MOST_WEIGHT) / inverse
    return (weight * (model(x, t, picture, skeletons).float() - v).square()).mean()


def train_base(
    sets: Sequence[Dataset],
    autoencoder: LatentAutoencoder,
    options: FitOptions,
    report: Report,
    *,
    start: CompactDenoiser | None,
    keep: Callable[[nn.Module], None] | None = None,
) -> CompactDenoiser:
    """Train the denoiser on sets of plain poses with targets.

    start: continue from this one, which is changed. keep: called with the averaged weights now and
    then, so that a long run that is stopped leaves something.
    """
    torch.manual_seed(options.seed)
    model = CompactDenoiser(autoencoder.channels) if start is None else start
    alphas = DDIMScheduler.from_config(MINI_SCHEDULE).alphas_cumprod

    def loss_of(generator: torch.Generator) -> Tensor:
        return denoising_loss(
            model, draw_clean(sets, autoencoder, options.batch, generator), alphas, generator
        )

    fit(model, loss_of, options, report, keep)
    return model
