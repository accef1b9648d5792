"""Calls of blocks with gradients, and calls that end where what was wanted is known.

Blocks are decorated with `torch.no_grad`; `functools.wraps` keeps the bare function, which is what
gradients need.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rewardft.errors import ComponentError


class LoopReached(Exception):
    """Ends a run of blocks where what was wanted is known."""


def with_gradient(block: Any) -> Callable[..., Any]:
    """A block's call without the `no_grad` around it."""
    call = type(block).__call__
    return functools.partial(getattr(call, "__wrapped__", call), block)


def catch(owner: Any, name: str, run: Callable[[], Any]) -> tuple[Any, ...]:
    """The arguments of the first call of `owner.name` while `run()` runs, which ends there."""
    caught: list[tuple[Any, ...]] = []

    def stop(*arguments: Any, **_: Any) -> None:
        caught.append(arguments)
        raise LoopReached

    setattr(owner, name, stop)  # on the instance; the class keeps its own
    try:
        run()
    except LoopReached:
        return caught[0]
    finally:
        delattr(owner, name)
    raise ComponentError(f"{type(owner).__name__} ended without a call of `{name}`")
