"""SIGTERM, SIGINT and SIGHUP end a run after the current step, with a checkpoint; a second one ends
it at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

CAUGHT = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
]


class Signals:
    """Inside the `with`, a signal is noted in `number` (0: none yet); a second one raises
    KeyboardInterrupt.

    A signal that was ignored before, as `nohup` does with SIGHUP, stays so; a thread that is not
    the main one gets none. is_forged: whether a KeyboardInterrupt came that no user has sent.
    """

    def __init__(self) -> None:
        self.number = 0
        self.is_forged = False
        self._is_second = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        # Python sets handlers in the main thread alone; a notebook may run us in another.
        if threading.current_thread() is threading.main_thread():
            # `nohup` and background shells ignore signals on purpose.
            watched = [n for n in CAUGHT if signal.getsignal(n) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in watched}
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # With our handlers set a user's Ctrl-C is only noted, so this one was raised by code.
        self.is_forged = kind is KeyboardInterrupt and bool(self._before) and not self._is_second

    def _note(self, number: int, frame: Any) -> None:
        # The step in progress may hang, such as in a reward that waits for a server.
        if self.number:
            self._is_second = True
            raise KeyboardInterrupt
        self.number = number
