"""What a run must remember to continue to the same bits, and how it is put back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewardft.errors import CheckpointError
from rewardft.policy.adapter import load_adapter
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.storage.checkpoint import read_state, read_tensors

if TYPE_CHECKING:
    from rewardft.engine.trainer import Trainer

LOG = logging.getLogger(__name__)
# May differ on resume.
FREE_KEYS = (
    "train.steps",
    "train.budget",
    "train.log_every",
    "train.report_to",
    "evaluate.",
    "save.",
)


def training_state(trainer: Trainer) -> tuple[dict[str, Any], dict[str, Any]]:
    """(tensors, numbers) of a checkpoint. Noise needs no state: it is a function of seed, pass,
    sample and step."""
    memory = trainer.ctx.memory
    tensors = {
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "memory": {k: v for k, v in memory.items() if isinstance(v, (Tensor, dict, list))},
        "ema": trainer.ema.weights,
    }
    state = {
        "position": trainer.stream.position,
        "closings": trainer.closings,
        "cost": trainer.ctx.cost,
        "train_seconds": trainer.seconds,
        "dearest_batch": {trainer.meter.budget.axis: trainer.meter.batch}
        if trainer.meter.budget
        else {},
        "memory": {k: v for k, v in memory.items() if not isinstance(v, (Tensor, dict, list))},
        "recipe_sha256": trainer.recipe.digest(),
        "plugin_files": trainer.session.plugin_files,
    }
    return tensors, state


def restore(trainer: Trainer, path: Path) -> int:
    """Put a checkpoint back; returns its step."""
    state = read_state(path)
    before, now = state.get("plugin_files", {}), trainer.session.plugin_files
    trainer.changed_plugins = check_same_plugins(before, now, trainer.allow_changed_plugins)
    load_adapter(trainer.adapter, path)
    tensors = read_tensors(path, trainer.accelerator.device)
    trainer.optimizer.load_state_dict(tensors["optimizer"])
    trainer.schedule.load_state_dict(tensors["schedule"])
    torch.set_rng_state(tensors["rng"].cpu())
    if tensors["cuda_rng"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([s.cpu() for s in tensors["cuda_rng"]])
    trainer.ctx.memory.update(tensors["memory"] | state["memory"])
    trainer.ema.load(tensors.get("ema", {}))
    trainer.ctx.restore_cost(state["cost"])
    trainer.seconds = state["train_seconds"]
    if trainer.meter.budget is not None:
        batch = state["dearest_batch"].get(trainer.meter.budget.axis, 0.0)
        trainer.meter.restore(state["cost"], state["step"], state["train_seconds"], batch)
    trainer.stream.position, trainer.closings = state["position"], state["closings"]
    return int(state["step"])


def check_same_recipe(path: Path, recipe: Recipe) -> None:
    """Only lengths, logging, evaluation and saving may change on resume; raises CheckpointError
    otherwise."""
    before, now = flatten(load_recipe(path).dump()), flatten(recipe.dump())
    keys = (k for k in before.keys() | now.keys() if not k.startswith(FREE_KEYS))
    changed = sorted(k for k in keys if before.get(k) != now.get(k))
    if changed:
        lines = "\n".join(
            f"  - {k}: {before.get(k)!r} in the run, {now.get(k)!r} in the recipe" for k in changed
        )
        raise CheckpointError(
            f"{path.parent}: this run was started with other settings, so resuming would not "
            f"continue it\n{lines}\n"
            "Restore them, or start a new run with another --out."
        )


def check_same_plugins(
    before: Mapping[str, str], now: Mapping[str, str], allowed: bool
) -> list[str]:
    """The file plugins that are not those of the checkpoint; raises CheckpointError for them unless
    `allowed`."""
    changed = [file for file, digest in now.items() if before.get(file) != digest]
    if not changed:
        return []
    text = f"edited since the checkpoint was saved: {', '.join(changed)}"
    if not allowed:
        raise CheckpointError(
            f"{text}. Resuming would not continue the same run. Restore the code, or go on with "
            "the new one by --resume --allow-changed-plugins."
        )
    LOG.warning("%s; going on with the new code", text)
    return changed


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
