"""What is held out of a source without splits of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rewardft.errors import DataError
from rewardft.noise import keyed_seed

Item = dict[str, Any]


def choose_split(
    items: list[Item], key: str, split: str, held_out: int, source: Path, noun: str
) -> list[Item]:
    """The items of `train` or `val`; items that are equal in `key` are on the same side.

    held_out: how many different values of `key` make up `val`, chosen by a hash of the value.
    source, noun: for messages, such as "prompts".

    Raises DataError for another split, and for one that would be empty.
    """
    if split not in ("train", "val"):
        raise DataError(f"{source}: expected `split: train` or `split: val`, got {split!r}")
    # A set first: what occurs twice must not be trained on and judged by.
    values = sorted({item[key] for item in items}, key=lambda value: keyed_seed("held out", value))
    if held_out >= len(values):
        raise DataError(f"{source}: cannot hold out {held_out} of {len(values)} different {noun}")
    if split == "val" and not held_out:
        raise DataError(f"{source}: `split: val` is empty; `held_out` says how many {noun} it gets")
    kept_apart = set(values[:held_out])
    return [item for item in items if (item[key] in kept_apart) == (split == "val")]


def check_counts(component: str, held_out: int, limit: int | None) -> None:
    """Raises DataError for numbers of items that cannot be."""
    if held_out < 0 or (limit is not None and limit < 1):
        raise DataError(
            f"{component}: expected held_out >= 0 and limit >= 1, got {held_out} and {limit}"
        )
