"""Evaluating rewards: weights, names, gradients, and what happens when one fails."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import NonFiniteError, RewardError
from rewardft.policy.begun import Begun, begin
from rewardft.policy.facts import RewardFacts
from rewardft.policy.finite import absent_as_nan, bad_slopes, ids_at, is_surely_finite
from rewardft.policy.reward_gradients import Combine, combined, slope_of_each
from rewardft.policy.reward_values import check_device, check_value
from rewardft.policy.weighted_reward import WeightedReward, only_one
from rewardft.types import Batch, Rollout, Scores

OnError = Callable[[str, Exception, Rollout, Batch], None]


def evaluate_rewards(
    rewards: Sequence[WeightedReward],
    rollout: Rollout,
    batch: Batch,
    gradient: bool,
    facts: RewardFacts | None = None,
    on_error: OnError | None = None,
    combine: Combine = "sum",
    begun: Begun | None = None,
) -> Scores:
    """Scores `(b,)` of finished samples; with `gradient`, d(total_i)/d(x0_i) shaped as x0.

    combine: what becomes of the gradients of several rewards, see `reward_gradients`.
    begun: the same batch, where its scoring has begun (without a gradient).
    Raises RewardError when a reward raises, returns inf or the wrong shape (unless its `on_error`
    is skip), carries no gradient although one is asked for, or has one that is not finite;
    NonFiniteError when it is the samples, the decoder or its gradient that is not.
    """
    if not rewards:
        raise RewardError("the algorithm asks for scores, but the recipe lists no rewards")
    first = facts is not None and facts.is_open
    begun = begin(rewards, rollout, batch, gradient, first) if begun is None else begun
    x0, view = begun.x0, begun.view
    skipped: dict[str, Exception] = {}
    with torch.set_grad_enabled(gradient):
        by_name = call_all(rewards, begun, batch, on_error, skipped)
        # The sum of several rewards is differentiated once, not each of them.
        total = sum_rewards(rewards, by_name)
    only = only_one(rewards) if combine == "sum" else None
    # `total` is 0 where nothing applies; `present` tells these samples from a true 0.
    present = absent_as_nan(total.detach(), by_name, {r.name: r.weight for r in rewards})
    if facts is not None and first:
        errors = {name: describe(error) for name, error in skipped.items()}
        # The gradient of a single one is that of the total, which comes next.
        facts.note_batch(
            rewards, view, batch, by_name, errors, x0 if gradient and not only else None
        )
    if not gradient:
        return Scores(total, by_name, skipped=skipped, present=present)
    slopes = {} if combine == "sum" else slope_of_each(rewards, by_name, x0)
    slope = combined(rewards, slopes, combine) if slopes else slope_of(total, x0, rewards, by_name)
    # Which reward it was is only worth finding out in the bad case: it takes one more pass each.
    if not (is_surely_finite(slope) or torch.isfinite(slope).all()):
        trace_slope(rewards, rollout, batch, on_error)
    if facts is not None and first and only:
        facts.note_total(only, by_name[only.name], slope)
    # Decoding is dear: what the rewards saw is kept for observers, without its graph.
    rollout._decoded = detached(view._decoded)
    values = {name: value.detach() for name, value in by_name.items()}
    return Scores(total.detach(), values, slope, skipped, present, slopes)


def warn_of_skips(scores: Scores, warned: set[str]) -> None:
    """Once per reward: a run must not lose one silently. warned: those that it was said of."""
    for name, error in scores.skipped.items():
        # One warning a reward: a server that is down would fill the log with thousands.
        if name not in warned:
            warned.add(name)
            warnings.warn(
                f"reward {name!r} failed and is skipped for this batch (`on_error: skip`): "
                f"{describe(error)}. Later failures are counted in `skipped/{name}` alone.",
                stacklevel=3,
            )


def detached(decoded: Any) -> Any:
    """Decoded samples without their graph; None, so that they are decoded again, for other than
    tensors and mappings of them."""
    if isinstance(decoded, Tensor):
        return decoded.detach()
    if isinstance(decoded, Mapping) and all(isinstance(v, Tensor) for v in decoded.values()):
        return {name: value.detach() for name, value in decoded.items()}
    return None


def sum_rewards(rewards: Sequence[WeightedReward], by_name: dict[str, Tensor]) -> Tensor:
    """Weighted sum; a reward that does not apply to a sample (NaN) adds nothing to that sample."""
    terms = [r.weight * torch.where(by_name[r.name].isnan(), 0.0, by_name[r.name]) for r in rewards]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)


def slope_of(
    total: Tensor, x0: Tensor, rewards: Sequence[WeightedReward], by_name: dict[str, Tensor]
) -> Tensor:
    """d(total_i)/d(x0_i), shaped as x0; zero where no reward applies to any sample.

    Raises RewardError when rewards apply and none of them carries a gradient.
    """
    slope = (
        # Samples do not mix, so the gradient of the sum holds each sample's own.
        torch.autograd.grad(total.sum(), x0, allow_unused=True)[0] if total.requires_grad else None
    )
    if slope is not None:
        return slope
    cut = [r for r in rewards if not by_name[r.name].isnan().all()]
    # Rewards that apply to nothing have no gradient by right; only the others are reported.
    if not cut:  # skipped, or not applicable to this batch
        return torch.zeros_like(x0)
    names = " and ".join(f"{r.name!r} ({place_of(r.reward) or 'no source'})" for r in cut)
    raise RewardError(
        f"no gradient reaches the samples from reward {names}. Keep to torch functions of "
        "rollout.decoded or rollout.x0, without detach, numpy or float; or take an algorithm that "
        "needs no gradient (docs/which-algorithm.md has a table)."
    )


def trace_slope(
    rewards: Sequence[WeightedReward], rollout: Rollout, batch: Batch, on_error: OnError | None
) -> None:
    """Say whose gradient it is that is not finite: each reward is evaluated once more, alone, to
    tell it from the others and from the decoder."""
    # Weight 0 keeps a reward out of the total, so its gradient is in no slope.
    for reward in (r for r in rewards if r.weight != 0):
        value, at_samples, own = bad_slopes(reward.reward, rollout, batch)
        if not at_samples.any():
            continue
        if not own.any():
            raise NonFiniteError(
                f"the decoder's gradient is NaN or infinite at the samples "
                f"{ids_at(batch, at_samples)}, where that of reward {reward.name!r} is finite. "
                "Decode in float32."
            )
        error = RewardError(describe_slope(reward.name, value, own, batch))
        report_failure(on_error, reward, error, rollout, batch)
        raise error


def describe_slope(name: str, value: Tensor, bad: Tensor, batch: Batch) -> str:
    """What is wrong with a gradient that is not finite at the samples `bad`."""
    masked = bad & value.isnan()
    if masked.any():
        return (
            f"reward {name!r} is NaN (not applicable) for the samples "
            f"{ids_at(batch, masked)}, and so is its gradient there: the NaN comes out of "
            "arithmetic such as 0 / 0, whose slope is NaN whatever hides the value. Select "
            "before dividing (torch.where on the operands), or return NaN through masking "
            "(torch.where(applies, value, nan) of a finite value)."
        )
    values = ", ".join(f"{v:.4g}" for v in value[bad].tolist())
    return (
        f"reward {name!r} has a NaN or infinite gradient at the samples {ids_at(batch, bad)}, "
        f"where its value is {values}. Look in it for a root, logarithm, norm or division at 0, "
        "and keep its operand away from 0, such as by (x + 1e-6).sqrt()."
    )


def call_all(
    rewards: Sequence[WeightedReward],
    begun: Begun,
    batch: Batch,
    on_error: OnError | None,
    skipped: dict[str, Exception],
) -> dict[str, Tensor]:
    """What each reward says, in the order of the recipe; nothing is left running."""
    try:
        return {r.name: call_reward(r, begun, batch, on_error, skipped) for r in rewards}
    finally:
        begun.cancel()


def call_reward(
    reward: WeightedReward,
    begun: Begun,
    batch: Batch,
    on_error: OnError | None,
    skipped: dict[str, Exception],
) -> Tensor:
    """One reward on one batch, checked. `on_error: skip` turns a failure into NaN and notes it in
    `skipped`; what is guarded it may not change even so."""
    value = called(reward, begun, batch, on_error, skipped)
    try:
        # After each reward: after the last one it would be unknown which of them did it.
        begun.guard.check(f"reward {reward.name!r}")
    except RewardError as error:
        report_failure(on_error, reward, error, begun.view, batch)
        raise
    return value


def called(
    reward: WeightedReward,
    begun: Begun,
    batch: Batch,
    on_error: OnError | None,
    skipped: dict[str, Exception],
) -> Tensor:
    """What a reward returns, if it may, or NaN for one that fails and is skipped."""
    rollout, pending = begun.view, begun.pending.get(reward.name)
    try:
        value = reward.reward(rollout, batch) if pending is None else pending.result()
        # Inside the `try`: a wrong shape is a failure as much as an exception is.
        check_value(reward.name, value, batch)
        check_device(reward.name, value, rollout.noise.device)
    except NonFiniteError:  # no fault of the reward
        raise
    except Exception as error:
        if reward.on_error == "skip":
            # Its frames would keep the batch in memory.
            skipped[reward.name] = error.with_traceback(None)
            # NaN is "not applicable": a zero would be a reward, and the policy would learn from it.
            return torch.full((len(batch),), float("nan"), device=rollout.noise.device)
        report_failure(on_error, reward, error, rollout, batch)
        raise
    return value


def report_failure(
    on_error: OnError | None,
    reward: WeightedReward,
    error: Exception,
    rollout: Rollout,
    batch: Batch,
) -> None:
    """Note on a reward's error where the reward is defined, and report it.

    A handler that fails itself is noted too and never replaces the error; without one, the samples
    are named.
    """
    name = reward.name
    try:
        if on_error is None:
            error.add_note(f"reward {name!r} failed on the samples {', '.join(batch.ids)}")
        else:
            on_error(name, error, rollout, batch)
    except Exception as second:
        error.add_note(
            f"the samples that reward {name!r} failed on could not be written: {describe(second)}"
        )
    if place := place_of(reward.reward):
        error.add_note(f"reward {name!r} is made at {place}")


def place_of(reward: Any) -> str:
    """'file:line' of a function or of a class; '' where Python does not know."""
    while isinstance(reward, functools.partial):
        reward = reward.func
    # An instance has no source of its own; its class has.
    made = reward if inspect.isroutine(reward) else type(reward)
    try:
        return f"{inspect.getsourcefile(made)}:{inspect.getsourcelines(made)[1]}"
    except (OSError, TypeError):
        return ""


def describe(error: Exception) -> str:
    """'ValueError: what it says'."""
    return f"{type(error).__name__}: {error}"
