"""The evaluations of one run: made once for each step, kept in its folder, and told apart by how
they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rewardft.contracts.alarm import Alarm
from rewardft.engine.ema import Ema
from rewardft.engine.processes import main_decides
from rewardft.engine.session import Session, run_evaluation
from rewardft.evaluation.alarms import find_alarms
from rewardft.evaluation.evaluate import Evaluation
from rewardft.files import encode, write_text
from rewardft.policy.adapter import FullFineTuning
from rewardft.recipe.recipe import Recipe


class HeldOut:
    """Evaluates a session as its recipe says. Every process evaluates the same; the main one
    writes.

    ema: the averaged weights, where they are what is evaluated.
    wanted: whether the recipe asks for any evaluation.
    not_compared: why there is no evaluation of the base model, when there can be none.
    """

    def __init__(self, session: Session, out: Path, accelerator: Any, ema: Ema) -> None:
        self.session, self.out, self.accelerator = session, out, accelerator
        self.spec = session.recipe.evaluate
        self.ema = ema if self.spec.weights == "ema" else None
        self.wanted = self.spec.wanted
        self.trained = trained_values(session.recipe)
        self.not_compared: str | None = None

    def is_due(self, step: int) -> bool:
        """Whether the run stops at `step`, between the first and the last one, to evaluate."""
        return (
            self.spec.every > 0
            and step % self.spec.every == 0
            and 0 < step < self.session.recipe.train.steps
        )

    def stored(self, step: int) -> Evaluation | None:
        """The evaluation of `step` that is in the folder, if it was made with the recipe's settings
        and weights."""
        settings = self.session.evaluation_settings(self.spec.samples)
        data = main_decides(self.accelerator, lambda: read_evaluation(self.out, step, settings))
        if data is None or (step > 0 and data.get("weights", "raw") != self.spec.weights):
            return None
        return Evaluation.from_json(data)

    def make(self, step: int) -> Evaluation:
        """Evaluate the weights as they are, or their average, and keep it as that of `step`."""
        with nullcontext() if self.ema is None else self.ema.applied():
            result = run_evaluation(self.session, self.spec.samples)
        if self.accelerator.is_main_process:
            path = evaluation_path(self.out, step)
            path.parent.mkdir(exist_ok=True)
            write_text(path, encode(result.to_json() | {"weights": self.spec.weights}))
        return result

    def alarms(self, baseline: Evaluation | None, result: Evaluation) -> list[Alarm]:
        """What the evaluation `result` gives cause for; nothing without one of the base model."""
        return (
            []
            if baseline is None
            else find_alarms(baseline, result, self.trained, self.spec.min_diversity)
        )

    def base(self) -> Evaluation | None:
        """That of the base model when the run has gone on from there: the adapter is switched off
        if it must be made.

        None, with `not_compared` set, when full fine-tuning has overwritten the base.
        """
        stored = self.stored(0)
        if stored is not None:
            return stored
        adapter = self.session.adapter
        if isinstance(adapter, FullFineTuning) and adapter.reference is None:
            self.not_compared = (
                "the base model was not evaluated with these settings before the run was resumed, "
                "and full fine-tuning keeps no copy of it. `rewardft evaluate` loads both."
            )
            return None
        with adapter.disabled():
            return self.make(0)


def trained_values(recipe: Recipe) -> list[str]:
    """Names of the values that a run is trained for; a reward of weight 0 is only watched."""
    return [f"reward/{reward.name}" for reward in recipe.rewards if reward.weight != 0]


def evaluation_path(out: Path, step: int) -> Path:
    """The file with the values per sample of one evaluated step."""
    return out / "evaluations" / f"step-{step:08d}.json"


def read_evaluation(out: Path, step: int, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The evaluation of a step if it was made as `settings` say; any other is no measure for this
    run's."""
    path = evaluation_path(out, step)
    if not path.exists():
        return None
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data if data.get("settings") == settings else None
