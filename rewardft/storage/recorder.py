"""The run folder: metrics, trackers and how the run ended. An observer like any plugin's."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from rewardft.contracts.hookspecs import hookimpl
from rewardft.contracts.run import Run
from rewardft.errors import CheckpointError, RecipeError, RewardftError, did_you_mean
from rewardft.files.atomic import write_folder, write_text
from rewardft.files.json_text import encode
from rewardft.types import Batch, Rollout

if TYPE_CHECKING:
    from rewardft.contracts.alarm import Alarm


class Recorder:
    """Writes `metrics.jsonl` (a line per optimizer step) and forwards to accelerate's trackers on
    the main process."""

    def __init__(self, folder: Path, accelerator: Any, is_main: bool) -> None:
        self.path, self.accelerator, self.is_main = folder / "metrics.jsonl", accelerator, is_main

    @hookimpl
    def on_step_end(self, run: Run, step: int, metrics: Mapping[str, float]) -> None:
        # The file first: a tracker's service may be down, and its error ends the run.
        self._write({"step": step, **metrics})
        self.accelerator.log(dict(metrics), step=step)

    @hookimpl
    def on_evaluation_end(
        self, run: Run, step: int, metrics: Mapping[str, float], alarms: Sequence[Alarm]
    ) -> None:
        prefixed = {f"evaluation/{name}": value for name, value in metrics.items()}
        self._write({"step": step, **prefixed, "alarms": [alarm.name for alarm in alarms]})
        self.accelerator.log({**prefixed, "evaluation/alarms": len(alarms)}, step=step)

    @hookimpl
    def on_samples_drawn(self, run: Run, step: int, path: Path) -> None:
        for tracker in self.accelerator.trackers:
            log_picture(tracker, path, step)

    @hookimpl
    def on_run_end(self, run: Run, summary: Mapping[str, Any]) -> None:
        if self.is_main:
            write_text(run.folder / "summary.json", encode(summary, indent=2))
        self._finish_trackers()

    @hookimpl
    def on_run_error(self, run: Run, step: int, error: BaseException) -> None:
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        rank = self.accelerator.process_index
        path = run.folder / (f"error-process{rank}.txt" if rank else "error.txt")
        # The first line is the step; those who read the error skip it.
        write_text(path, f"step {step}\n{text}")
        # A bug's traceback is on the screen in part only; an expected error is one message.
        if not isinstance(error, (RewardftError, KeyboardInterrupt)):
            error.add_note(f"at step {step}; the whole traceback is in {path}")
        self._finish_trackers()

    def _finish_trackers(self) -> None:
        """Not accelerate's `end_training`, which would end the process group under the other
        observers."""
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def _write(self, record: Mapping[str, Any]) -> None:
        if self.is_main:
            append_line(self.path, encode(record))


def log_picture(tracker: Any, path: Path, step: int) -> None:
    """Give a tracker a picture, if it takes any, in the form that it asks for."""
    # Not all of accelerate's trackers do.
    if not hasattr(tracker, "log_images"):
        return
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    if tracker.name == "tensorboard":
        tracker.log_images({"samples": np.asarray(picture)[None]}, step=step, dataformats="NHWC")
    else:  # some take one picture by name, most a list of them
        alone = tracker.name in ("aim", "clearml")
        tracker.log_images({"samples": picture if alone else [picture]}, step=step)


def append_line(path: Path, line: str) -> None:
    """Add a line, whole or not at all. Raises CheckpointError when it cannot be written."""
    # A full disk may take half of a line; cut back to here, the file stays readable.
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(line.encode() + b"\n")
    except OSError as error:
        with contextlib.suppress(OSError):
            os.truncate(path, before)
        raise CheckpointError(f"{path}: could not be written ({error})") from error


def check_trackers(source: str, names: Sequence[str]) -> None:
    """Raises RecipeError for a tracker that accelerate does not know, or whose package is missing:
    accelerate itself leaves the latter out silently."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    # All names that accelerate has, and those whose package it can tell to be missing.
    known, own = set(map(str, LOGGER_TYPE_TO_CLASS)), set(map(str, LoggerType))
    missing = own - set(map(str, get_available_trackers()))
    problems = [
        f"train.report_to: accelerate knows no tracker {n!r}.{did_you_mean(n, known)}"
        for n in names
        if n not in known
    ]
    problems += [
        f"train.report_to: the package of the tracker {n!r} is not installed: {pip_line(n)}, or "
        f"leave {n!r} out; metrics.jsonl is written in any case."
        for n in names
        if n in known & missing
    ]
    if problems:
        raise RecipeError(source, problems)


