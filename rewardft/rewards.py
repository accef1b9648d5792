"""Evaluating rewards: weights, names, gradients, and what happens when one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import RewardError
from rewardft.types import Batch, Rollout, Scores

OnError = Callable[[str, Exception, Rollout, Batch], None]


@dataclass(frozen=True)
class WeightedReward:
    """A reward with its name in the logs, its weight in the total and what to do when it fails."""

    name: str
    reward: Callable[[Rollout, Batch], Tensor]
    weight: float = 1.0
    on_error: str = "stop"


def evaluate_rewards(
    rewards: Sequence[WeightedReward],
    rollout: Rollout,
    batch: Batch,
    gradient: bool,
    audit: dict[str, Any] | None = None,
    on_error: OnError | None = None,
) -> Scores:
    """Scores `(b,)` of finished samples; with `gradient`, d(total_i)/d(x0_i) shaped as x0.

    Raises RewardError when a reward raises, returns inf or the wrong shape (unless its `on_error` is skip), or carries
    no gradient although one is asked for.
    """
    if not rewards:
        raise RewardError("the algorithm asks for scores, but the recipe lists no rewards")
    x0 = rollout.x0.detach().requires_grad_(True) if gradient else rollout.x0
    view = rollout.with_x0(x0)
    with torch.set_grad_enabled(gradient):
        by_name = {r.name: call_reward(r, view, batch, on_error) for r in rewards}
        total = sum_rewards(rewards, by_name)
    if audit is not None:
        record_audit(audit, view, by_name, x0 if gradient else None)
    if not gradient:
        return Scores(total, by_name)
    slope = differentiate(total, x0, by_name)
    rollout._decoded = view._decoded.detach() if isinstance(view._decoded, Tensor) else None
    return Scores(total.detach(), {n: v.detach() for n, v in by_name.items()}, slope)


def sum_rewards(rewards: Sequence[WeightedReward], by_name: dict[str, Tensor]) -> Tensor:
    """Weighted sum; a reward that does not apply to a sample (NaN) adds nothing to that sample."""
    terms = [r.weight * torch.where(by_name[r.name].isnan(), 0.0, by_name[r.name]) for r in rewards]
    return torch.stack(terms).sum(0)


def differentiate(total: Tensor, x0: Tensor, by_name: dict[str, Tensor]) -> Tensor:
    """d(total_i)/d(x0_i), shaped as x0; raises RewardError when no reward carries a gradient."""
    if not total.requires_grad:
        raise RewardError(
            f"no gradient reaches the samples from the rewards {', '.join(by_name)}: they detach their input or work "
            f"on numpy arrays. Use a differentiable reward, or an algorithm that does not need its gradient."
        )
    (slope,) = torch.autograd.grad(total.sum(), x0)
    return slope


def call_reward(reward: WeightedReward, rollout: Rollout, batch: Batch, on_error: OnError | None) -> Tensor:
    """One reward on one batch, checked. `on_error: skip` turns a failure into NaN, which is logged as such."""
    try:
        value = reward.reward(rollout, batch)
        check_value(reward.name, value, batch)
    except Exception as error:
        if reward.on_error == "skip":
            return torch.full((len(batch),), float("nan"), device=rollout.noise.device)
        if on_error is not None:
            on_error(reward.name, error, rollout, batch)
        raise
    return value


def check_value(name: str, value: Any, batch: Batch) -> None:
    """Raises RewardError unless the value is `(b,)` and has no inf."""
    if not isinstance(value, Tensor) or value.shape != (len(batch),):
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise RewardError(f"reward {name!r} must return one number per sample, shape ({len(batch)},); got {got}")
    bad = torch.isinf(value.detach())
    if bad.any():
        ids = [batch.ids[i] for i in bad.nonzero().flatten().tolist()]
        raise RewardError(
            f"reward {name!r} returned inf for the samples {', '.join(ids)}. A reward must be finite, or NaN where it "
            f"does not apply; `on_error: skip` beside it in the recipe leaves such batches out."
        )


def record_audit(audit: dict[str, Any], view: Rollout, by_name: dict[str, Tensor], x0: Tensor | None) -> None:
    """Facts for the start-up audit: pixel range, clamped fraction, and each reward's gradient norm at the samples."""
    pixels = view._decoded
    if isinstance(pixels, Tensor):
        flat = pixels.detach()
        audit["decoded_min"], audit["decoded_max"] = flat.min(), flat.max()
        audit["decoded_clamped"] = ((flat <= 0) | (flat >= 1)).float().mean()
    if x0 is None:
        return
    norms = audit.setdefault("reward_gradient_norm", {})
    for name, value in by_name.items():
        applicable = value[~value.isnan()]
        if len(applicable):  # else there is nothing to say about it
            norm, before = slope_norm(applicable, x0), norms.get(name)
            norms[name] = norm if norm is None or before is None else torch.maximum(norm, before)


def slope_norm(values: Tensor, x0: Tensor) -> Tensor | None:
    """Norm of d(sum of values)/d(x0); None when no gradient arrives there."""
    if not values.requires_grad:
        return None
    (slope,) = torch.autograd.grad(values.sum(), x0, retain_graph=True, allow_unused=True)
    return None if slope is None else slope.norm()
