"""`check_same_run`, `check_cut` and `check_resume`: whole runs that must not differ."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from rewardft.storage.checkpoint import step_of
from rewardft.testing.recipes import Finished, run_recipe

ROUNDING = 2e-5  # of float32 sums in another order, over a few optimizer steps
COLUMNS = ("loss", "gradient_norm")


def trained_weights(folder: Path) -> dict[str, Tensor]:
    """What a run has trained: its adapter, or the whole network."""
    # One file: peft's adapter or the whole network, by their names in `rewardft.policy`.
    (path,) = (folder / "adapter").glob("*model.safetensors")
    return load_file(path)


def check_same_run(
    one: Finished, other: Finished, tolerance: float = 0.0, columns: Sequence[str] = COLUMNS
) -> None:
    """Check that the metrics of two runs and their final weights agree.

    Args:
        tolerance: of metrics, absolute and relative; of weights, twenty times as much, absolute.
        columns: names of metrics; those that neither run has are passed over.
    """
    assert one.steps, f"{one.folder} has no optimizer step in its metrics"
    for name in columns:
        # Metrics first: the step at which they part tells more than the final weights.
        a, b = (torch.tensor(run.column(name)) for run in (one, other))
        same = a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        assert same, f"{name}: {a.tolist()} and {b.tolist()}"
    mine, theirs = trained_weights(one.folder), trained_weights(other.folder)
    assert mine.keys() == theirs.keys(), f"other weights: {sorted(mine.keys() ^ theirs.keys())}"
    for name, value in mine.items():
        # Wider than for metrics: AdamW divides by the root of tiny squares, which rounding moves.
        assert torch.allclose(value, theirs[name], rtol=0, atol=20 * tolerance), (
            f"the weights {name} differ by up to {float((value - theirs[name]).abs().max()):.2g}"
        )


def check_cut(
    recipe: Path | str,
    folder: Path,
    *overrides: str,
    accumulate: int | None = None,
    tolerance: float = ROUNDING,
) -> None:
    """Check that micro-batches of 2 and activation checkpointing change nothing in a run.

    Args:
        folder: an empty one for the runs.
        accumulate: the recipe's batch size, to check as well that as many batches of one sample
            make the same step; None for algorithms that compare the samples of a batch.
    """
    whole = run_recipe(recipe, folder / "whole", *overrides)
    ways = {"micro_batch": ["train.micro_batch=2"], "checkpointing": ["train.checkpointing=true"]}
    if accumulate is not None:
        ways["accumulate"] = ["data.batch_size=1", f"train.accumulate={accumulate}"]
    for name, settings in ways.items():
        other = run_recipe(recipe, folder / name, *overrides, *settings)
        check_same_run(whole, other, tolerance)


def check_resume(
    recipe: Path | str,
    folder: Path,
    *overrides: str,
    stop: int,
    columns: Sequence[str] = COLUMNS,
) -> Finished:
    """Check that a run that goes on from its checkpoint of step `stop` ends as one that was never
    interrupted, to the bit. Returns the latter."""
    whole, parts = run_recipe(recipe, folder / "whole", *overrides), folder / "parts"
    # A copy, so that both runs begin with the same bits up to `stop`.
    shutil.copytree(whole.folder, parts)
    for path in (parts / "checkpoints").iterdir():
        if step_of(path) > stop:
            shutil.rmtree(path)
    # A new process has another state of the global generator.
    torch.manual_seed(99)
    resumed = run_recipe(recipe, parts, *overrides, resume=True)
    assert resumed.steps[-1]["step"] == whole.steps[-1]["step"]
    check_same_run(whole, resumed, columns=columns)
    return whole
