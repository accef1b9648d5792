"""Finished runs: open one again, evaluate it against its base model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rewardft.adapter import load_adapter
from rewardft.checkpoint import latest_checkpoint, read_state, write_text
from rewardft.engine import train
from rewardft.errors import CheckpointError
from rewardft.evaluation import compare
from rewardft.plugins import load_plugins
from rewardft.recipe import load_recipe
from rewardft.resolve import resolve
from rewardft.session import Session, build_session, run_evaluation


def run_recipe_file(path: Path, out: Path, overrides: Sequence[str] = (), resume: bool = False) -> dict[str, Any]:
    """Load, check and run a recipe; returns the summary of `rewardft.engine.train`."""
    recipe = load_recipe(path, list(overrides))
    plugins = load_plugins(recipe.plugins, base=path.resolve().parent)
    return train(recipe, plugins, resolve(recipe, plugins), out, resume)


def open_run(folder: Path, overrides: Sequence[str] = ()) -> Session:
    """The session of a run with its base model; `load_trained` puts the trained weights in."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(f"{folder}: not a run folder; expected a recipe.yaml in it, as `rewardft run` writes it")
    recipe = load_recipe(path, list(overrides))
    plugins = load_plugins(recipe.plugins, base=folder)
    return build_session(recipe, resolve(recipe, plugins), best_device())


def load_trained(session: Session, folder: Path) -> int | None:
    """Load the final adapter, or the newest checkpoint of a run that did not finish; returns its step if known."""
    if (folder / "adapter").is_dir():
        load_adapter(session.adapter, folder / "adapter")
        return None
    checkpoint = latest_checkpoint(folder)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: nothing trained is saved in it yet (no adapter/ and no checkpoints/)")
    state = read_state(checkpoint)
    load_adapter(session.adapter, checkpoint)
    return int(state["step"])


def evaluate_run(folder: Path, samples: int | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Base and tuned model on the same held-out samples and noise; written to `evaluation.json`.

    Args:
        folder: a run folder.
        samples: how many held-out samples; None: as the recipe says.
        overrides: `key=value` for the recipe's `evaluate` section.

    Returns:
        {"step", "samples", "rows": one dictionary per value and group, see `rewardft.evaluation.Paired`}.
    """
    session = open_run(folder, overrides)
    count = samples or session.recipe.evaluate.samples
    before = run_evaluation(session, count)
    step = load_trained(session, folder)
    after = run_evaluation(session, count)
    rows = [{**asdict(row), "separable": row.separable} for row in compare(before, after)]
    result = {"step": step, "samples": len(before.ids), "rows": rows}
    tables = {"base": before.to_json(), "tuned": after.to_json()}
    write_text(folder / "evaluation.json", json.dumps(result | tables))
    return result


def best_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
