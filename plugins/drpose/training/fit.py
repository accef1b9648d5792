"""The training loop of the plugin's own networks: one thread, a schedule by steps or by minutes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rewardft_plugins.drpose.training.muon import Muon
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Report = Callable[[str], None]


@dataclass(frozen=True)
class FitOptions:
    """How long and how fast to train.

    minutes: the schedule ends after this time if not after `steps` (0: no limit).
    keep_every: steps from one call of `keep` to the next.
    average: decay of a moving average of the weights, which is what is kept (0: the last weights).
    muon: learning rate of `Muon` on the kernels and matrices of the layers; 0: AdamW for all.
    """

    steps: int = 1500
    batch: int = 32
    lr: float = 1e-3
    seed: int = 0
    weight_decay: float = 1e-4
    bf16: bool = True
    minutes: float = 0.0
    log_every: int = 100
    keep_every: int = 500
    average: float = 0.0
    muon: float = 0.0


def fit(
    model: nn.Module,
    loss_of: Callable[[torch.Generator], Tensor],
    options: FitOptions,
    report: Report,
    keep: Callable[[nn.Module], None] | None = None,
) -> None:
    """AdamW, or Muon and AdamW, with a linear warm-up and a cosine to zero over steps, or over
    minutes when these run out first.

    `loss_of(generator)` draws a batch and returns its loss; it is called under bfloat16 autocast
    when asked for. `keep` gets the model, averaged where that was asked for, every `keep_every`
    steps.
    """
    optimizers = _optimizers(model, options)
    average = AveragedModel(model, multi_avg_fn=_warm_average(options.average))
    generator = torch.Generator().manual_seed(options.seed)
    start, running, step = time.monotonic(), 0.0, 0
    model.train()
    while (progress := _progress(step, time.monotonic() - start, options)) < 1:
        # 50 steps of warm-up, for moments that start at zero.
        share = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * progress))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            loss = loss_of(generator)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, lr in optimizers:
            optimizer.param_groups[0]["lr"] = lr * share
            optimizer.step()
        model.zero_grad(set_to_none=True)
        if options.average:
            average.update_parameters(model)
        running += loss.item()
        step += 1
        if step % options.log_every == 0:
            speed = step / (time.monotonic() - start)
            report(f"step {step}  loss {running / options.log_every:.4f}  {speed:.1f} steps/s")
            running = 0.0
        if keep is not None and step % options.keep_every == 0:
            keep(average.module if options.average else model)
    if options.average:
        model.load_state_dict(average.module.state_dict())
    model.eval()


def _optimizers(model: nn.Module, options: FitOptions) -> list[tuple[torch.optim.Optimizer, float]]:
    """Optimizers with their peak learning rates: one for all weights, or Muon for the layers'."""
    matrices: dict[Any, None] = {}  # a set that keeps the order of the layers
    if options.muon:
        layers = (m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
        # Biases, norms and free parameters are not matrices, and stay with AdamW.
        matrices = {m.weight: None for m in layers if m.weight.requires_grad}
    rest = [p for p in model.parameters() if p.requires_grad and p not in matrices]
    adamw = torch.optim.AdamW(rest, options.lr, weight_decay=options.weight_decay)
    muon = [(Muon(list(matrices), options.muon), options.muon)] if matrices else []
    return [(adamw, options.lr), *muon]


def _warm_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """A moving average that forgets its first values sooner: its decay is at most
    (1 + n) / (10 + n)."""

    def update(averages: Any, current: Any, count: Any) -> None:
        now = min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(list(averages), list(current), 1 - now)

    return update


def _progress(step: int, seconds: float, options: FitOptions) -> float:
    timed = seconds / (60 * options.minutes) if options.minutes else 0.0
    return max(step / options.steps, timed)
