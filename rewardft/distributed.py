"""Several processes: what must agree, agrees by construction; gradients are averaged once per optimizer step.

Algorithms run many small backward passes per step, so the gradients are summed locally and exchanged once, after the
last one. Every process draws its own slice of one global batch, and noise belongs to samples, so n processes with
batch b compute what one process computes with batch n * b.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def average_gradients(accelerator: Any, parameters: Sequence[nn.Parameter], accumulated: int) -> None:
    """Divide by the number of accumulated batches and average over processes, in one flat exchange."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if accumulated > 1:
        torch._foreach_mul_(gradients, 1.0 / accumulated)
    if accelerator.num_processes == 1 or not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    flat = accelerator.reduce(flat, reduction="mean")
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(part.view_as(gradient))


def average_metrics(accelerator: Any, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Means over processes; all processes log the same names."""
    if accelerator.num_processes == 1 or not metrics:
        return metrics
    names = sorted(metrics)
    flat = accelerator.reduce(torch.stack([metrics[n].float() for n in names]), reduction="mean")
    return dict(zip(names, flat.unbind()))
