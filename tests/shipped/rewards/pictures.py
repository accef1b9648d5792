"""Synthetic pictures and batches for the tests of rewards."""

import torch

from rewardft import Batch


def batch_of(count, **columns):
    return Batch(ids=tuple(f"s{i}" for i in range(count)), epochs=(0,) * count, columns=columns)


def noise_pictures(count, height, width):
    """Independent uniform pixels."""
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def smooth_pictures(count, height=64, width=64, seed=0):
    """Waves and noise of varying strength: from nearly flat to nearly incompressible."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    pictures = []
    for _ in range(count):
        frequency, phase = (
            12 * torch.rand(3, 2, generator=generator),
            6.3 * torch.rand(3, generator=generator),
        )
        wave = torch.sin(
            6.3 * (frequency[:, :1, None] * rows + frequency[:, 1:, None] * columns)
            + phase[:, None, None]
        )
        contrast, grain = (
            0.5 * torch.rand((), generator=generator),
            0.4 * torch.rand((), generator=generator) ** 2,
        )
        pictures.append(
            0.5 + contrast * wave + grain * torch.randn(3, height, width, generator=generator)
        )
    return torch.stack(pictures).clamp(0, 1)
