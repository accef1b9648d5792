"""Checkpoints of a run in progress, and the state that one may be made of at any moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rewardft.policy.memory import Memory
from rewardft.storage.checkpoint import Part, save_checkpoint


class Saver:
    """Saves the state of the newest completed step, also when the run fails during the next one.

    The weights, the optimizer, the schedule and the average change in an update alone, so they are
    read when they are saved. What changes in between (the position in the data, counters, the
    algorithm's memory) is noted after each update. That is cheap: tensors are noted, not copied.

    held: the parts that only an update changes, and what need not be of a whole step.
    noted: the others.
    saved: the step of the newest checkpoint.
    has_failed: whether it could not be written.
    """

    def __init__(
        self,
        folder: Path,
        adapter: Any,
        held: Mapping[str, Part],
        noted: Mapping[str, Part],
        memory: Memory,
        facts: Mapping[str, Any],
        keep: int,
    ) -> None:
        self.folder, self.adapter, self.keep, self.facts = folder, adapter, keep, facts
        self.held, self.noted, self.memory = held, noted, memory
        self.saved = 0
        self.has_failed = False
        self.note()

    def note(self, **other: Mapping[str, Any]) -> None:
        """Note the state after an update. `other`: states that replace those of some parts."""
        self.state: dict[str, Any] = {name: part.state_dict() for name, part in self.noted.items()}
        self.state |= other
        # Versions tell later whether a tensor was changed in place since.
        self.versions = self.memory.versions()

    @property
    def step(self) -> int:
        """The newest whole step."""
        return int(self.state["state"]["step"])

    def save(self, told: Callable[[Path], None]) -> Path:
        """Write the checkpoint of the newest whole step, and tell of its path."""
        if self.versions != self.memory.versions():
            # A tensor that was noted has been changed in place by the step in progress. What an
            # algorithm changes so it guards with a step number, so the memory of now is sound.
            self.state["context"]["memory"] = self.memory.state_dict()
        parts = self.state | {name: part.state_dict() for name, part in self.held.items()}
        # Until the folder is in place. After a failed save (a full disk) the rescue of a failing
        # run must not try the same again.
        self.has_failed = True
        path = save_checkpoint(
            self.folder, self.step, self.adapter, parts, dict(self.facts), self.keep
        )
        self.has_failed = False
        self.saved = self.step
        told(path)
        return path
