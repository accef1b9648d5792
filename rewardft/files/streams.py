"""Printing that ends nothing: what a closed pipe, a full disk or a narrow encoding cannot take is
lost, and the program goes on."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import Any, TextIO


class Forgiving:
    """A text stream that swallows what its target does not take, and behaves like it otherwise.

    It cannot be closed: a component that closes `sys.stdout` would silence the rest of the command.
    """

    def __init__(self, target: TextIO | None) -> None:
        # None: there is no such stream, in a program without a console.
        self._target: TextIO = target or io.TextIOWrapper(io.FileIO(os.devnull, "w"))
        if isinstance(target, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # it flushes what the target may not take
                # A terminal that knows no `±` shows its escape instead of ending the run.
                target.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write what the target takes; returns the length of `text` either way."""
        try:
            return self._target.write(text)
        except (OSError, ValueError) as error:  # ValueError: it is closed
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """Flush what the target takes."""
        try:
            self._target.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def close(self) -> None:
        """Flush alone."""
        self.flush()

    def writelines(self, lines: Any) -> None:
        """Write each line, see `write`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def _lose(self, error: Exception) -> None:
        """A reader that is gone does not come back: nothing is left in the buffer, which would be
        written again when the interpreter ends. A full disk may have room again."""
        if isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                # The descriptor itself: the interpreter flushes it once more at its end.
                os.dup2(nowhere, self._target.fileno())
                os.close(nowhere)


def forgive() -> None:
    """Make the standard streams forgiving, once."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Forgiving):
            setattr(sys, name, Forgiving(stream))
