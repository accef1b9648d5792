"""SRPO: a direct reward at any step of the chain, and rewards as the difference between two
wordings of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.srpo.srpo import SRPO

    return {"srpo": SRPO}
