"""The evaluations of one run: made once for each step, kept in its folder, and told apart by how
they were made."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rewardft.contracts.alarm import Alarm
from rewardft.contracts.run import Run
from rewardft.engine.best import Best
from rewardft.engine.ema import Ema
from rewardft.engine.initial import beginning
from rewardft.engine.moments import Moments, passes
from rewardft.engine.processes import main_decides
from rewardft.engine.session import Session, run_evaluation
from rewardft.evaluation.alarms import find_alarms
from rewardft.evaluation.evaluate import Evaluation, OfSet, Paired, compare, compare_sets
from rewardft.evaluation.stored import KEYS, evaluation_path
from rewardft.files.atomic import make_folder, write_text
from rewardft.files.json_text import encode, read_object, reading
from rewardft.policy.full import FullFineTuning
from rewardft.recipe.recipe import Recipe
from rewardft.storage.checkpoint import evaluations_in, step_of

MADE_AGAIN = "Delete it: it is made again."


class HeldOut:
    """Evaluates a session as its recipe says. Every process computes the same evaluation; the main
    one writes it.

    ema: the averaged weights, where they are what is evaluated.
    moments: when a run is evaluated between its first and its last step.
    wanted: whether the recipe asks for any evaluation.
    baseline: the evaluation of what the run started from, the base model or the weights of
        `adapter.init`; not_compared: why there is none.
    alarms: those of the newest evaluation.
    """

    def __init__(
        self,
        session: Session,
        run: Run,
        plugins: Any,
        accelerator: Any,
        ema: Ema,
        moments: Moments,
    ) -> None:
        self.session, self.run, self.plugins = session, run, plugins
        self.moments = moments
        self.accelerator = accelerator
        self.spec = session.recipe.evaluate
        self.ema = ema if self.spec.weights == "ema" else None
        self.wanted = self.spec.wanted
        self.trained = trained_values(session.recipe)
        self.baseline: Evaluation | None = None
        self.not_compared: str | None = None
        self.alarms: list[Alarm] = []
        save = session.recipe.save
        self.best = Best(save, run.folder, session.adapter, self.ema, accelerator)

    def begin(self, step: int) -> None:
        """Evaluate what the run starts from, and also `step` where the run ended after its
        checkpoint and before its evaluation."""
        if not self.wanted:
            return
        self.baseline = self.evaluate(0) if step == 0 else self._base()
        if self.baseline is not None:
            self.best.check(self.baseline)
        self._see_earlier(step)
        self.moments.begin()
        if self.moments.pass_step():
            self.evaluate(step)

    def _see_earlier(self, step: int) -> None:
        """Of a resumed run, the evaluations up to `step`: the best of them is still the best, as
        long as its weights are there."""
        if self.best.name is None:
            return
        # By their files: a run that ended, and goes on now, was also evaluated between `every`.
        before = 0
        for each in main_decides(self.accelerator, lambda: evaluated(self.run.folder, step)):
            stored = self._stored(each)
            if stored is not None:
                due = passes(self.spec.every, before, each)
                # The weights of now are those of `step`.
                self.best.see(each, stored, keep=each == step, due=due)
            before = each
        self.best.forget_lost()

    def evaluate(self, step: int) -> Evaluation | None:
        """Evaluate, if the recipe asks for it; observers hear only of new evaluations."""
        if not self.wanted:
            return None
        stored = self._stored(step)
        result = self._make(step) if stored is None else stored
        # Not stored: they depend on `min_diversity` and the baseline, which may change on resume.
        self.alarms = self._find_alarms(result)
        if step > 0:
            self.best.see(step, result)
        facts = {"metrics": result.means(), "rollout": result.rollout, "alarms": self.alarms}
        # A stored one is in the metrics already; reported again, it would be there twice.
        if stored is None:
            self.plugins.call("on_evaluation_end", run=self.run, step=step, **facts)
        return result

    def stop(self) -> str | None:
        """Why the run ends here: alarms, where the recipe wants them to end it, or nothing better
        in `save.patience` evaluations."""
        return self._alarm() or self.best.is_over()

    def _alarm(self) -> str | None:
        if self.spec.on_alarm != "stop":
            return None
        reason = "; ".join(alarm.sentence for alarm in self.alarms)
        # Values computed on two machines may differ in the last bit, and an alarm with them.
        return main_decides(self.accelerator, lambda: f"alarm: {reason}" if reason else None)

    def compare(self, after: Evaluation | None) -> list[Paired]:
        """The base model against `after`; nothing where one of them is missing."""
        return compare(self.baseline, after) if self.baseline and after else []

    def compare_sets(self, after: Evaluation | None) -> list[OfSet]:
        """The same for values that are one number for all samples, such as a diversity."""
        return compare_sets(self.baseline, after) if self.baseline and after else []

    def _stored(self, step: int) -> Evaluation | None:
        """The evaluation of `step` that is in the folder, if it was made with the recipe's settings
        and weights."""
        settings = self.session.evaluation_settings(self.spec.samples)
        # One process reads: on a network file system the others may not see the file yet, and a
        # process that evaluated alone would wait for them forever.
        data = main_decides(self.accelerator, lambda: made_alike(self.run.folder, step, settings))
        # At step 0 the average is a copy of the weights, so one evaluation serves both.
        if data is None or (step > 0 and data.get("weights", "raw") != self.spec.weights):
            return None
        with reading(evaluation_path(self.run.folder, step), MADE_AGAIN):
            return Evaluation.from_json(data)

    def _make(self, step: int) -> Evaluation:
        """Evaluate the weights as they are, or their average, and keep it as that of `step`."""
        # At step 0 the average is a copy of the weights.
        with nullcontext() if self.ema is None or step == 0 else self.ema.applied():
            result = run_evaluation(self.session, self.spec.samples, step)
        if self.accelerator.is_main_process:
            path = evaluation_path(self.run.folder, step)
            make_folder(path.parent)
            write_text(path, encode(result.to_json() | {"weights": self.spec.weights}))
        return result

    def _find_alarms(self, result: Evaluation) -> list[Alarm]:
        """The alarms that the evaluation `result` raises; none without a baseline."""
        if self.baseline is None:
            return []
        start = self.session.recipe.adapter.start
        return find_alarms(self.baseline, result, self.trained, self.spec.min_diversity, start)

    def _base(self) -> Evaluation | None:
        """That of what the run started from, when it has gone on from there.

        None, with `not_compared` set, when full fine-tuning has overwritten the base.
        """
        stored = self._stored(0)
        if stored is not None:
            return stored
        adapter = self.session.adapter
        is_lost = isinstance(adapter, FullFineTuning) and adapter.reference is None
        if is_lost and self.session.recipe.adapter.init is None:
            self.not_compared = (
                "the base model was not evaluated with these settings before the run was resumed, "
                "and full fine-tuning keeps no copy of it. `rewardft evaluate` loads both."
            )
            return None
        with beginning(adapter, self.session.recipe):
            return self._make(0)


def trained_values(recipe: Recipe) -> list[str]:
    """Names of the values that a run is trained for; a reward of weight 0 is only watched."""
    return [f"reward/{reward.name}" for reward in recipe.rewards if reward.weight != 0]


def evaluated(out: Path, step: int) -> list[int]:
    """The steps after the base, up to `step`, of which there are evaluations, in their order."""
    steps = map(step_of, evaluations_in(out))
    return sorted(each for each in steps if 0 < each <= step)


def made_alike(out: Path, step: int, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The file of a step's evaluation if it was made as `settings` say; any other is no measure for
    this run's."""
    path = evaluation_path(out, step)
    if not path.exists():
        return None
    data = read_object(path, KEYS, MADE_AGAIN)
    # Other samples or noise: differences would no longer be paired.
    return data if data.get("settings") == settings else None
