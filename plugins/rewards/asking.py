"""Requests side by side, and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

One = TypeVar("One")
All = TypeVar("All")


class Asking(Generic[One, All]):
    """Requests that are under way from the start; the first failure ends the others.

    Args:
        calls: one for each request; each takes an event that is set when its answer is not wanted
            any more.
        concurrency: how many of them run at a time.
        who: in the names of the threads.
        join: makes the result of the answers, in the order of the calls.
    """

    def __init__(
        self,
        calls: Iterable[Callable[[threading.Event], One]],
        concurrency: int,
        who: str,
        join: Callable[[list[One]], All],
    ) -> None:
        self.unwanted, self.join = threading.Event(), join
        self.pool = ThreadPoolExecutor(concurrency, thread_name_prefix=who)
        self.futures = [self.pool.submit(call, self.unwanted) for call in calls]

    def result(self) -> All:
        """Wait for all answers; raises the first failure, when those under way have ended."""
        try:
            wait(self.futures, return_when=FIRST_EXCEPTION)
            for future in self.futures:
                if future.done():
                    future.result()  # raises a failure while others are still under way
            return self.join([future.result() for future in self.futures])
        finally:
            self.cancel()

    def halt(self) -> None:
        """Send nothing more."""
        self.unwanted.set()
        self.pool.shutdown(wait=False, cancel_futures=True)

    def cancel(self) -> None:
        """Send nothing more, and wait for what has been sent."""
        self.halt()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Interrupted(Exception):
    """A request that was to be sent again, but its answer is not wanted any more."""


@dataclass(frozen=True)
class Patience:
    """How often a request is sent, and after which pauses.

    attempts: in all. backoff: seconds before the second one; twice that before the third, and so
    on. max_wait: longest pause, whatever a busy server asks for.
    """

    attempts: int
    backoff: float
    max_wait: float

    def ask(
        self, send: Callable[[], One], passing: tuple[type[Exception], ...], stop: threading.Event
    ) -> One:
        """What `send` returns. Raises what it raises: errors that are `passing` after the last
        attempt, others at once. Raises Interrupted when `stop` is set meanwhile."""
        for attempt in range(1, self.attempts + 1):
            try:
                return send()
            except passing as error:
                asked = getattr(error, "retry_after", None)
                pause = self.backoff * 2 ** (attempt - 1) if asked is None else asked
                is_last = attempt == self.attempts
                # Wakes up at once when another request of the batch has failed for good.
                if stop.wait(0 if is_last else min(pause, self.max_wait)):
                    raise Interrupted(
                        f"interrupted after {attempt} of {self.attempts} attempts; the last: "
                        f"{error}"
                    ) from error
                if is_last:
                    raise
        raise AssertionError("attempts >= 1")
