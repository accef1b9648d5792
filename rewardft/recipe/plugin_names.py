"""How an entry of `plugins:` is read; shared by recipes and the loader."""

from __future__ import annotations


def is_path(name: str) -> bool:
    """Whether an entry of `plugins:` names a file or folder rather than an installed plugin or a
    module."""
    return name.startswith((".", "/", "~")) or "/" in name or name.endswith(".py")
