"""`check_reward`: the contract of a reward, checked on samples of your choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.noise import Noise
from rewardft.types import Batch, Plan, Rollout, select_rows


@dataclass(frozen=True)
class RewardReport:
    """What was found: value range, fraction not applicable,
    error of the gradient against finite differences."""

    low: float
    high: float
    not_applicable: float
    gradient_error: float | None


def make_rollout(x0: Any, batch: Batch, decode: Callable[[Any], Any] | None = None) -> Rollout:
    """A finished rollout around samples x0 `(b, ...)`, as rewards and metrics see it."""
    noise = Noise(0, batch.ids, batch.epochs)
    return Rollout(
        cond=None, noise=noise, plan=Plan(stop=0), x0=x0, decoder=decode or (lambda x: x)
    )


def check_reward(
    reward: Callable[[Rollout, Batch], Tensor],
    x0: Tensor,
    batch: Batch,
    *,
    differentiable: bool,
    decode: Callable[[Any], Any] | None = None,
    tolerance: float = 1e-4,
    gradient_tolerance: float = 5e-2,
) -> RewardReport:
    """Raise AssertionError, with a sentence, for the first broken rule of
    `rewardft.contracts.protocols.Reward`.

    Checked: shape `(b,)`; finite or NaN; the same value whatever the order and size of the batch; a
        gradient at x0 if and only if `differentiable`; that gradient against central finite
        differences along a random direction; no gradient left on the reward's own weights; where
        there is `begin_scoring`: the same values as of a call, each batch's own while several are
        under way, and the same error.

    Args:
        x0: at least two samples `(b, ...)`.
        batch: their batch.
        decode: the model's decode, for rewards that read `rollout.decoded`; default: x0 is already
            decoded.
        tolerance: absolute and relative, for values.
        gradient_tolerance: relative error of the directional derivative.
    """
    assert len(batch) >= 2 and len(x0) == len(batch), (
        "check_reward needs at least two samples, one batch row each"
    )
    value = _evaluate(reward, x0, batch, decode)
    _check_value(value, len(batch))
    _check_invariance(reward, x0, batch, decode, value, tolerance)
    _check_begun(reward, x0, batch, decode, value, tolerance)
    error = _check_gradient(reward, x0, batch, decode, differentiable, gradient_tolerance)
    _check_weights(reward)
    known = value[~value.isnan()]
    low, high = (
        (float(known.min()), float(known.max())) if len(known) else (float("nan"), float("nan"))
    )
    return RewardReport(low, high, float(value.isnan().float().mean()), error)


def _evaluate(reward: Any, x0: Tensor, batch: Batch, decode: Any) -> Tensor:
    with torch.no_grad():
        return reward(make_rollout(x0, batch, decode), batch)


def _check_value(value: Any, count: int) -> None:
    assert isinstance(value, Tensor), f"a reward returns a tensor, got {type(value).__name__}"
    got = tuple(value.shape)
    assert got == (count,), f"a reward returns one number per sample, shape ({count},), got {got}"
    assert not value.isinf().any(), "a reward is finite, or NaN where it does not apply; got inf"


def _check_invariance(
    reward: Any, x0: Tensor, batch: Batch, decode: Any, value: Tensor, tolerance: float
) -> None:
    backwards = _evaluate(reward, x0.flip(0), flipped(batch), decode).flip(0)
    _assert_close(backwards, value, tolerance, "the order of the batch changes the values")
    rows = [slice(i, i + 1) for i in range(len(batch))]
    # Finds rewards that average, rank or normalise over the batch.
    single = torch.cat([_evaluate(reward, x0[r], batch.select(r), decode) for r in rows])
    _assert_close(single, value, tolerance, "a sample's value depends on the batch it is in")


def flipped(batch: Batch) -> Batch:
    """The same samples in reversed order."""
    return Batch(batch.ids[::-1], batch.epochs[::-1], _flip(batch.columns))


def _flip(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.flip(0) if value.ndim else value
    if isinstance(value, dict):
        return {k: _flip(v) for k, v in value.items()}
    return select_rows(value, slice(None, None, -1))


def _assert_close(got: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    close = torch.allclose(got, expected, atol=tolerance, rtol=tolerance, equal_nan=True)
    assert close, f"{message}: {got.tolist()} instead of {expected.tolist()}"


def _check_begun(
    reward: Any, x0: Tensor, batch: Batch, decode: Any, value: Tensor, tolerance: float
) -> None:
    if not hasattr(reward, "begin_scoring"):
        return
    alone = _begin(reward, x0, batch, decode).result()
    _check_value(alone, len(batch))
    _assert_close(alone, value, tolerance, "begin_scoring gives other values than a call")
    one = _begin(reward, x0, batch, decode)
    other = _begin(reward, x0.flip(0), flipped(batch), decode)
    # The later one first: answers may come in any order.
    late, early = other.result().flip(0), one.result()
    for values in (early, late):
        _assert_close(
            values, value, tolerance, "two batches that are under way get other values than alone"
        )
    for pending in (one, other):
        pending.cancel()  # as an evaluation does at its end
    _check_begun_failure(reward, x0, batch)


@torch.no_grad()
def _begin(reward: Any, x0: Tensor, batch: Batch, decode: Any) -> Any:
    pending = reward.begin_scoring(make_rollout(x0, batch, decode), batch)
    lacks = [name for name in ("result", "cancel") if not callable(getattr(pending, name, None))]
    assert not lacks, (
        "begin_scoring returns what waits for the values, an object with result() and cancel(); "
        f"got {type(pending).__name__} without {' and '.join(lacks)}"
    )
    return pending


def _check_begun_failure(reward: Any, x0: Tensor, batch: Batch) -> None:
    """Samples that cannot be decoded: what a call raises comes from `begin_scoring` or from
    `result`."""

    def torn(x: Any) -> Any:
        raise ValueError("check_reward: samples that cannot be decoded")

    called = _failure(lambda: reward(make_rollout(x0, batch, torn), batch))
    begun = _failure(lambda: _begin(reward, x0, batch, torn).result())
    assert begun == called, (
        f"with samples that cannot be decoded, begin_scoring and result() raise {begun}, and a "
        f"call raises {called}"
    )


def _failure(call: Callable[[], Any]) -> str:
    try:
        with torch.no_grad():
            call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _check_gradient(
    reward: Any, x0: Tensor, batch: Batch, decode: Any, differentiable: bool, tolerance: float
) -> float | None:
    leaf = x0.detach().clone().requires_grad_(True)
    # NaN is "not applicable": such samples have no gradient to check.
    total = torch.nansum(reward(make_rollout(leaf, batch, decode), batch))
    # A tag that says less than is true would keep the reward from algorithms that it fits.
    if not differentiable:
        assert not total.requires_grad, (
            "the reward says that it is not differentiable, but a gradient reaches x0"
        )
        return None
    assert total.requires_grad, (
        "the reward says that it is differentiable, but no gradient reaches x0"
    )
    (slope,) = torch.autograd.grad(total, leaf)
    assert torch.isfinite(slope).all(), "the gradient has NaN or inf"
    assert slope.any(), (
        "the gradient is zero everywhere: there is nothing to learn from at these samples"
    )
    return _compare_with_finite_differences(reward, x0, batch, decode, slope, tolerance)


def _compare_with_finite_differences(
    reward: Any, x0: Tensor, batch: Batch, decode: Any, slope: Tensor, tolerance: float
) -> float:
    """Along the gradient itself, where the derivative is largest and rounding matters least."""
    # Of length 1, so that the directional derivative is the gradient's norm.
    direction = slope / slope.norm()
    expected, errors = float((slope * direction).sum()), []
    # Too long a step bends, too short a one rounds; which is which depends on the reward.
    for size in (1e-1, 1e-2, 1e-3):
        step = size * direction * max(1.0, float(x0.norm()) / x0.numel() ** 0.5)
        scale = float(step.norm())
        up, down = (torch.nansum(_evaluate(reward, x0 + s * step, batch, decode)) for s in (1, -1))
        # Central differences: their error falls with the square of the step.
        errors.append(abs(float(up - down) / (2 * scale) - expected) / max(abs(expected), 1e-12))
    # The best of the three: a reward that is differentiable agrees at one scale at least.
    error = min(errors)
    assert error < tolerance, (
        f"the gradient differs from finite differences by {error:.1%} along its own direction"
    )
    return error


def _check_weights(reward: Any) -> None:
    for name, parameter in reward.named_parameters() if isinstance(reward, nn.Module) else ():
        # A reward's own backward pass would add to weights that an optimizer may hold.
        assert parameter.grad is None, (
            f"evaluating the reward left a gradient on its own weight {name}"
        )
