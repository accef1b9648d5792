"""A LoRA in the layout of diffusers' pipelines, to start from: `pytorch_lora_weights.safetensors`,
as `pipe.save_lora_weights` and most published LoRAs have it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from rewardft.errors import CheckpointError
from rewardft.policy.lora import PEFT_PREFIX, PIPELINE_FILE, Lora
from rewardft.policy.weights import read_weights

# peft's matrices and, in files that are older, those of diffusers' own layers: x -> B(A(x)).
KEY = re.compile(r"(\w+?)\.(.+)\.(lora_A|lora_B|lora\.down|lora\.up)\.weight")
SIDES = {"lora.down": "lora_A", "lora.up": "lora_B"}


def pipeline_file(place: Path) -> Path | None:
    """The file that `adapter.init` means, where it means one of this layout: itself, or the one in
    a folder that has none of peft's."""
    if place.is_file():
        return place
    inside = place / PIPELINE_FILE
    return inside if inside.is_file() and not (place / "adapter_config.json").exists() else None


def read_pipeline_lora(path: Path, adapter: Lora) -> dict[str, Tensor]:
    """Its tensors by peft's names, of the strength that they have in a pipeline.

    Raises CheckpointError for another layout, another part of the pipeline, or another rank.
    """
    part, rank = adapter.pipeline_part, adapter.config.r
    state = {}
    for key, value in read_weights(path).items():
        if key.startswith(PEFT_PREFIX):
            raise CheckpointError(f"{path}: it is peft's own file. Give the folder that holds it.")
        found = KEY.fullmatch(key)
        if found is None or part is None:
            raise CheckpointError(
                f"{path}: {key} is no matrix of a LoRA for {part or 'this model'} in the layout of "
                "diffusers' pipelines. Load it in a pipeline, and give what its save_lora_weights "
                "writes."
            )
        if found[1] != part:
            raise CheckpointError(
                f"{path}: it changes the {found[1]} ({key}); here only the {part} is trained."
            )
        side = SIDES.get(found[3], found[3])
        if side == "lora_A" and value.shape[:1] != (rank,):
            raise CheckpointError(
                f"{path}: {key} has rank {value.shape[0]}, and the recipe's adapter.rank is "
                f"{rank}. Set adapter.rank={value.shape[0]} to start from it."
            )
        state[f"{PEFT_PREFIX}{found[2]}.{side}.weight"] = value
    factor = _strength(path, str(part)) / (adapter.config.lora_alpha / rank)
    return {name: v.float() * factor if ".lora_B." in name else v for name, v in state.items()}


def _strength(path: Path, part: str) -> float:
    """alpha / rank: pipelines take it from the file's metadata, and 1 without."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        facts = {key: value for key, value in dict(json.loads(text)).items() if value}
        strength = facts.get(f"{part}.lora_alpha", 1.0) / facts.get(f"{part}.r", 1.0)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its metadata are not diffusers' ({error}).") from error
    for key in (f"{part}.use_rslora", f"{part}.alpha_pattern"):
        if key in facts:
            raise CheckpointError(
                f"{path}: {key} is {facts[key]!r:.60}; expected one strength alpha / rank for all "
                "layers."
            )
    return float(strength)
