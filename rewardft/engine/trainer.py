"""The training loop: roll out, score, replay; step; log; save. Read it top to bottom."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardft.contracts.alarm import Alarm
from rewardft.contracts.run import Run
from rewardft.engine.audit import audit_first_step
from rewardft.engine.ema import Ema
from rewardft.engine.held_out import HeldOut
from rewardft.engine.interrupts import Signals
from rewardft.engine.memory import peak_memory, return_freed_memory
from rewardft.engine.meter import Meter
from rewardft.engine.optimizer import build_optimizer, build_schedule
from rewardft.engine.processes import (
    average_gradients,
    average_metrics,
    copy_from_main,
    largest,
    main_decides,
    raise_together,
    start_accelerator,
)
from rewardft.engine.progress import ProgressLine
from rewardft.engine.session import build_session
from rewardft.errors import AuditError, ComponentError
from rewardft.evaluation.evaluate import Evaluation, compare
from rewardft.files import encode, write_text
from rewardft.noise import keyed_seed
from rewardft.policy.batches import Stream
from rewardft.recipe.recipe import Recipe
from rewardft.storage.checkpoint import save_checkpoint, save_trained
from rewardft.storage.folder import alone_in, claim, resumptions, take_up
from rewardft.storage.recorder import Recorder, check_trackers, dump_samples, manifest
from rewardft.storage.resume import restore, training_state
from rewardft.types import Batch, Rollout


def train(
    recipe: Recipe,
    plugins: Any,
    resolved: Any,
    out: Path,
    resume: bool = False,
    allow_changed_plugins: bool = False,
) -> dict[str, Any]:
    """Run a recipe; returns what `summary.json` holds. Raises RewardftError for anything a user can
    mend."""
    check_trackers(recipe.source, recipe.train.report_to)
    with alone_in(out, resume):
        trainer = Trainer(recipe, plugins, resolved, out, resume, allow_changed_plugins)
        try:
            return trainer.fit()
        except BaseException as error:
            trainer.report_error(error)
            raise


class Trainer:
    """One run. `step` counts optimizer steps; `stream.position` counts samples."""

    def __init__(
        self,
        recipe: Recipe,
        plugins: Any,
        resolved: Any,
        out: Path,
        resume: bool,
        allow_changed_plugins: bool,
    ) -> None:
        self.recipe, self.plugins, self.resolved, self.out = recipe, plugins, resolved, Path(out)
        self.allow_changed_plugins, self.changed_plugins = allow_changed_plugins, list[str]()
        self.accelerator = start_accelerator(recipe.train.report_to, self.out)
        self.is_main = self.accelerator.is_main_process
        self.on_cpu = self.accelerator.device.type == "cpu"
        checkpoint = main_decides(self.accelerator, lambda: claim(self.out, recipe, resume))
        self.run = Run(self.out, recipe, self.is_main, recipe.train.steps)
        self.session = build_session(recipe, resolved, self.accelerator.device)
        self.session.plugin_files = plugins.digests()
        self.run.model, self.run.sampler = self.session.model, self.session.context.sampler
        self.ctx, self.adapter = self.session.context, self.session.adapter
        self.ctx.gather, self.ctx.on_reward_error = self.accelerator.gather, self._dump_samples
        self.ema = Ema(self.adapter, recipe.train.ema)
        self.held_out = HeldOut(self.session, self.out, self.accelerator, self.ema)
        self.parameters = self.adapter.parameters
        self.optimizer = build_optimizer(recipe, plugins, self.parameters)
        self.schedule = build_schedule(recipe, self.optimizer)
        self.stream = Stream(resolved.dataset.build(), recipe.seed)
        self.step = self.closings = 0
        self.pending: list[tuple[int, dict[str, Tensor], dict[str, float]]] = []
        self.seconds, self.is_spent = 0.0, False
        self.meter = Meter(recipe.train.budget, self.accelerator.num_processes)
        self.signals = Signals()
        self.stop_reason: str | None = None
        self.resumed, self.alarms = list[dict[str, Any]](), list[Alarm]()
        self.baseline: Evaluation | None = None
        if checkpoint is not None:
            self.step = restore(self, checkpoint)
            self.is_spent = self.meter.exhausted
        if resume and self.is_main:
            take_up(self.out, recipe, checkpoint)
            self.resumed = resumptions(self.out, self.step, self.changed_plugins)
        copy_from_main(self.accelerator, [*self.parameters, *self.ema.weights.values()])
        self.saved, self.samples_logged = self.step, self.stream.position

    def fit(self) -> dict[str, Any]:
        """Evaluate, train to the last step or a stop, save, evaluate again; returns the summary."""
        self._start()
        self.baseline = (
            self._evaluate()
            if self.step == 0
            else self.held_out.base()
            if self.held_out.wanted
            else None
        )
        if self.held_out.is_due(
            self.step
        ):  # the run ended between the checkpoint of this step and its evaluation
            self._evaluate()
            self._heed_alarms()
        self.clock = time.monotonic()
        with self.signals:
            while (
                self.step < self.recipe.train.steps
                and self.stop_reason is None
                and not self.is_spent
            ):
                self.batch_began = time.monotonic()
                self._train_batch()
                self.seconds = self._train_seconds()
                if self.closings % self.recipe.train.accumulate == 0:  # else gradients are pending
                    self._between_steps()
        self._flush()
        if self.saved != self.step:
            self._save()
        return self._finish()

    # -- one batch ---------------------------------------------------------------------------------

    def _train_batch(self) -> None:
        """All losses of one batch. The engine owns backward, accumulation, clipping and the
        step."""
        self.ctx.start_step(
            self.step
        )  # every batch that is accumulated into a step makes the same choices
        if self.closings % self.recipe.train.accumulate == 0:
            facts = {"pictures": getattr(self.session.model, "pictures", True)}
            self.ctx.audit = facts if self.step == 0 else None
        batch = self._next_batch()
        closed = True
        for loss in self.session.algorithm.losses(self.ctx, batch):
            loss.backward()
            return_freed_memory()
            for name, value in loss.metrics.items():
                self.ctx.record(name, torch.as_tensor(value, dtype=torch.float32))
            closed = loss.step
            if not closed:
                continue
            self.closings += 1
            if self.closings % self.recipe.train.accumulate == 0:
                self._optimizer_step()
                if self.step >= self.recipe.train.steps:
                    break
        if not closed:
            raise ComponentError(
                f"algorithm {self.recipe.algorithm.use!r}: losses() ended without `Loss(..., "
                "step=True)`, so its last gradients would be lost. The last loss of a batch must "
                "close it."
            )

    def _next_batch(self) -> Batch:
        size, accelerator = self.recipe.data.batch_size, self.accelerator
        torch.manual_seed(
            keyed_seed(self.recipe.seed, self.stream.position, accelerator.process_index)
        )  # dropout
        batch = self.stream.next_batch(size, accelerator.process_index, accelerator.num_processes)
        return batch.to(accelerator.device)

    def _optimizer_step(self) -> None:
        train = self.recipe.train
        average_gradients(self.accelerator, self.parameters, train.accumulate)
        if self.ctx.audit is not None:
            self._audit()
        limit = float("inf") if train.clip_norm is None else train.clip_norm
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, limit)
        if not torch.isfinite(norm):
            raise ComponentError(
                f"step {self.step}: the gradient is NaN or infinite; the weights were not changed. "
                "Try a lower learning rate, train.clip_norm, or train.precision fp32. Resume from "
                "the last checkpoint with --resume."
            )
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.step)
        self.ctx.record("gradient_norm", norm)
        cost = self.ctx.cost | {"train_seconds": self._train_seconds()}
        cost |= self.meter.share(self.ctx.cost, self.step, cost["train_seconds"])
        self.pending.append((self.step, self.ctx.take_records(), cost))
        if self.step % train.log_every == 0:
            self._flush()

    def _train_seconds(self) -> float:
        """Without set-up, evaluation and saving."""
        return self.seconds + time.monotonic() - self.batch_began

    def _audit(self) -> None:
        report: dict[str, Any] = {}
        failure = None
        try:
            report = audit_first_step(self.adapter.named, self.ctx.audit or {})
        except AuditError as error:
            failure = error
        raise_together(self.accelerator, failure)
        self.ctx.audit = None
        if self.is_main:
            write_text(self.out / "audit.json", encode(report, indent=2))

    # -- between steps -----------------------------------------------------------------------------

    def _between_steps(self) -> None:
        self.meter.update(self.ctx.cost, self.step, self.seconds, self.session.calls_at(self.step))
        self.is_spent = main_decides(self.accelerator, lambda: self.meter.exhausted)
        if number := largest(self.accelerator, self.signals.number):
            self.signals.number = number
            self.stop_reason = f"interrupted by {signal.Signals(number).name}"
        save = self.recipe.save.every
        if self.stop_reason or (save and self.step // save > self.saved // save):
            self._flush()
            self._save()
        if self.held_out.is_due(self.step) and self.stop_reason is None:
            self._flush()
            self._evaluate()
            self._heed_alarms()

    def _flush(self) -> None:
        """Read pending metrics from the device, once per logging interval, and tell the
        observers."""
        elapsed, samples = time.monotonic() - self.clock, self.stream.position - self.samples_logged
        facts = {
            "learning_rate": self.schedule.get_last_lr()[0],
            "samples_per_second": samples / max(elapsed, 1e-9),
        }
        reasons = [self.stop_reason]
        means = average_metrics(self.accelerator, [sums for _, sums, _ in self.pending])
        for (step, _, cost), mean in zip(self.pending, means):
            metrics = mean | facts | cost
            self.plugins.call(
                "on_step_end",
                run=self.run,
                step=step,
                metrics=metrics,
                rollout=self.ctx.last_rollout,
            )
            reasons.append(self.plugins.call("stop_run", run=self.run, step=step, metrics=metrics))
        self.stop_reason = main_decides(self.accelerator, lambda: next(filter(None, reasons), None))
        self.pending.clear()
        self.clock, self.samples_logged = time.monotonic(), self.stream.position

    def _evaluate(self) -> Evaluation | None:
        """Evaluate on held-out samples, if the recipe asks for it and it is not done already."""
        if not self.held_out.wanted:
            return None
        stored = self.held_out.stored(self.step)
        result = self.held_out.make(self.step) if stored is None else stored
        self.alarms = self.held_out.alarms(self.baseline, result)
        facts = {"metrics": result.means(), "rollout": result.rollout, "alarms": self.alarms}
        if stored is None:
            self.plugins.call("on_evaluation_end", run=self.run, step=self.step, **facts)
        return result

    def _heed_alarms(self) -> None:
        """With `evaluate.on_alarm: stop` an alarm between the first and the last step ends the
        run."""
        if self.recipe.evaluate.on_alarm == "stop" and self.stop_reason is None:
            reason = "; ".join(alarm.sentence for alarm in self.alarms)
            self.stop_reason = main_decides(
                self.accelerator, lambda: f"alarm: {reason}" if reason else None
            )

    def _save(self) -> None:
        tensors, state = training_state(self)
        if self.is_main:
            path = save_checkpoint(
                self.out, self.step, self.adapter, tensors, state, self.recipe.save.keep
            )
            self.plugins.call("on_checkpoint_saved", run=self.run, step=self.step, path=path)
        self.saved = self.step
        self.accelerator.wait_for_everyone()

    # -- start and end -----------------------------------------------------------------------------

    def _start(self) -> None:
        self.plugins.manager.register(
            Recorder(self.out, self.accelerator, self.is_main), name="recorder"
        )
        if self.is_main:
            self.plugins.manager.register(ProgressLine(self.step, self.seconds), name="progress")
            facts = manifest(
                self.run, self.plugins, str(self.accelerator.device), self.accelerator.num_processes
            )
            write_text(
                self.out / "manifest.json", json.dumps(facts | {"resumed": self.resumed}, indent=2)
            )
        if self.recipe.train.report_to:
            self.accelerator.init_trackers("rewardft", config={"recipe": self.recipe.to_yaml()})
        self.plugins.call("on_run_start", run=self.run)

    def _finish(self) -> dict[str, Any]:
        interrupted = bool(
            largest(self.accelerator, self.signals.number)
        )  # it may have come after the last step
        after = None if interrupted else self._evaluate()
        if self.is_main:
            save_trained(self.adapter, self.out / "adapter", self.step)
            self.ema.save(self.out / "adapter_ema", self.step)
        summary: dict[str, Any] = {
            "status": "interrupted"
            if interrupted
            else "stopped"
            if self.stop_reason
            else "finished",
            "reason": self.stop_reason or (self.meter.describe() if self.is_spent else None),
            "step": self.step,
            "samples": self.stream.position,
            **self.ctx.cost,
            "train_seconds": self.seconds,
            "peak_memory_bytes": peak_memory(self.accelerator.device),
            "evaluation": [vars(p) for p in compare(self.baseline, after)]
            if self.baseline and after
            else [],
            "not_compared": self.held_out.not_compared,
            "alarms": [vars(alarm) for alarm in self.alarms],
        }
        self.plugins.call("on_run_end", run=self.run, summary=summary)
        return summary

    def report_error(self, error: BaseException) -> None:
        """Tell the observers; one that fails is noted and never replaces the first error."""
        if isinstance(error, AuditError) and self.is_main:
            write_text(self.out / "audit.json", json.dumps({"failed": str(error)}, indent=2))
        try:
            self.plugins.call("on_run_error", run=self.run, step=self.step, error=error)
        except Exception as second:
            notes = "; ".join([repr(second), *getattr(second, "__notes__", [])])
            error.add_note(f"while this error was reported, another came up: {notes}")

    def _dump_samples(self, name: str, error: Exception, rollout: Rollout, batch: Batch) -> None:
        """What a failing reward was given, and a note of where it is; each process for itself."""
        rank = (
            f"-process{self.accelerator.process_index}"
            if self.accelerator.num_processes > 1
            else ""
        )
        path = self.out / "failures" / f"step-{self.step:08d}-{name}{rank}"
        dump_samples(path, self.step, name, error, rollout, batch)
