"""A cache of the report that cannot be read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

from rewardft.errors import CheckpointError

# What numpy raises for other files, for halves of an archive, and for arrays that are missing.
DAMAGE = (OSError, EOFError, ValueError, TypeError, KeyError, BadZipFile, zlib.error)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Around reading a cache: raises CheckpointError, with what to do, for one that is damaged."""
    try:
        yield
    except DAMAGE as error:
        raise CheckpointError(
            f"{path}: expected what an earlier report has kept, and it is damaged "
            f"({type(error).__name__}: {error}). Delete it: the next report makes it again."
        ) from error
