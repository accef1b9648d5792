"""What reading a damaged or hostile numpy archive can raise."""

from __future__ import annotations

import struct
import tokenize
import zlib
from zipfile import BadZipFile

DAMAGED: tuple[type[Exception], ...] = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, SyntaxError, MemoryError, OverflowError,
    NotImplementedError, RuntimeError, BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip
"""Raised by `numpy.load(..., allow_pickle=False)` and `zipfile` on truncated, altered or foreign files."""
