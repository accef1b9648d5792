"""The best evaluation of a run by one held-out value: its weights are kept, and a run that gets no
better can end."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rewardft.engine.ema import Ema
from rewardft.engine.processes import main_decides
from rewardft.errors import ComponentError, did_you_mean
from rewardft.evaluation.evaluate import Evaluation
from rewardft.recipe.recipe import SaveSpec
from rewardft.storage.checkpoint import BEST, best_step, save_trained


class Best:
    """Follows `save.best` from evaluation to evaluation; the base model is none of them.

    ema: the averaged weights, where they are what is evaluated.
    step, value: of the best so far. waited: the evaluations since then.
    """

    def __init__(
        self, spec: SaveSpec, folder: Path, adapter: Any, ema: Ema | None, accelerator: Any
    ) -> None:
        self.name, self.patience = spec.best, spec.patience
        self.folder, self.adapter, self.ema = folder, adapter, ema
        self.accelerator = accelerator
        self.step: int | None = None
        self.value = math.nan
        self.waited = 0
        self.seen = 0

    def see(self, step: int, result: Evaluation, keep: bool = True, due: bool = True) -> None:
        """Take notice of an evaluation, and keep the weights of now if it is the best.

        keep: off for those before a resumed run, whose weights are not there any more.
        due: off for those that an uninterrupted run would not have made: none waits for them.
        """
        # The last step's evaluation may be asked for twice.
        if self.name is None or step <= self.seen:
            return
        self.seen = step
        value = self.value_of(self.name, result)
        sign = self.direction(self.name, result)
        # Computed on two machines, values may differ in the last bit.
        better = main_decides(self.accelerator, lambda: self._is_better(sign * value, sign))
        if not better:
            self.waited += due
            return
        self.step, self.value, self.waited = step, value, 0
        if keep and self.accelerator.is_main_process:
            with nullcontext() if self.ema is None else self.ema.applied():
                save_trained(self.adapter, self.folder / BEST, step)

    def forget_lost(self) -> None:
        """Forget a best whose weights are not in the folder, so that the next evaluation's are
        kept."""
        if self.step is None:
            return
        if main_decides(self.accelerator, lambda: best_step(self.folder)) != self.step:
            self.step = None
            self.value = math.nan

    def _is_better(self, value: float, sign: int) -> bool:
        # NaN is better than nothing: no value applies there.
        return not math.isnan(value) and (self.step is None or value > sign * self.value)

    def is_over(self) -> str | None:
        """Why the run ends, where it has waited for a better evaluation as long as it may."""
        if self.patience is None or self.waited < self.patience:
            return None
        since = "" if self.step is None else f", the best at step {self.step}"
        return f"{self.name} has not improved in {self.waited} evaluations{since}"

    def check(self, result: Evaluation) -> None:
        """Raises ComponentError for a value that evaluations have not, or that has no direction."""
        if self.name is not None:
            self.value_of(self.name, result)
            self.direction(self.name, result)

    def value_of(self, name: str, result: Evaluation) -> float:
        """The mean of the value."""
        means = result.means()
        if name not in means:
            raise ComponentError(
                f"save.best: no evaluation has {name!r}.{did_you_mean(name, means)}"
            )
        return means[name]

    def direction(self, name: str, result: Evaluation) -> int:
        """1 where more of the value is better, -1 where less is."""
        known = result.higher_is_better
        # `GROUP/NAME` is the same value, of a group of samples. The longest, because a value may be
        # called as the end of another is.
        same = (each for each in known if name == each or name.endswith(f"/{each}"))
        plain = max(same, key=len, default=name)
        higher = known.get(plain)
        if higher is None:
            choices = [each for each, way in known.items() if way is not None]
            raise ComponentError(
                f"save.best: of {name!r} neither more nor less is better."
                f"{did_you_mean(name, choices)}"
            )
        return 1 if higher else -1

    def to_json(self) -> dict[str, Any] | None:
        """What `summary.json` holds; None where nothing is followed."""
        if self.name is None:
            return None
        return {"name": self.name, "value": self.value, "step": self.step}
