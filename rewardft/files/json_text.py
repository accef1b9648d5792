"""JSON as the standard has it, with null for NaN; what is read is checked."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")  # as JSON writes one; two of them make a letter


def parse(text: str) -> Any:
    """The value of JSON that anybody may have written. Raises ValueError, also for text that no
    file could hold: `"\\ud800"` is half of a letter; and for a key that is there twice, one of
    which would be lost."""
    value = json.loads(text, object_pairs_hook=_without_twins)
    # Written once more only where there may be something to find: files of poses are large.
    if SURROGATE.search(text) and not is_whole(json.dumps(value, ensure_ascii=False)):
        raise ValueError("it has half of a surrogate pair, which is no letter")
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r:.60} is repeated")
    return found


def is_whole(text: str) -> bool:
    """Whether text can be written to a file: half of a surrogate pair cannot."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def encode(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes; a number that is not finite becomes null."""
    # allow_nan=False: a NaN that slips through must fail here, not in the reader.
    return json.dumps(_null_for_nan(value), indent=indent, allow_nan=False)


def nan_for_null(value: Any) -> Any:
    """What `encode` wrote, with NaN for null: for values that hold only numbers."""
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {key: nan_for_null(item) for key, item in value.items()}
    return [nan_for_null(item) for item in value] if isinstance(value, list) else value


def _null_for_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _null_for_nan(item) for key, item in value.items()}
    return [_null_for_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


@contextmanager
def reading(path: Path, fix: str) -> Iterator[None]:
    """What cannot be taken out of a file's content is its damage: raises CheckpointError, which
    ends with `fix`, what to do about it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: damaged ({what}). {fix}") from error


def read_object(path: Path, keys: Mapping[str, type], fix: str) -> dict[str, Any]:
    """The JSON object in a file that a run wrote.

    Args:
        keys: what must be in it, and of which type.
        fix: what to do about a file that is damaged, as a sentence.

    Raises CheckpointError for a file that is cut short or that no run wrote.
    """
    try:
        # As bytes: `json` finds the encoding itself, and refuses what is none.
        value = json.loads(path.read_bytes())
    # RecursionError: brackets within brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: damaged, or not written by a run ({error}). {fix}"
        ) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected an object, got {value!r:.60}. {fix}")
    for key, kind in keys.items():
        if not isinstance(value.get(key), kind):
            got = f"got {value[key]!r:.60}" if key in value else "it is not there"
            wanted = f"expected {key!r} ({kind.__name__})"
            raise CheckpointError(f"{path}: damaged: {wanted}, {got}. {fix}")
    return value
