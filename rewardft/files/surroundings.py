"""What belongs to the whole process and not to the code that a recipe names."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def put_back() -> Iterator[None]:
    """Inside, plugins and components run, which may close or replace the standard streams and
    change the current folder; afterwards both are as they were: what is printed then is seen, and
    relative paths mean what the user meant."""
    streams, folder = (sys.stdout, sys.stderr), os.getcwd()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        with contextlib.suppress(OSError):  # it was removed meanwhile
            os.chdir(folder)
