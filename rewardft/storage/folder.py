"""The run folder when a run starts or is resumed: what is in the way, what is stale, what was
evaluated."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardft.errors import CheckpointError, RewardftError
from rewardft.files.atomic import remove_folder, write_text
from rewardft.files.json_text import read_object, reading
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.storage.checkpoint import (
    BEST,
    best_step,
    evaluations_in,
    latest_checkpoint,
    step_of,
)
from rewardft.storage.recorder import read_records, rewind_metrics
from rewardft.storage.resume import check_same_recipe

LOG = logging.getLogger(__name__)


def claim(out: Path, recipe: Recipe, resume: bool) -> Path | None:
    """Returns the checkpoint to resume from; a new run gets its `recipe.yaml`. An existing run is
    never overwritten."""
    started = (out / "manifest.json").exists()  # a recipe alone: that run could not be built
    if (out / "recipe.yaml").exists() and (started or resume):
        if not resume:
            raise CheckpointError(
                f"{out} already holds {what_is_there(out)}, or give another folder with --out."
            )
        # Before anything is changed in the folder: a refusal must leave the run as it was.
        check_same_recipe(out / "recipe.yaml", recipe)
        return latest_checkpoint(out)
    if resume:
        raise CheckpointError(
            f"{out}: nothing to resume; there is no recipe.yaml in it. Leave --resume out."
        )
    # `--out .` beside one's own recipe must not replace it by the resolved one.
    check_own_recipe(out / "recipe.yaml", recipe)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "recipe.yaml", recipe.to_yaml())
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot be written ({error}). Give another folder with --out."
        ) from error
    return None


def check_own_recipe(path: Path, recipe: Recipe) -> None:
    """A run that could not be built left its recipe, and nothing else; any other is somebody's own.

    Raises CheckpointError rather than overwrite that.
    """
    if os.path.lexists(path) and not is_written_by_a_run(path, recipe):
        raise CheckpointError(
            f"{path} already exists and was not written by a run, so it is not overwritten. Give "
            "another folder with --out."
        )


def is_written_by_a_run(path: Path, recipe: Recipe) -> bool:
    """Whether a recipe is as `Recipe.to_yaml` writes one, and not the file that is being run."""
    try:
        # Also by another spelling or a link.
        if path.samefile(recipe.source):
            return False
        text = path.read_text(encoding="utf-8")
        return text == load_recipe(path).to_yaml()
    except (OSError, UnicodeDecodeError, RewardftError):
        return False


def hold(out: Path, make: bool) -> int | None:
    """A handle that holds a run folder until it is closed, so that no second process trains in it.

    It is the folder itself that is locked: nothing is left behind, whatever becomes of the process.
    None where there is no such folder; raises CheckpointError when another process holds it.
    """
    # Before anything is read or written there, so that two starts cannot both find it free.
    handle = open_folder(out, make)
    if handle is None or lock(handle):
        return handle
    # Perhaps somebody only looks whether it is held, see `is_held`: that takes no time.
    time.sleep(0.2)
    if lock(handle):
        return handle
    os.close(handle)
    raise CheckpointError(
        f"{out}: another process is training in this folder. Wait for it, end it, or give "
        "another folder with --out."
    )


def is_held(out: Path) -> bool:
    """Whether a process is training in a run folder."""
    handle = open_folder(out, make=False)
    if handle is None:
        return False
    try:
        # The lock that was taken to find out goes with the handle. A shared one: two that look at
        # once must not take each other for the run.
        return not lock(handle, shared=True)
    finally:
        os.close(handle)


def open_folder(path: Path, make: bool) -> int | None:
    """A handle of a folder, which is made if wanted; None where it cannot be opened."""
    try:
        if make:
            path.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDONLY)
    except OSError:
        return None


def lock(handle: int, shared: bool = False) -> bool:
    """Whether the lock is ours until the handle is closed; True as well where the file system knows
    no locks.

    shared: with others that ask for a shared one.
    """
    try:
        import fcntl
    except ImportError:  # not POSIX
        return True
    try:
        # The system drops the lock with the process, however that ends: no stale lock file.
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # network file systems without locks
        return True
    return True


def what_is_there(out: Path) -> str:
    """The run in a folder, and what can be done with it."""
    # Before the summary: an observer may have failed after that was written.
    if (out / "error.txt").exists():
        unsaved = latest_checkpoint(out) is None
        code = ", and --allow-changed-plugins if you fixed a plugin"
        how = (
            "Once that is fixed, start over in it with --resume"
            if unsaved
            else f"Continue it with --resume{code}"
        )
        when = " before it saved a checkpoint" if unsaved else ""
        return f"a run that failed{when}; error.txt says why. {how}"
    if (out / "summary.json").exists():
        how = "Continue the run with --resume, which writes it anew."
        if read_object(out / "summary.json", {"status": str}, how)["status"] == "finished":
            return (
                "a finished run. Continue it with --resume and a larger train.steps or train.budget"
            )
    return "a run. Continue it with --resume"


def rewind_folder(out: Path, recipe: Recipe, checkpoint: Path | None) -> None:
    """Rewind the run folder to `checkpoint`, once that has been loaded.

    What came later is dropped, for the run will make it again, and so is how the run ended. Without
    a checkpoint (None) the run starts over, and the user is told so.
    """
    if checkpoint is None:
        LOG.warning("%s: no checkpoint was saved; starting from step 0", out)
        (out / "metrics.jsonl").unlink(missing_ok=True)
        drop_evaluations(out)
        drop_grids(out, -1)
    else:
        # Metrics before evaluations: those are kept or dropped by what the metrics know of them.
        rewind_metrics(out / "metrics.jsonl", step_of(checkpoint))
        rewind_evaluations(out, step_of(checkpoint))
        drop_grids(out, step_of(checkpoint))
    # Weights of the end of the run before: they would be taken for those of this one.
    remove_folder(out / "adapter", mark="step.json")
    remove_folder(out / "adapter_ema", mark="step.json")
    drop_best(out, 0 if checkpoint is None else step_of(checkpoint))
    for path in (out / "summary.json", *out.glob("error*.txt")):
        path.unlink(missing_ok=True)
    replace_recipe(out, recipe, 0 if checkpoint is None else step_of(checkpoint))


def drop_evaluations(out: Path) -> None:
    """Remove all evaluations of a run, and their folder if nothing else is in it."""
    for path in evaluations_in(out):
        path.unlink()
    with contextlib.suppress(OSError):  # not there, or something of somebody else's in it
        (out / "evaluations").rmdir()


def drop_grids(out: Path, step: int) -> None:
    """Remove the grids of samples that were drawn after `step`."""
    for drawn_at, path in grids_in(out).items():
        if drawn_at > step:
            path.unlink()


def grids_in(out: Path, prefix: str = "grid") -> dict[int, Path]:
    """The grids of samples in a run folder by their steps, in their order.

    prefix: of their names; what plugins paint begins with `step`.
    """
    paths = sorted((out / "samples").glob(f"{prefix}-*.png"))
    steps = ((path.stem.removeprefix(f"{prefix}-"), path) for path in paths)
    return {int(step): path for step, path in steps if step.isdecimal()}


def drop_best(out: Path, step: int) -> None:
    """Remove the weights of the best evaluation where it came after `step`."""
    kept = best_step(out)
    if kept is not None and kept > step:
        remove_folder(out / BEST, mark="step.json")


def replace_recipe(out: Path, recipe: Recipe, step: int) -> None:
    """Write the recipe of the resumed run; the one before, if it differs, is kept as
    `recipe.before-step-STEP.yaml`."""
    path = out / "recipe.yaml"
    # The text may differ where the settings do not.
    if load_recipe(path).dump() == recipe.dump():
        return
    kept, number = out / f"recipe.before-step-{step:08d}.yaml", 1
    while kept.exists():  # resumed from this step before, with other settings again
        number += 1
        kept = out / f"recipe.before-step-{step:08d}-{number}.yaml"
    write_text(kept, path.read_text(encoding="utf-8"))
    write_text(path, recipe.to_yaml())


def rewind_evaluations(out: Path, step: int) -> None:
    """Drop evaluations after `step`, and the one of `step` if a kill came before `metrics.jsonl`
    was told of it."""
    told = any(is_evaluation(record, step) for record in read_records(out / "metrics.jsonl"))
    for path in evaluations_in(out):
        if step_of(path) > step or (step_of(path) == step and not told):
            path.unlink()


def is_evaluation(record: Mapping[str, Any], step: int) -> bool:
    """Whether a record of `metrics.jsonl` is the evaluation of `step`."""
    return record.get("step") == step and any(name.startswith("evaluation/") for name in record)


def resumptions(out: Path, step: int, changed: list[str]) -> list[dict[str, Any]]:
    """Every time that the run was resumed, this one last: the step, and the plugin files that
    had been edited."""
    path = out / "manifest.json"
    how = "Delete it: the list of earlier resumptions is then lost, and the run continues."
    with reading(path, how):
        listed = read_object(path, {}, how).get("resumed", []) if path.exists() else []
        earlier = [dict(one) for one in listed]
    return [*earlier, {"step": step, "changed_plugins": changed}]
