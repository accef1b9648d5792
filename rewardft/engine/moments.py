"""When a run is evaluated along the way: every so many steps, or after equal fractions of it. It
stops between batches only, and a batch may take several steps at once."""

from __future__ import annotations

from typing import Any

from rewardft.engine.meter import Meter
from rewardft.engine.processes import main_decides
from rewardft.engine.state import TrainState
from rewardft.recipe.recipe import Recipe


def passes(every: int, before: int, step: int) -> bool:
    """Whether a multiple of `every` is above `before` and not above `step`; 0 has none."""
    return every > 0 and step // every > before // every


class Moments:
    """Asked after each batch; the fractions that have been evaluated are in the run's state."""

    def __init__(self, recipe: Recipe, state: TrainState, meter: Meter, accelerator: Any) -> None:
        self.every, self.fractions = recipe.evaluate.every, recipe.evaluate.fractions or 0
        self.steps, self.state, self.meter = recipe.train.steps, state, meter
        self.accelerator = accelerator

    def begin(self) -> None:
        """Forget fractions that are still to come, where a resumed run has become longer."""
        self.state.fractions = min(self.state.fractions, self._passed())

    def pass_step(self) -> bool:
        """Whether the run stops now, between the first and the last step, to evaluate."""
        step, before = self.state.step, self.state.fractions
        if self.every:
            return passes(self.every, self.state.before, step) and 0 < step < self.steps
        self.state.fractions = self._passed()
        return before < self.state.fractions < self.fractions

    def _passed(self) -> int:
        """How many fractions of the steps or of the budget are over, whichever is more."""
        if not self.fractions:
            return 0
        # Clocks differ, so the main process decides for all.
        return main_decides(
            self.accelerator,
            lambda: max(
                self.state.step * self.fractions // self.steps,
                self.meter.passed(self.fractions),
            ),
        )
