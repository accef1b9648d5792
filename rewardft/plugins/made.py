"""What a factory makes must be of its kind. Found when it is built: a method that is missing would
otherwise show far from its cause, after minutes of loading or of training."""

from __future__ import annotations

import inspect
from typing import Any

from rewardft.errors import ComponentError, RewardftError
from rewardft.plugins.entries import SINGULAR, Entry

# By `rewardft.contracts.protocols`. Metrics are checked when they are used, by their signatures.
MEMBERS = {
    "models": ("trainable", "encode", "decode"),
    "samplers": ("steps", "setup", "rollout", "replay"),
    "algorithms": ("losses",),
    "datasets": ("__len__", "__getitem__"),
    "rewards": ("__call__",),
    "regularizers": ("__call__",),
    "launchers": ("launch",),
}


def check_made(entry: Entry, made: Any) -> None:
    """Raises ComponentError for an object without what its kind must have, or with a property that
    raises."""
    wanted = MEMBERS.get(entry.kind, ())
    missing = [name for name in wanted if not has(entry, made, name)]
    if not missing:
        return
    what = "nothing (None)" if made is None else with_article(type(made).__name__)
    cure = " Is its `return` missing?" if made is None else ""
    raise ComponentError(
        f"{entry.title} (plugin {entry.plugin!r}, {entry.location}): its factory gave {what} "
        f"without {listed(missing)}; {with_article(SINGULAR[entry.kind])} has "
        f"{listed(wanted)}.{cure}"
    )


def has(entry: Entry, made: Any, name: str) -> bool:
    """Whether it has the member. `hasattr` would take a property for missing that raises an
    AttributeError of its own; here that is a ComponentError, as any other error in it."""
    try:
        getattr(made, name)
    except RewardftError:
        raise
    except Exception as error:
        missing = inspect.getattr_static(made, name, None) is None
        if missing and isinstance(error, AttributeError):
            return False
        raise ComponentError(
            f"{entry.title} (plugin {entry.plugin!r}, {entry.location}): its `{name}` raised "
            f"{type(error).__name__}: {error}"
        ) from error
    return True


def with_article(noun: str) -> str:
    """`a model`, `an algorithm`."""
    return f"an {noun}" if noun[0].lower() in "aeiou" else f"a {noun}"


def listed(names: Any) -> str:
    """`a`, `b` and `c`."""
    *most, last = (f"`{name}`" for name in names)
    return f"{', '.join(most)} and {last}" if most else last
