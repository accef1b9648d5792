"""What models and samplers answer, checked where the core takes it: a wrong shape or type would
otherwise be an error of torch's, far from the plugin that made it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.policy.untouched import described
from rewardft.types import Rollout, Transition


def check_trainable(model: Any) -> None:
    """Raises ComponentError for a model that has nothing to train."""
    found = model.trainable
    if not isinstance(found, nn.Module):
        raise ComponentError(
            f"{titled(model)}: `trainable` must be a torch module, which holds the weights to "
            f"train; got {described(found)}."
        )
    if next(found.parameters(), None) is None:
        raise ComponentError(
            f"{titled(model)}: `trainable` is a {type(found).__name__} without parameters: there "
            "is nothing to train."
        )


def check_output(model: Any, x: Tensor, output: Any) -> None:
    """Raises ComponentError for a prediction that is unlike the states that it is made at."""
    if not isinstance(output, Tensor) or output.shape != x.shape:
        raise ComponentError(
            f"{titled(model)}: denoise(x, t, cond) must return a tensor of the shape of x, "
            f"{tuple(x.shape)}; got {described(output)}."
        )


def check_decoded(decoded: Any, count: int) -> None:
    """Raises ComponentError for decoded samples that are not one for each sample."""
    if isinstance(decoded, Tensor) and (decoded.ndim == 0 or len(decoded) != count):
        raise ComponentError(
            f"the model's decode(x0) must keep the samples in the first dimension, {count} of "
            f"them; got {described(decoded)}."
        )


def check_rollout(sampler: Any, found: Any) -> None:
    """Raises ComponentError for what is no rollout, or one whose densities are not one for each
    sample."""
    if not isinstance(found, Rollout):
        raise ComponentError(
            f"{titled(sampler)}: rollout(model, cond, plan, noise) must return a "
            f"rewardft.types.Rollout; got {described(found)}."
        )
    for k, density in found.log_probs.items():
        check_log_prob(sampler, f"log_probs[{k}] of its rollout", density, len(found.noise))


def check_transition(sampler: Any, found: Any, count: int) -> None:
    """Raises ComponentError for what is no visited step of `count` samples."""
    if not isinstance(found, Transition):
        raise ComponentError(
            f"{titled(sampler)}: replay(model, rollout, k, input_gradient=...) must return a "
            f"rewardft.types.Transition; got {described(found)}."
        )
    if found.log_prob is not None:
        check_log_prob(sampler, "log_prob of its replayed step", found.log_prob, count)


def check_log_prob(sampler: Any, what: str, density: Any, count: int) -> None:
    """Raises ComponentError for densities of another shape: `(b, 1)` times advantages `(b,)` is
    `(b, b)`, and trains on wrong sums."""
    if not isinstance(density, Tensor) or density.shape != (count,):
        raise ComponentError(
            f"{titled(sampler)}: {what} must be one number per sample, shape ({count},); got "
            f"{described(density)}. It is the mean over a sample's dimensions, such as "
            "log_density.flatten(1).mean(1)."
        )


def titled(component: Any) -> str:
    """The class of a component, by which its author knows it."""
    kind = type(component)
    return f"{kind.__module__}.{kind.__qualname__}"
