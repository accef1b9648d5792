"""JSON as the standard has it: NaN and infinity, which it lacks, are written as null and read back as NaN."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def encode(value: Any, indent: int | None = None) -> str:
    """`value` as JSON that every reader takes; a number that is not finite becomes null."""
    return json.dumps(_null_for_nan(value), indent=indent, allow_nan=False)


def nan_for_null(value: Any) -> Any:
    """What `encode` wrote, with NaN in the place of null: for values that hold numbers alone."""
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
