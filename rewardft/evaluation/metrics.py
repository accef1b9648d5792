"""Metrics at work: what they are shown, what they must leave alone, and what they may give."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.policy.finite import watched
from rewardft.policy.rewards import place_of
from rewardft.policy.untouched import described, kind_of
from rewardft.types import Batch, Rollout

# What the methods of a metric are called with.
METHODS = {"reset": (), "update": ("rollout", "batch"), "compute": ()}


def reset_metrics(metrics: Mapping[str, Any]) -> None:
    """Begin an evaluation: metrics live as long as the session, and hold what the last one gave
    them. Raises ComponentError for what is no metric."""
    for name, metric in metrics.items():
        check_methods(name, metric)
        with at_work(name, metric):
            metric.reset()


def update_metrics(metrics: Mapping[str, Any], rollout: Rollout, batch: Batch) -> None:
    """Show finished samples to the metrics. Raises NonFiniteError for samples or pictures that are
    not finite, ComponentError for a metric that changes what is not its own."""
    view, untouched = watched(rollout, batch)
    for name, metric in metrics.items():
        with at_work(name, metric):
            metric.update(view, batch)
        # After each of them: after the last one it would be unknown which of them did it.
        untouched.check(titled(name, metric), ComponentError)
    # Decoding is dear: what the metrics saw is kept for observers.
    rollout._decoded = view._decoded


def computed(
    name: str, metric: Any, ids: Sequence[str], per_item: int
) -> dict[str, Tensor | float]:
    """What a metric gives, by the names of its values: tensors `(n,)` of items or `(n * per_item,)`
    of samples, in float64, and numbers of the whole set. NaN: does not apply.

    ids: of the items, n. Raises ComponentError, with the place of the metric, for anything else.
    """
    with at_work(name, metric):
        values = metric.compute()
    title = titled(name, metric)
    if not isinstance(values, Mapping):
        raise ComponentError(
            f"{title}: compute() must return a mapping from names to values, such as "
            f"{{'score': values}}; got {described(values)}."
        )
    for key in values:
        if not isinstance(key, str) or not key.strip() or not key.isprintable():
            raise ComponentError(
                f"{title}: compute() names a value {key!r:.60}; a name is printable text."
            )
    return {
        key: checked_value(f"{title}: the value {key!r}", value, ids, per_item)
        for key, value in values.items()
    }


def checked_value(what: str, value: Any, ids: Sequence[str], per_item: int) -> Tensor | float:
    """One value, if a metric may give it. Raises ComponentError, which begins with `what`."""
    wanted = f"one finite number, or a tensor of one per sample, shape ({len(ids) * per_item},)"
    if per_item > 1:
        wanted += f", or per item, shape ({len(ids)},)"
    if not isinstance(value, (Tensor, Real)):
        raise ComponentError(f"{what} must be {wanted}; got {described(value)}.")
    if isinstance(value, Tensor):
        odd = kind_of(value)
        if odd is not None:
            raise ComponentError(f"{what} must be {wanted}; got {odd}.")
        if value.ndim and value.shape not in ((len(ids),), (len(ids) * per_item,)):
            surplus = value.numel() in (len(ids), len(ids) * per_item)
            hint = " Its surplus dimensions go away with value.flatten()." if surplus else ""
            raise ComponentError(f"{what} must be {wanted}; got {described(value)}.{hint}")
    numbers = as_numbers(value)
    infinite = numbers.isinf()
    if bool(infinite.any()):
        # Of the items, whatever the value is of.
        rows = infinite.reshape(len(ids), -1).any(1).tolist() if numbers.ndim else []
        at = " for " + ", ".join(id_ for id_, bad in zip(ids, rows) if bad) if rows else ""
        raise ComponentError(
            f"{what} is infinite{at}; a value is finite, or NaN where it does not apply."
        )
    return numbers if numbers.ndim else float(numbers)


def as_numbers(value: Any) -> Tensor:
    """A tensor or a number in float64, on the CPU; infinite where it is larger than that holds."""
    if isinstance(value, Tensor):
        # On the CPU first: some devices have no float64.
        return value.detach().cpu().double()
    try:
        return torch.tensor(float(value), dtype=torch.float64)
    except OverflowError:
        return torch.tensor(math.inf)


def direction(name: str, metric: Any, key: str) -> bool | None:
    """Whether higher is better of a value, None where neither direction is; from the metric's
    `higher_is_better`, for all of its values or by their names."""
    declared = getattr(metric, "higher_is_better", None)
    found = declared.get(key) if isinstance(declared, Mapping) else declared
    if found is None or isinstance(found, bool):
        return found
    raise ComponentError(
        f"{titled(name, metric)}: higher_is_better must be True, False or None, or a mapping of "
        f"these by the names of values; got {described(found)}."
    )


def check_methods(name: str, metric: Any) -> None:
    """Raises ComponentError for an object that cannot be called as a metric is."""
    for method, arguments in METHODS.items():
        call, function = f"{method}({', '.join(arguments)})", getattr(metric, method, None)
        if not callable(function):
            raise ComponentError(
                f"{titled(name, metric)} has no method {call}; a metric has reset(), "
                "update(rollout, batch) and compute()."
            )
        try:
            inspect.signature(function).bind(*arguments)
        except TypeError as error:
            raise ComponentError(
                f"{titled(name, metric)}: {method} is called as {call}, and its own parameters "
                f"differ: {error}."
            ) from None
        except ValueError:  # compiled code, which does not say what it takes
            continue


@contextmanager
def at_work(name: str, metric: Any) -> Iterator[None]:
    """An error from inside says which metric it is of, and where that is made."""
    try:
        yield
    except Exception as error:
        error.add_note(f"raised in {titled(name, metric)}")
        raise


def titled(name: str, metric: Any) -> str:
    """'metric 'name' (file:line)'."""
    place = place_of(metric)
    return f"metric {name!r} ({place})" if place else f"metric {name!r}"
