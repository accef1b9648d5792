"""A batch is scored elsewhere while the next one is rolled out."""

from __future__ import annotations

from collections.abc import Callable
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

    def __enter__(self) -> Behind:
        return self

    def __exit__(self, kind: object, failure: BaseException | None, place: object) -> None:
        """Nothing is left running. What comes after the batch may have failed before the batch is
        waited for: a failure of the batch is then raised in its place, and names the other."""
        try:
            if isinstance(failure, Exception):
                self.catch_up()
        except Exception as earlier:
            later = f"{type(failure).__name__}: {failure}"
            earlier.add_note(f"Before this was known, the next batch failed too: {later}")
            raise
        finally:
            if self.begun is not None:
                self.begun.cancel()
