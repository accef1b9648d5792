"""A batch is scored elsewhere while the next one is rolled out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rewardft.policy.begun import Begun


@dataclass
class Behind:
    """At most one batch whose rewards have been asked and are not yet waited for.

    finish: what is done with it when its turn comes.
    """

    finish: Callable[[], None] | None = None
    begun: Begun | None = None

    def catch_up(self) -> None:
        """Wait for the batch, if there is one, and finish it."""
        finish, self.finish = self.finish, None
        if finish is not None:
            finish()

    @contextmanager
    def during(self) -> Iterator[None]:
        """Around what comes after that batch: a failure of the batch is raised in its place, as if
        nothing had been put off."""
        try:
            yield
        except Exception:
            self.catch_up()
            raise
        self.catch_up()

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, *failure: object) -> None:
        """Nothing is left running."""
        if self.begun is not None:
            self.begun.cancel()