def pip_line(tracker: str) -> str:
    """The command that installs a tracker of accelerate."""
    ours = tracker in ("tensorboard", "wandb")
    return "pip install 'rewardft[trackers]'" if ours else f"pip install {tracker}"


def rewind_metrics(path: Path, step: int) -> None:
    """Drop lines after `step`, and a line cut short by a kill, before a run is resumed."""
    if path.exists():
        kept = [record for record in read_records(path) if record["step"] <= step]
        write_text(path, "".join(encode(record) + "\n" for record in kept))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of `metrics.jsonl`, none without the file; a last line that a kill cut short is
    left out.

    Raises CheckpointError for any other damaged line.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_line(line)
        if record is not None:
            records.append(record)
        # Only the last line can be a kill's; any other is damage that must not be passed over.
        elif number < len(lines):
            raise CheckpointError(
                f"{path}:{number}: damaged: expected an object with a step, got {line[:60]!r}. "
                "Restore the line, or delete it: its values are then missing from curves."
            )
    return records


def parse_line(line: bytes) -> dict[str, Any] | None:
    """None for a line that is no record."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if is_record else None


class SampleDump:
    """Keeps what a failing reward was given, each process for itself, and notes on the error where
    it is."""

    def __init__(self, folder: Path, state: Any, rank: int, processes: int) -> None:
        self.folder, self.state = folder, state
        # Each process has its own slice of the batch, and its reward may fail at the same step.
        self.suffix = f"-process{rank}" if processes > 1 else ""

    def __call__(self, name: str, error: Exception, rollout: Rollout, batch: Batch) -> None:
        step = self.state.step
        path = self.folder / "failures" / f"step-{step:08d}-{name}{self.suffix}"
        dump_samples(path, step, name, error, rollout, batch)


def dump_samples(
    path: Path, step: int, name: str, error: Exception, rollout: Rollout, batch: Batch
) -> None:
    """Write the samples that a failing reward was given, their ids and the error to `path`; note it
    on the error."""
    from safetensors.torch import save_file

    def fill(folder: Path) -> None:
        # Other samples (meshes, texts) can be drawn again from the ids and epochs below.
        if isinstance(rollout.x0, Tensor):
            save_file(
                {"x0": rollout.x0.detach().cpu().contiguous()}, folder / "samples.safetensors"
            )
        facts = {
            "reward": name,
            "error": repr(error),
            "step": step,
            "ids": batch.ids,
            "epochs": batch.epochs,
        }
        (folder / "facts.json").write_text(json.dumps(facts, indent=2))

    write_folder(path, fill, mark="facts.json")
    error.add_note(
        f"reward {name!r} failed at step {step} on the samples {', '.join(batch.ids)}; dumped to "
        f"{path}"
    )
    found = numbers_as_text(batch) if isinstance(error, (TypeError, ValueError)) else None
    if found:
        error.add_note(
            f"the column {found[0]!r} holds numbers as text, such as {found[1]!r}, which is all "
            "that a .csv can hold; a .jsonl has numbers."
        )


def numbers_as_text(batch: Batch) -> tuple[str, str] | None:
    """A column of texts that are all numbers, with the first of them; None where there is none."""
    for name, values in batch.columns.items():
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            with contextlib.suppress(ValueError):
                _ = [float(value) for value in values]
                return name, values[0]
    return None
