"""Versions of installed packages."""

from __future__ import annotations

from functools import cache
from importlib import metadata


def version_of(name: str) -> str | None:
    """Version of an installed distribution; None when it is not installed. That of one that is
    installed is read once a process."""
    try:
        return _installed(name)
    except metadata.PackageNotFoundError:
        # Asked again the next time: in a notebook it may be installed meanwhile.
        return None


@cache
def _installed(name: str) -> str:
    """Raises PackageNotFoundError, which is not kept."""
    return metadata.version(name)
