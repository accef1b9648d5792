"""From a folder or a hub id to a modular pipeline, part by part, with nothing left out in silence.

diffusers' own `load_components` warns of a part that cannot be loaded and leaves it out, and takes
pickled weights. Here each part is loaded by its class, from safetensors alone, and what fails is an
error. No code of a checkpoint runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks
from torch import nn

from rewardft.errors import ComponentError, did_you_mean
from rewardft.files.paths import looks_local

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INDEXES = ("modular_model_index.json", "model_index.json")
LIBRARIES = ("diffusers", "transformers", "tokenizers")


@dataclass(frozen=True)
class Source:
    """Where a pipeline comes from.

    weights: a folder in diffusers' layout, or a hub id; a folder of that name comes first.
    revision: commit, tag or branch on the hub. variant: of the weight files, such as fp16.
    blocks: class of diffusers with the pipeline's blocks, where the index names none.
    dtype: of all networks but those in `dtypes`, which are given by the names of their components.
    """

    weights: str
    revision: str | None = None
    variant: str | None = None
    blocks: str | None = None
    dtype: Precision = "fp32"
    dtypes: Mapping[str, Precision] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return self.weights + (f" (revision {self.revision})" if self.revision else "")


def open_pipeline(source: Source) -> Any:
    """The pipeline with its blocks and no weights yet.

    Raises ComponentError for a folder without an index, a family that has no modular pipeline, and
    unknown `blocks`.
    """
    folder = Path(source.weights)
    if folder.is_dir():
        check_folder(folder, source)
    # A misspelt path must not become a question to the hub.
    elif looks_local(source.weights):
        raise ComponentError(f"weights: {source.weights} is no folder, nor a hub id (owner/name)")
    options: dict[str, Any] = {} if source.revision is None else {"revision": source.revision}
    place = str(folder) if folder.is_dir() else source.weights
    try:
        if source.blocks is not None:
            blocks = blocks_class(source.blocks)()
            # The blocks know the class of their pipeline, where the checkpoint's index does not.
            kind: Any = type(blocks.init_pipeline())
            return kind(blocks=blocks, pretrained_model_name_or_path=place, **options)
        return ModularPipeline.from_pretrained(place, **options)
    except ComponentError:
        raise
    except Exception as error:
        # Whatever diffusers or the hub raise says where; what to do about it is said here.
        raise ComponentError(
            f"{source.place}: no modular pipeline could be made of it ({type(error).__name__}: "
            f"{error}). Check the folder or hub id; where the family has blocks in diffusers "
            f"{diffusers.__version__} that its index does not name, give `blocks`, such as "
            "`blocks: WanBlocks`."
        ) from error


def check_folder(folder: Path, source: Source) -> None:
    """Say in plain words what a local folder lacks."""
    if source.revision is not None:
        raise ComponentError(
            f"weights: {source.weights} is a folder, and folders have no revision; leave it out"
        )
    if not any((folder / name).is_file() for name in INDEXES):
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ComponentError(
            f"{folder}: expected {' or '.join(INDEXES)} of a pipeline, and the folder has: "
            f"{found}. Give a folder as `save_pretrained` of a pipeline writes it."
        )


def blocks_class(name: str) -> type[ModularPipelineBlocks]:
    """Blocks of diffusers by the name of their class."""
    known = [each for each in dir(diffusers) if each.endswith("Blocks")]
    if name not in known:
        raise ComponentError(
            f"blocks: diffusers {diffusers.__version__} has none called {name!r}."
            f"{did_you_mean(name, known)}"
        )
    found: type[ModularPipelineBlocks] = getattr(diffusers, name)
    return found


def select_blocks(pipe: Any, workflow: str | None, inputs: Mapping[str, Any]) -> Any:
    """The blocks that a workflow runs with these inputs; None: those that make pictures of a text.

    Raises ComponentError with the workflows that there are.
    """
    known = getattr(pipe.blocks, "_workflow_map", None) or {}
    if workflow is not None and workflow not in known:
        hint = did_you_mean(workflow, known) if known else " It has one only; leave `workflow` out."
        raise ComponentError(f"{type(pipe).__name__} has no workflow {workflow!r}.{hint}")
    return pipe.blocks.get_execution_blocks(**{**triggers(pipe, workflow), **inputs})


def triggers(pipe: Any, workflow: str | None) -> Mapping[str, Any]:
    """The inputs that a workflow is chosen by."""
    if workflow is None:
        return {"prompt": True}
    spellings = pipe.blocks._workflow_map[workflow]
    found: Mapping[str, Any] = spellings[0] if isinstance(spellings, tuple) else spellings
    return found


def load_parts(pipe: Any, blocks: Any, source: Source) -> None:
    """Load everything that the index names and the blocks use, frozen, in evaluation mode.

    Raises ComponentError for a part that cannot be loaded whole, and for a network that is missing.
    """
    names = {spec.name for spec in blocks.expected_components}
    unknown = sorted(set(source.dtypes) - names)
    if unknown:
        raise ComponentError(
            f"dtypes: there is no component {unknown[0]!r}.{did_you_mean(unknown[0], names)}"
        )
    loaded = {}
    for name in sorted(names):
        spec = pipe.get_component_spec(name)
        if spec.default_creation_method == "from_pretrained" and spec.pretrained_model_name_or_path:
            loaded[name] = load_part(spec, source)
    pipe.update_components(**loaded)
    # Other parts may be left out by a family; without these nothing runs.
    for name in sorted(names & {"transformer", "unet", "vae", "scheduler"}):
        if getattr(pipe, name, None) is None:
            raise ComponentError(
                f"{source.place}: {type(pipe).__name__} needs a {name}, and the index names none"
            )


def load_part(spec: Any, source: Source) -> Any:
    """One component by its class, from its subfolder."""
    kind, where = spec.type_hint, f"{spec.pretrained_model_name_or_path}/{spec.subfolder or ''}"
    # A class of the checkpoint's own would be code from a stranger.
    if kind is None or kind.__module__.split(".")[0] not in LIBRARIES:
        raise ComponentError(
            f"{where}: the index names a class of its own ({kind and kind.__module__}) for "
            f"{spec.name}; only classes of {', '.join(LIBRARIES)} are loaded, and no code of a "
            "checkpoint"
        )
    options = {"subfolder": spec.subfolder or "", "revision": spec.revision or source.revision}
    network = issubclass(kind, nn.Module)
    if network:
        options |= network_options(spec, source)
    try:
        loaded = kind.from_pretrained(
            str(spec.pretrained_model_name_or_path),
            **{k: v for k, v in options.items() if v is not None},
        )
    except Exception as error:
        raise ComponentError(
            f"{where}: no {kind.__name__} could be loaded ({type(error).__name__}: {error}). "
            "Weights are read "
            f"from safetensors files alone; pickled ones can run code and are refused."
        ) from error
    return checked(loaded[0], loaded[1], where) if network else loaded


def network_options(spec: Any, source: Source) -> dict[str, Any]:
    """Safetensors, in the precision that the recipe asks for, with a list of what was missing."""
    dtype = DTYPES[source.dtypes.get(spec.name, source.dtype)]
    # The libraries name the option differently.
    name = "torch_dtype" if spec.type_hint.__module__.startswith("diffusers") else "dtype"
    options: dict[str, Any] = {"use_safetensors": True, "output_loading_info": True, name: dtype}
    return options | {"variant": spec.variant or source.variant}


def checked(network: nn.Module, info: Mapping[str, Any], where: str) -> nn.Module:
    """A network whose every tensor was in the file."""
    # The libraries would fill these with random numbers, and only warn.
    lacking = sorted(info["missing_keys"]) + [str(entry[0]) for entry in info["mismatched_keys"]]
    if lacking:
        raise ComponentError(
            f"{where}: the weights do not fill the {type(network).__name__} that its configuration "
            f"describes: {len(lacking)} tensors are missing or misshapen, the first is "
            f"{lacking[0]!r}. Fetch them again."
        )
    return network.eval().requires_grad_(False)
