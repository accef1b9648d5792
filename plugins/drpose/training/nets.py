"""Training of the plugin's own small networks: autoencoder, skeleton network, judge.

The compact denoiser is pre-trained in `base`; a diffusion U-Net by an ordinary recipe with the
`denoising` algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.judges.pose_judge import JudgeNet, mpjpe_mm, part_iou, silhouette_iou
from rewardft_plugins.drpose.model.autoencoder import KLAutoencoder, LatentAutoencoder
from rewardft_plugins.drpose.rewards.pose_score import pyramid_distance, skeleton_loss
from rewardft_plugins.drpose.rewards.skeleton_net import SkeletonNet
from rewardft_plugins.drpose.training.fit import FitOptions, Report, fit
from rewardft_plugins.humans.body import PARTS
from rewardft_plugins.humans.reflect import reflect
from rewardft_plugins.humans.skeleton import skeleton_maps
from torch import Tensor

from rewardft.contracts.protocols import Dataset

NOISE = 0.5  # largest standard deviation of what is added to latents


def columns(dataset: Dataset, rows: Iterable[int], names: Sequence[str]) -> tuple[Tensor, ...]:
    """The named columns of these rows, stacked."""
    items: list[Any] = [dataset[row] for row in rows]
    return tuple(torch.stack([item[name] for item in items]) for name in names)


def draw(
    datasets: Sequence[Dataset], count: int, names: Sequence[str], generator: torch.Generator
) -> tuple[Tensor, ...]:
    """`count` random samples, each data set equally likely whatever its size."""
    choice = torch.randint(len(datasets), (count,), generator=generator).tolist()
    # Fractions and not row numbers, as the sets differ in size.
    rows = torch.rand(count, generator=generator).tolist()
    parts = [columns(datasets[c], [int(r * len(datasets[c]))], names) for c, r in zip(choice, rows)]
    return tuple(torch.cat(column) for column in zip(*parts))


def train_autoencoder(
    datasets: Sequence[Dataset], options: FitOptions, report: Report
) -> LatentAutoencoder:
    """Train by L1 + L2 on pixels of normals and colours alike; then standardise the latents."""
    torch.manual_seed(options.seed)
    model = LatentAutoencoder()

    def pictures(samples: int, generator: torch.Generator) -> Tensor:
        both = torch.cat(draw(datasets, samples, ("normals", "colours"), generator), dim=1).flatten(
            0, 1
        )
        # 12 rows of a sample are alike; 4 of them from three times as many samples are worth more.
        return both[torch.randperm(len(both), generator=generator)[: 4 * samples]]

    def loss_of(generator: torch.Generator) -> Tensor:
        images = pictures(options.batch // 4, generator)
        error = model(images).float() - images
        return error.abs().mean() + error.square().mean()

    fit(model, loss_of, options, report)
    sample = pictures(256, torch.Generator().manual_seed(options.seed + 1))
    with torch.no_grad():
        # Diffusion assumes latents of unit variance.
        model.standardise(model.encode(sample))
    return model


@torch.no_grad()
def autoencoder_psnr(model: LatentAutoencoder, dataset: Dataset) -> dict[str, float]:
    """Peak signal-to-noise ratio in dB on the first 64 samples, for normals and for colours."""
    values = {}
    for name in ("normals", "colours"):
        (images,) = columns(dataset, range(min(64, len(dataset))), (name,))
        error = (model(images.flatten(0, 1)).clamp(0, 1) - images.flatten(0, 1)).square().mean()
        values[name] = -10 * math.log10(error.item())
    return values


@dataclass(frozen=True)
class Encoded:
    """A data set as latents `(n, 12, c, h, w)` (float16, to save memory) and projected joints `(n,
    6, 23, 2)`."""

    latents: Tensor
    joints2d: Tensor

    def __len__(self) -> int:
        return len(self.latents)


@torch.no_grad()
def encode_dataset(autoencoder: LatentAutoencoder | KLAutoencoder, dataset: Dataset) -> Encoded:
    """Encode the six-view targets of all samples."""
    latents, joints = [], []
    for start in range(0, len(dataset), 32):
        rows = range(start, min(start + 32, len(dataset)))
        normals, colours, joints2d = columns(dataset, rows, ("normals", "colours", "joints2d"))
        images = torch.cat([normals, colours], dim=1)
        # A sample at a time: a VAE at 768 px cannot take 32 of them.
        latents.append(torch.stack([autoencoder.encode(views) for views in images]).half())
        joints.append(joints2d)
    return Encoded(torch.cat(latents), torch.cat(joints))


def disturb(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Make clean latents `(b, 12, c, h, w)` resemble generated ones: noise of random strength, and
    blur on a third.

    An estimate of x0 made some steps before the end of sampling is an average of what the sample
    may become: blurred.
    """
    shape = (len(latents), 1, 1, 1, 1)
    # (12 b, c, h, w): rows are blurred one by one.
    blurred = F.avg_pool2d(
        F.pad(latents.flatten(0, 1), (1, 1, 1, 1), mode="replicate"), 3, stride=1
    )
    share = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.33)
    mixed = latents.lerp(blurred.view_as(latents), share)
    strength = NOISE * torch.rand(shape, generator=generator)
    return mixed + strength * torch.randn(latents.shape, generator=generator)


