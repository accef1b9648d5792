"""What a run starts from: the base model, or weights that were trained before (`adapter.init`)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from rewardft.errors import CheckpointError
from rewardft.policy.adapter import start_from
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora
from rewardft.policy.snapshots import load_snapshot, take_snapshot
from rewardft.recipe.recipe import Recipe, load_recipe

LOG = logging.getLogger(__name__)


def load_initial(adapter: Lora | FullFineTuning, recipe: Recipe) -> None:
    """Give a new run the weights that its recipe names, if it names any.

    Raises CheckpointError for weights that do not fit.
    """
    if recipe.adapter.init is None:
        return
    folder = Path(recipe.adapter.init)
    start_from(adapter, folder, recipe.adapter)
    check_same_base(folder, recipe)


@contextmanager
def beginning(adapter: Lora | FullFineTuning, recipe: Recipe) -> Iterator[None]:
    """Inside, the model is what the run started from, without autograd; afterwards the trained
    weights are back, to the same bits.

    Raises ComponentError where full fine-tuning has overwritten a base that nobody has a copy of.
    """
    if recipe.adapter.init is None:
        with torch.no_grad(), adapter.disabled():
            yield
        return
    trained = take_snapshot(adapter)
    try:
        # The same files as at the start: their digests were compared when the run was resumed.
        start_from(adapter, Path(recipe.adapter.init), recipe.adapter)
        with torch.no_grad():
            yield
    finally:
        load_snapshot(trained, adapter)


def check_same_base(folder: Path, recipe: Recipe) -> None:
    """Compare the model with that of the run in whose folder the weights lie, if they lie in one:
    the same one, perhaps with other options, which are told."""
    beside = folder.parent / "recipe.yaml"
    if not beside.is_file():
        return
    # Shapes may fit by chance in another model, and the weights would then mean nothing.
    before, now = load_recipe(beside).model, recipe.model
    if before.use != now.use:
        raise CheckpointError(
            f"{folder}: these weights were trained in the model {before.use!r} ({beside}), and "
            f"this recipe's is {now.use!r}."
        )
    # Only a warning: another guidance or resolution is a legitimate reason to train on.
    old, new = before.as_options(), now.as_options()
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    if changed:
        LOG.warning(
            "adapter.init: the weights of %s were trained with other options of the model: %s",
            folder,
            ", ".join(f"{key} {old.get(key)!r} (now {new.get(key)!r})" for key in changed),
        )
