"""The training loop. Read it top to bottom: `fit` is a run, `_train_batch` a batch, `_step` an
optimizer step, `_between_steps` what a run does when a batch is done.

The algorithm's generator rolls out, scores and replays; each loss that it yields is run backward
here before it goes on.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Mapping
from typing import Any

import torch

from rewardft.engine.audit import audit_first_step
from rewardft.engine.failure import rescue
from rewardft.engine.gradient_trace import bad_tensors, trace_gradient
from rewardft.engine.interrupts import Signals
from rewardft.engine.losses import Losses
from rewardft.engine.memory import peak_memory, return_freed_memory
from rewardft.engine.parts import Parts
from rewardft.engine.processes import (
    average_gradients,
    gather_objects,
    largest,
    main_decides,
    raise_together,
)
from rewardft.engine.rescue import fail, save_whole
from rewardft.engine.step_log import Logged
from rewardft.engine.summary import RunSummary, Status
from rewardft.errors import AuditError, ComponentError, NonFiniteError
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode
from rewardft.noise import keyed_seed
from rewardft.storage.checkpoint import save_trained
from rewardft.types import Batch

LOG = logging.getLogger(__name__)
ADVICE = " Try a lower learning rate, train.clip_norm, or train.precision fp32."


def seed_all(seed: int) -> None:
    """Seed the global generators of the devices that there are."""
    # torch's own call makes a note for each kind of device that there might be, for a millisecond.
    found = torch.accelerator.is_available()
    (torch.manual_seed if found else torch.default_generator.manual_seed)(seed)


class Trainer:
    """One run.

    stop_reason: why it ends before its last step. taken: the batches of the step in progress, each
    with the seed of the global generator before it.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts, self.recipe, self.state = parts, parts.run.recipe, parts.state
        self.session, self.ctx = parts.session, parts.session.context
        self.ctx.forget = parts.updater.forget
        self.accelerator, self.plugins, self.run = parts.accelerator, parts.plugins, parts.run
        self.stream, self.held_out, self.saver = parts.stream, parts.held_out, parts.saver
        self.grids = parts.grids
        self.losses = Losses(self.session.algorithm, self.session.resolved.algorithm)
        self.signals = Signals()
        self.stop_reason: str | None = None
        self.taken: list[tuple[int, Batch]] = []
        self.is_spent = parts.meter.exhausted
        self.mark = time.monotonic()

    def fit(self) -> RunSummary:
        """Evaluate, train to the last step or a stop, save, evaluate again."""
        # This must not count as the time of the first step.
        with self.parts.log.paused():
            self.plugins.call("on_run_start", run=self.run)
            # The base, with the same samples and noise as later: differences are then paired.
            self.held_out.begin(self.state.step)
            self.grids.begin(self.state.step)
        self.state.before = self.state.step
        self.stop_reason = self.held_out.stop()
        with self.signals:
            while self.state.step < self.recipe.train.steps and not self._is_over:
                self._train_batch()
                if self.state.closings % self.recipe.train.accumulate == 0:
                    self._between_steps()  # else gradients are pending
        self._flush()
        self._save()
        return self._finish()

    @property
    def _is_over(self) -> bool:
        return self.stop_reason is not None or self.is_spent

    def _train_batch(self) -> None:
        """All losses of one batch. The engine owns backward, accumulation and the step."""
        self.mark = time.monotonic()
        self.ctx.start_step(self.state.step)  # accumulated batches make the same choices
        # A checkpoint of a step in the middle of a batch must draw the whole batch again.
        before = self.stream.state_dict()
        closed = True
        for loss in self.losses.of(self.ctx, self._next_batch()):
            loss.backward()
            for name, value in loss.metrics.items():
                self.ctx.record(name, value)
            closed = loss.step
            if not closed:
                continue
            self.state.closings += 1
            if self.state.closings % self.recipe.train.accumulate == 0:
                self._step()
                self.saver.note(stream=before)  # what is left of this batch would be drawn again
                if self.state.step % self.recipe.train.log_every == 0:
                    self._flush()
                if self.state.step >= self.recipe.train.steps:
                    break
        if not closed:
            raise ComponentError(
                f"algorithm {self.recipe.algorithm.use!r}: losses() ended without `Loss(..., "
                "step=True)`, so its last gradients would be lost. The last loss of a batch must "
                "close it."
            )
        self._lap()

    def _next_batch(self) -> Batch:
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        # Only dropout draws from the global generator; seeded by place, it survives a resume.
        seed = keyed_seed(self.recipe.seed, self.stream.position, rank)
        seed_all(seed)
        batch = self.stream.next_batch(self.recipe.data.batch_size, rank, count)
        self.taken.append((seed, batch))
        return batch.to(self.accelerator.device)

    def _step(self) -> None:
        """Average, audit, clip, update."""
        ctx, state, updater = self.ctx, self.state, self.parts.updater
        average_gradients(self.accelerator, updater.parameters, self.recipe.train.accumulate)
        self._audit()
        norm = updater.clip()
        # One check covers all gradients: a norm with one bad entry is bad. It comes before the
        # update, so that the weights stay those of the last good step.
        if norm is None:
            raise self._bad_gradient()
        rates = updater.update(state.step + 1)
        state.step += 1
        # Once a step at most: what is given back must be asked for again, page by page.
        return_freed_memory()
        self._lap()
        ctx.record("gradient_norm", norm)
        facts = {**rates, **ctx.cost, "train_seconds": state.seconds}
        facts |= self.parts.meter.share(ctx.cost, state.step, state.seconds)
        self.parts.log.add(Logged(state.step, ctx.take_records(), facts))

    def _bad_gradient(self) -> NonFiniteError:
        """The error of a gradient that is not finite, with where it arose."""
        error = NonFiniteError()
        # First of all: what follows repeats the batch, which may fail in ways of its own.
        rescue(error, lambda: save_whole(self.parts, error))
        error.args = (
            f"step {self.state.step}: the gradient is NaN or infinite, and the weights were not "
            f"changed. {self._trace(ADVICE)}",
        )
        return error

    def _trace(self, advice: str = "") -> str:
        """Where a bad gradient arose, from the first process that knows, and `advice` where it may
        help."""
        if (base := self.ctx.bad_base()) is not None:
            return f"{base[:1].upper()}{base[1:]}"
        batches = [(seed, batch.to(self.accelerator.device)) for seed, batch in self.taken]
        named = self.session.adapter.named
        own = trace_gradient(self.ctx, self.session.algorithm, batches, named)
        found = filter(None, gather_objects(self.accelerator, own))
        return next(found, "It did not happen again when the batch was repeated.") + advice

    def _lap(self) -> None:
        """Count the time since `mark` as training."""
        now = time.monotonic()
        self.state.seconds += now - self.mark
        self.mark = now

    @property
    def _may_be_flat(self) -> bool:
        """Whether rewards that do not differ leave the algorithm without a gradient."""
        needs: frozenset[str] = getattr(self.session.algorithm, "needs", frozenset())
        return bool(self.recipe.rewards) and "reward_gradient" not in needs

    def _audit(self) -> None:
        """Before the first update that has a gradient; all processes end when one of them would not
        learn."""
        facts = self.ctx.facts
        if facts is None or not facts.is_open:
            return
        report: Mapping[str, Any] = {}
        failure = None
        try:
            pictures = getattr(self.session.model, "pictures", True)
            ignored = [] if self.ctx.penalized else [r.name for r in self.ctx.regularizers]
            values = {"pictures": pictures, "ignored_regularizers": ignored, **facts.values}
            is_last = self.state.step + 1 >= self.recipe.train.steps  # no later step would tell
            may_be_flat = self._may_be_flat and not is_last
            report = audit_first_step(self.session.adapter.named, values, may_be_flat)
        except AuditError as error:
            failure = error
            if bad_tensors(self.session.adapter.named):  # averaged: on all processes or on none
                error.add_note(f"a gradient is NaN or infinite. {self._trace()}")
        # All processes leave here or none: one that went on alone would wait in the next exchange.
        raise_together(self.accelerator, failure)
        if report["gradient_norm"] == 0:  # and none was to be expected: the next step will tell
            return
        facts.close()
        if self.run.is_main:
            write_text(self.run.folder / "audit.json", encode(report, indent=2))

    def _between_steps(self) -> None:
        """A batch is done and its gradients are used: budget, signals, save, evaluate."""
        self.saver.note()
        self.taken.clear()
        state, meter, save = self.state, self.parts.meter, self.recipe.save.every
        coming = self.session.calls_at(state.step) if meter.budget else None
        meter.update(self.ctx.cost, state.step, state.seconds, coming)
        # Clocks differ, so the main process decides for all.
        self.is_spent = main_decides(self.accelerator, lambda: meter.exhausted)
        # A launcher may signal one process alone.
        if number := largest(self.accelerator, self.signals.number):
            self.stop_reason = f"interrupted by {signal.Signals(number).name}"
        # A batch may take several steps at once and jump over a multiple of `save.every`.
        if self.stop_reason or (save and state.step // save > self.saver.saved // save):
            self._flush()
            self._save()
        if self.held_out.moments.pass_step() and self.stop_reason is None:
            self._flush()
            with self.parts.log.paused():
                self.held_out.evaluate(state.step)
            self.stop_reason = self.stop_reason or self.held_out.stop()
        if self.grids.pass_step() and self.stop_reason is None:
            self._flush()
            with self.parts.log.paused():
                self.grids.draw(state.step)
        state.before = state.step

    def _flush(self) -> None:
        reason = self.parts.log.flush(self.stream.position, self.ctx.last_rollout)
        self.stop_reason = self.stop_reason or reason

    def _save(self) -> None:
        """On every process: the main one writes what is not saved already."""
        if self.saver.saved == self.state.step:
            return
        if self.run.is_main:
            self.saver.save(self.parts.tell_of_checkpoint)
        self.saver.saved = self.state.step
        self.accelerator.wait_for_everyone()

    def _finish(self) -> RunSummary:
        """Evaluate and save what was trained, unless a signal came, also after the last step."""
        interrupted = bool(largest(self.accelerator, self.signals.number))
        if self.ctx.facts is not None and self.ctx.facts.is_open and self.state.step:
            LOG.warning("no step of this run had a gradient: nothing was trained")
        # A machine that sends SIGTERM gives seconds, and an evaluation takes minutes.
        after = None if interrupted else self.held_out.evaluate(self.state.step)
        if not interrupted:
            self.grids.end(self.state.step)
        if self.run.is_main:
            self._save_trained()
        spent = self.parts.meter.describe() if self.is_spent else None
        summary = RunSummary(
            status=self._status(interrupted),
            reason=self.stop_reason or spent,
            step=self.state.step,
            samples=self.stream.position,
            cost=self.ctx.cost,
            train_seconds=self.state.seconds,
            peak_memory_bytes=peak_memory(self.accelerator.device),
            evaluation=self.held_out.compare(after),
            of_sets=self.held_out.compare_sets(after),
            not_compared=self.held_out.not_compared,
            alarms=self.held_out.alarms,
            best=self.held_out.best.to_json(),
        )
        self.plugins.call("on_run_end", run=self.run, summary=summary.to_json())
        return summary

    def _status(self, interrupted: bool) -> Status:
        if interrupted:
            return "interrupted"
        return "stopped" if self.stop_reason else "finished"

    def _save_trained(self) -> None:
        folder, adapter, step = self.run.folder, self.session.adapter, self.state.step
        save_trained(adapter, folder / "adapter", step)
        if self.parts.ema.decay is not None:
            with self.parts.ema.applied():
                save_trained(adapter, folder / "adapter_ema", step)

    def fail(self, error: BaseException) -> BaseException:
        """Save and tell what there is; returns what to raise: `error` or what it has led to."""
        return fail(self.parts, error, self.signals.is_forged)
