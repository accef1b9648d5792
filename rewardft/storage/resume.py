"""Whether a run may be resumed, and how its parts are restored from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rewardft.errors import CheckpointError
from rewardft.policy.adapter import load_adapter
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.storage.checkpoint import Part, read_tensors

# May change on resume: the run's length, and what is measured, logged and kept.
FREE_KEYS = (
    "train.steps",
    "train.budget",
    "train.log_every",
    "train.report_to",
    "evaluate.",
    "samples.",
    "save.",
)


def restore(path: Path, adapter: Any, parts: Mapping[str, Part], device: torch.device) -> None:
    """Restore every part from a checkpoint that `read_state` has checked.

    Raises CheckpointError for a part that is missing or does not fit.
    """
    load_adapter(adapter, path)
    tensors = read_tensors(path, device)
    for name, part in parts.items():
        if name not in tensors:
            raise CheckpointError(f"{path / 'training.pt'}: holds no {name!r}. {other_way(path)}")
        try:
            part.load_state_dict(tensors[name])
        # What parts of torch and of plugins raise for a state of another form.
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"{path / 'training.pt'}: its {name!r} does not fit this run "
                f"({type(error).__name__}: {error}). {other_way(path)}"
            ) from error


def other_way(path: Path) -> str:
    """What to do about a checkpoint that is of no use."""
    return f"Delete {path} to resume from an older checkpoint."


def check_same_recipe(path: Path, recipe: Recipe) -> None:
    """Only lengths, logging, evaluation and saving may change on resume; raises CheckpointError
    otherwise."""
    before, now = flatten(load_recipe(path).dump()), flatten(recipe.dump())
    # Both as they were resolved: a default that is written out is no change.
    keys = (k for k in before.keys() | now.keys() if not k.startswith(FREE_KEYS))
    changed = sorted(k for k in keys if before.get(k) != now.get(k))
    if changed:
        lines = "\n".join(
            f"  - {k}: {before.get(k)!r} in the run, {now.get(k)!r} in the recipe" for k in changed
        )
        raise CheckpointError(
            f"{path.parent}: this run was started with other settings, so resuming would not "
            f"continue it\n{lines}\nRestore them, or start a new run with another --out."
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as `a.b.0.c` -> value."""
    if isinstance(value, dict):
        items = [(str(k), v) for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(i), v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in items:
        result |= flatten(item, f"{prefix}.{key}" if prefix else key)
    return result
