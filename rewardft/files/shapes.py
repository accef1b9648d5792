"""Networks without weights: what planning builds in the place of those that would be loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ACTIVE: ContextVar[bool] = ContextVar("shapes_only", default=False)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Inside, loaders that ask `is_shapes_only` build networks on torch's meta device, from their
    configuration alone."""
    token = _ACTIVE.set(True)
    try:
        yield
    finally:
        _ACTIVE.reset(token)


def is_shapes_only() -> bool:
    """Whether a network is wanted for the shapes of its weights alone."""
    return _ACTIVE.get()
