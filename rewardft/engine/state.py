"""Where a run is, and the random state that is not a function of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class TrainState:
    """step: optimizer steps taken.
    closings: losses that closed a batch's contribution to one.
    seconds: of training, without set-up, evaluation and saving.
    before: the step at the end of the batch before, which says what a batch of several steps has
        jumped over; -1 at the start.
    fractions: of the run that have been evaluated, see `rewardft.engine.moments`."""

    step: int = 0
    closings: int = 0
    seconds: float = 0.0
    fractions: int = 0
    before: int = -1

    def state_dict(self) -> dict[str, Any]:
        return vars(self).copy()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Of this or an older version's checkpoint."""
        self.step = state["step"]
        self.closings = state["closings"]
        self.seconds = state["seconds"]
        # Not in checkpoints of older versions.
        self.fractions = state.get("fractions", 0)
        self.before = state.get("before", self.step - 1)


class RandomState:
    """torch's generators. Noise is keyed to samples and needs none; components may use them. Every
    batch seeds them anew, so that their state in a step in progress is as good as before it."""

    def state_dict(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {"cpu": torch.get_rng_state(), "cuda": cuda}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        # Generators take their state from CPU memory; the checkpoint was loaded to the device.
        torch.set_rng_state(state["cpu"].cpu())
        if state["cuda"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all([generator.cpu() for generator in state["cuda"]])
