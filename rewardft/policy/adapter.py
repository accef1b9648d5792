"""What is trained: a LoRA adapter inside the model (through peft), or all of its weights.

The reference policy is the adapter switched off; only full fine-tuning keeps a frozen copy, and
only when asked to.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewardft.errors import CheckpointError
from rewardft.files.json_text import read_object
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora
from rewardft.policy.pipeline_lora import pipeline_file, read_pipeline_lora
from rewardft.policy.weights import read_weights

if TYPE_CHECKING:
    from rewardft.recipe.recipe import AdapterSpec


def attach(model: Any, spec: AdapterSpec, seed: int, keep_reference: bool) -> Lora | FullFineTuning:
    """Make `model.trainable` trainable as the recipe's adapter section says.

    keep_reference: full fine-tuning keeps a frozen copy of the weights as the reference policy.
    """
    # The recipe allows only these two kinds.
    if spec.kind == "full":
        return FullFineTuning(model, keep_reference)
    return Lora(model, spec, seed)


def start_from(adapter: Lora | FullFineTuning, folder: Path, spec: AdapterSpec) -> None:
    """Load the weights that `adapter.init` names. Raises CheckpointError for a folder that holds
    none, or those of another rank, strength, place or model."""
    if isinstance(adapter, Lora) and (file := pipeline_file(folder)) is not None:
        return adapter.load_state_dict(read_pipeline_lora(file, adapter), str(file))
    if not folder.is_dir():
        raise CheckpointError(
            f"adapter.init: no folder at {str(folder)!r}. Expected one with trained weights, such "
            "as `adapter` in the folder of a run."
        )
    if isinstance(adapter, Lora):
        path = folder / "adapter_config.json"
        # The strength alpha / r is in no tensor: weights of another one would load without a word.
        found = read_object(path, {"r": int}, "It must be as peft writes it.")
        for key, own in (("r", spec.rank), ("lora_alpha", spec.alpha or spec.rank)):
            if found.get(key) != own:
                name = "rank" if key == "r" else "alpha"
                raise CheckpointError(
                    f"{path}: {key} is {found.get(key)}, and the recipe's adapter.{name} is "
                    f"{own:g}. Set adapter.{name}={found.get(key)} to start from it."
                )
        for key in ("use_rslora", "alpha_pattern"):
            if found.get(key):
                raise CheckpointError(
                    f"{path}: {key} is {found[key]!r:.60}, with which the same tensors have "
                    "another strength than alpha / rank in each layer, as it is here. Train from "
                    "weights without it."
                )
    load_adapter(adapter, folder)


def load_adapter(adapter: Lora | FullFineTuning, folder: Path) -> None:
    """Load what `save` wrote."""
    name = "adapter_model.safetensors" if isinstance(adapter, Lora) else "model.safetensors"
    path = folder / name
    adapter.load_state_dict(read_weights(path), str(path))
