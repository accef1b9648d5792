"""SIGTERM and SIGINT end a run after the current step, with a checkpoint; a second one ends it at
once."""

from __future__ import annotations

import signal
from typing import Any

CAUGHT = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Inside the `with`, a signal is noted in `number` (0: none yet); a second one raises
    KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        self._before = {number: signal.signal(number, self._note) for number in CAUGHT}
        return self

    def __exit__(self, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
