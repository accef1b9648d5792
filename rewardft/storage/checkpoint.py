"""Checkpoints: written beside the old ones, complete or absent, and resumed to the same bits.

A checkpoint is a folder `checkpoints/step-00000200` with the adapter (safetensors), the optimizer
and random state (`torch.save`, read with `weights_only=True`) and `state.json`, which lists every
file with its size and SHA-256. It is written under a temporary name and renamed at the end, so that
a kill at any moment leaves the previous one in place.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError

from rewardft.errors import CheckpointError
from rewardft.files.atomic import remove_folder, write_folder
from rewardft.files.digests import sha256
from rewardft.files.json_text import read_object

# Raised whenever what a checkpoint holds changes its form: an older one is then refused by name.
FORMAT = 2
BEST = "adapter_best"  # the folder of the weights of the best evaluation
FACTS = {"step", "files"}  # what state.json must have beside the format


class Part(Protocol):
    """A part of a run that a checkpoint holds: plain tensors, numbers, text and containers."""

    def state_dict(self) -> Mapping[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


def save_checkpoint(
    run: Path, step: int, adapter: Any, tensors: dict[str, Any], state: dict[str, Any], keep: int
) -> Path:
    """Write one checkpoint and drop the oldest beyond `keep` (0 keeps all).

    tensors: optimizer, scheduler and random state; anything that `torch.load(weights_only=True)`
        reads.
    state: numbers and strings, for `state.json`.
    """

    def fill(folder: Path) -> None:
        with as_disk_error(), (folder / "training.pt").open("wb") as file:
            adapter.save(folder)
            torch.save(tensors, file)
        files = {
            p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)}
            for p in sorted(folder.iterdir())
        }
        text = json.dumps({"format": FORMAT, "step": step, "files": files, **state}, indent=2)
        # Last: it lists the others, and marks the folder as a checkpoint.
        (folder / "state.json").write_text(text)

    path = run / "checkpoints" / f"step-{step:08d}"
    write_folder(path, fill, mark="state.json")
    drop_old(path.parent, keep)
    return path


@contextmanager
def as_disk_error() -> Iterator[None]:
    """Raise what the libraries raise on a full disk as what Python raises there."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        # The first line: torch adds a C++ stack.
        raise OSError(str(error).partition("\n")[0]) from error


def save_trained(adapter: Any, folder: Path, step: int) -> None:
    """The trained weights, and the step that they are of: a resumed run may have newer ones in a
    checkpoint."""

    def fill(temporary: Path) -> None:
        with as_disk_error():
            adapter.save(temporary)
        # Beside the weights and in the same rename, so that the two cannot disagree.
        (temporary / "step.json").write_text(json.dumps({"step": step}))

    write_folder(folder, fill, mark="step.json")


def trained_step(folder: Path, fix: str) -> int | None:
    """The step of what `save_trained` wrote into a folder; None without any. Raises CheckpointError
    for a damaged file, which ends with `fix`."""
    path = folder / "step.json"
    return int(read_object(path, {"step": int}, fix)["step"]) if path.is_file() else None


def best_step(run: Path) -> int | None:
    """The step of the best evaluation whose weights a run has kept; None without any."""
    folder = run / BEST
    return trained_step(
        folder, f"Delete {folder}: the weights of the best evaluation are then lost."
    )


def drop_old(folder: Path, keep: int) -> None:
    """Remove what killed saves left behind, and all but the newest `keep` checkpoints (0: none of
    them)."""
    for path in folder.glob(".step-*"):
        # Only names that `write_folder` gives: anything else hidden here is somebody's own.
        if re.fullmatch(r"\.step-[0-9]{8,}\.([0-9]+\.tmp|old)", path.name):
            shutil.rmtree(path, ignore_errors=True)
    if keep > 0:
        # Only after the new one is in place, so that there is always one to go on from.
        for path in checkpoints(folder)[:-keep]:
            remove_folder(path, mark="state.json")


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first; other names are not ours."""
    # Names have leading zeros, so that their order is that of the steps.
    return sorted(p for p in folder.glob("step-*") if re.fullmatch(r"step-[0-9]{8,}", p.name))


def evaluations_in(run: Path) -> list[Path]:
    """The files of a run's evaluations, in the order of their steps; other names are not ours."""
    found = (run / "evaluations").glob("step-*.json")
    return sorted(p for p in found if re.fullmatch(r"step-[0-9]{8,}\.json", p.name))


def latest_checkpoint(run: Path) -> Path | None:
    """The newest checkpoint of a run; None when there is none."""
    found = checkpoints(run / "checkpoints")
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint or an evaluation: `step-00000200`, with or without an
    ending."""
    return int(path.stem.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """`state.json`, after checking that every file it lists is there and unchanged."""
    state = read_facts(path)
    for name, facts in state["files"].items():
        file = path / name
        if (
            not file.is_file()
            # The size first: it finds a truncated file without reading it.
            or file.stat().st_size != facts["bytes"]
            or sha256(file) != facts["sha256"]
        ):
            raise CheckpointError(
                f"{file}: missing, truncated or changed since it was saved (expected "
                f"{facts['bytes']} bytes with SHA-256 {facts['sha256'][:12]}...). Delete {path} to "
                "resume from an older checkpoint."
            )
    return state


def read_facts(path: Path) -> dict[str, Any]:
    """`state.json` alone. Raises CheckpointError unless it is as `save_checkpoint` writes it."""
    older = "Delete the folder to resume from an older one."
    try:
        # Every field is checked before use: the file may be cut short, or of another program.
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a checkpoint ({error}). {older}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        got = state.get("format") if isinstance(state, dict) else repr(state)
        raise CheckpointError(f"{path}: expected checkpoint format {FORMAT}, got {got}. {older}")
    if absent := sorted(FACTS - state.keys()):
        raise CheckpointError(
            f"{path / 'state.json'}: expected {' and '.join(absent)} in it. {older}"
        )
    if not isinstance(state["step"], int) or not are_files(state["files"]):
        raise CheckpointError(
            f"{path / 'state.json'}: expected a step number, and the size and SHA-256 of each "
            f"file; got step {state['step']!r} and files {state['files']!r:.200}. {older}"
        )
    return state


def are_files(listed: Any) -> bool:
    """Whether `files` of state.json is {name: {"bytes": number, "sha256": text}}, names without
    folders."""
    return isinstance(listed, dict) and all(
        # A name with a folder in it would let the list point outside of the checkpoint.
        Path(name).name == name
        and isinstance(facts, dict)
        and isinstance(facts.get("bytes"), int)
        and isinstance(facts.get("sha256"), str)
        for name, facts in listed.items()
    )


def read_tensors(path: Path, device: torch.device) -> dict[str, Any]:
    """The state of every part of a run; only plain tensors and containers are unpickled."""
    # `torch.load` does not know `cpu:0`, a launcher's name for it.
    place = "cpu" if device.type == "cpu" else device
    file = path / "training.pt"
    try:
        # weights_only: no code in a pickle is run, whoever made the file.
        state = torch.load(file, map_location=place, weights_only=True)
    except Exception as error:
        (reason, *_) = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"{file}: not what a run saved ({reason}). Delete {path} to resume from an older "
            "checkpoint."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: expected a dictionary, got a {type(state).__name__}")
    return state