def train_skeleton(
    sets: Sequence[Encoded],
    options: FitOptions,
    report: Report,
    *,
    radius: float = 0.04,
) -> SkeletonNet:
    """Train g_skel on disturbed latents of the truth, with the loss that PoseScore uses.

    sets: diverse poses, pooled.
    """
    torch.manual_seed(options.seed)
    model = SkeletonNet(channels=sets[0].latents.shape[2])
    # Pooled: a set counts by its size.
    latents = torch.cat([s.latents for s in sets])
    joints2d = torch.cat([s.joints2d for s in sets])
    # g_skel's maps are twice as fine as the latents.
    size = 2 * latents.shape[-1]

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        maps = skeleton_maps(joints2d[rows], size, radius)
        logits = model(disturb(latents[rows].float(), generator)).float()
        return skeleton_loss(logits, maps, 1.0, 1.0, pyramid_distance).mean()

    fit(model, loss_of, options, report)
    return model


@torch.no_grad()
def skeleton_quality(model: SkeletonNet, data: Encoded, radius: float = 0.04) -> dict[str, float]:
    """PSNR (dB) and SSIM of the predicted maps, as DrPose reports for its network (22.48, 0.93).

    `overlay_*` compare the brightest of all channels per pixel, one skeleton picture per view,
    which is harder: most of a single joint's map is empty.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    psnr: dict[str, list[Tensor]] = {"": [], "overlay_": []}
    ssim: dict[str, list[Tensor]] = {"": [], "overlay_": []}
    for start in range(0, len(data), 32):
        predicted = model(data.latents[start : start + 32].float()).sigmoid().flatten(0, 1)
        truth = skeleton_maps(
            data.joints2d[start : start + 32], predicted.shape[-1], radius
        ).flatten(0, 1)
        # "": each joint's own map. "overlay_": one picture per view.
        pairs = {
            "": (predicted, truth),
            "overlay_": (predicted.amax(1, keepdim=True), truth.amax(1, keepdim=True)),
        }
        for name, (a, b) in pairs.items():
            psnr[name].append(
                peak_signal_noise_ratio(a, b, data_range=1.0, dim=(1, 2, 3), reduction="none")
            )
            ssim[name].append(
                torch.as_tensor(
                    structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
                )
            )
    return {
        **{f"{name}psnr": torch.cat(values).mean().item() for name, values in psnr.items()},
        **{f"{name}ssim": torch.cat(values).mean().item() for name, values in ssim.items()},
    }


def train_judge(
    sets: Sequence[Dataset], autoencoder: LatentAutoencoder, options: FitOptions, report: Report
) -> JudgeNet:
    """Train the judge on rendered normals, half of them through the autoencoder, with noise and
    blur."""
    torch.manual_seed(options.seed)
    model = JudgeNet()

    def loss_of(generator: torch.Generator) -> Tensor:
        names = ("normals", "joints", "joints2d", "labels")
        normals, joints, joints2d, labels = draw(sets, options.batch, names, generator)
        # Half of the batches; single samples would each need their own swap of views.
        if torch.rand((), generator=generator) < 0.5:
            normals, joints, joints2d, labels = reflect(normals, joints, joints2d, labels)
        found, places, parts = model(worsen(normals, autoencoder, generator))
        # Pelvis to pelvis, as the metric measures.
        flat = (found - found[:, :1] - joints + joints[:, :1]).norm(dim=-1).mean()
        in_views = (places - joints2d).norm(dim=-1).mean()
        segments = F.cross_entropy(
            parts.float().flatten(0, 1), labels.flatten(0, 1).long(), weight=part_weights()
        )
        # Metres and half picture widths are small numbers beside a cross-entropy.
        return 5 * flat + 5 * in_views + segments

    fit(model, loss_of, options, report)
    return model


def part_weights() -> Tensor:
    """Class weights: the background fills nine tenths of a picture and must not outvote the
    body."""
    weights = torch.ones(len(PARTS))
    weights[0] = 0.1
    return weights


@torch.no_grad()
def worsen(normals: Tensor, autoencoder: LatentAutoencoder, generator: torch.Generator) -> Tensor:
    """Make rendered normals `(b, 6, 3, s, s)` resemble generated ones."""
    images = normals.flatten(0, 1)
    if torch.rand((), generator=generator) < 0.5:
        # Errors of a generator are errors of latents: decoded, they are not white noise.
        latents = autoencoder.encode(images)
        strength = 0.3 * torch.rand((), generator=generator)
        images = autoencoder.decode(
            latents + strength * torch.randn(latents.shape, generator=generator)
        )
    if torch.rand((), generator=generator) < 0.3:
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = 0.08 * torch.rand((), generator=generator)
    return (
        (images + strength * torch.randn(images.shape, generator=generator))
        .clamp(0, 1)
        .view_as(normals)
    )


@torch.no_grad()
def judge_quality(model: JudgeNet, dataset: Dataset) -> dict[str, float]:
    """Mean error of the judge on the first 300 samples as rendered: what it would report for a
    perfect model."""
    count = min(300, len(dataset))
    sums: dict[str, list[Tensor]] = {"mpjpe_mm": [], "part_iou": [], "iou": []}
    for start in range(0, count, 32):
        rows = range(start, min(start + 32, count))
        normals, joints, labels = columns(dataset, rows, ("normals", "joints", "labels"))
        found, _, parts = model(normals)
        sums["mpjpe_mm"].append(mpjpe_mm(found, joints))
        sums["part_iou"].append(part_iou(parts.argmax(2), labels))
        # Of rendered normals with their own labels: the most that any model could reach.
        sums["iou"].append(silhouette_iou(normals, labels))
    return {name: torch.cat(values).mean().item() for name, values in sums.items()}
