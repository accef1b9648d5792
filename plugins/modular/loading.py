"""From a folder or a hub id to a modular pipeline, part by part, with nothing left out in silence.

diffusers' own `load_components` warns of a part that cannot be loaded and leaves it out, and takes
pickled weights. Here each part is loaded by its class, from safetensors alone, and what fails is an
error. No code of a checkpoint runs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import DiffusionPipeline, ModularPipeline
from diffusers.modular_pipelines.modular_pipeline import ModularPipelineBlocks
from torch import nn

from rewardft.errors import ComponentError, did_you_mean
from rewardft.files.paths import looks_local

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INDEXES = ("modular_model_index.json", "model_index.json")
LIBRARIES = ("diffusers", "transformers", "tokenizers")
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
NOT_MODULAR = (
    f"Where the family has blocks in diffusers {diffusers.__version__} that its index does not "
    "name, give `blocks`, such as `blocks: WanBlocks`."
)
NOT_REACHED = (
    "It is not a folder here and was looked for on the hub: check the name, the revision and the "
    "network, and for a gated model its licence and your access token; or give a folder."
)


@dataclass(frozen=True)
class Source:
    """Where a pipeline comes from.

    weights: a folder in diffusers' layout, or a hub id; a folder of that name comes first.
    revision: commit, tag or branch on the hub.
    variant: of the weight files, such as fp16.
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
        raise ComponentError(
            f"weights: {source.weights} is neither a folder nor a hub id (owner/name)"
        )
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
        lacking = isinstance(error, OSError) and not folder.is_dir()
        advice = NOT_REACHED if lacking else NOT_MODULAR
        raise ComponentError(
            f"{source.place}: no modular pipeline could be made of it ({reason(error)}). {advice}"
        ) from error


def reason(error: BaseException) -> str:
    """An error and what it began with; libraries hide a damaged file behind one that is missing."""
    root = error
    while (deeper := root.__cause__ or root.__context__) is not None:
        root = deeper
    texts = [f"{type(each).__name__}: {str(each).strip().rstrip('.')}" for each in (error, root)]
    return "; ".join(dict.fromkeys(texts))


def check_folder(folder: Path, source: Source) -> None:
    """Say in plain words what a local folder lacks."""
    if source.revision is not None:
        raise ComponentError(
            f"weights: {source.weights} is a folder, and folders have no revision; leave it out"
        )
    index = next((folder / name for name in INDEXES if (folder / name).is_file()), None)
    if index is None:
        found = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ComponentError(
            f"{folder}: expected {' or '.join(INDEXES)} of a pipeline, and the folder has: "
            f"{found}. Give a folder as `save_pretrained` of a pipeline writes it."
        )
    check_index(index)


def check_index(index: Path) -> None:
    try:
        content = json.loads(index.read_bytes())
    except (OSError, ValueError) as error:
        raise ComponentError(f"{index}: not readable as JSON ({error}). Fetch it again.") from error
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise ComponentError(
            f"{index}: expected an object with the class of a pipeline as `_class_name`. Give a "
            "folder as `save_pretrained` of a pipeline writes it."
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
    weightless = [
        spec.name for spec in blocks.expected_components if not is_network(spec.type_hint)
    ]
    for name in set(source.dtypes) & set(weightless):
        raise ComponentError(f"dtypes: {name} has no weights, so leave it out")
    loaded = {}
    for name in sorted(names):
        spec = pipe.get_component_spec(name)
        if spec.default_creation_method == "from_pretrained" and spec.pretrained_model_name_or_path:
            check_class(spec, name not in weightless)
            loaded[name] = load_part(spec, source)
    pipe.update_components(**loaded)
    # Other parts may be left out by a family; without these nothing runs.
    for name in sorted(names & {"transformer", "unet", "vae", "scheduler"}):
        if getattr(pipe, name, None) is None:
            raise ComponentError(
                f"{source.place}: {type(pipe).__name__} needs a {name}, and the index names none"
            )


def is_network(kind: Any) -> bool:
    """Whether a class has weights. transformers' `Auto` classes are no modules, and make some."""
    if not inspect.isclass(kind):
        return False
    return issubclass(kind, nn.Module) or kind.__name__.startswith("AutoModel")


def place_of(spec: Any) -> str:
    """Where a component comes from, for messages."""
    return f"{spec.pretrained_model_name_or_path}/{spec.subfolder or ''}"


def check_class(spec: Any, network: bool) -> None:
    """The class that an index names must be one of a library's, for the part that is wanted.

    network: whether the blocks want a network there.
    """
    kind = spec.type_hint
    if kind is None or getattr(kind, "__module__", "").split(".")[0] not in LIBRARIES:
        raise ComponentError(
            f"{place_of(spec)}: the index names a class of its own "
            f"({kind and getattr(kind, '__module__', kind)}) for {spec.name}; only classes of "
            f"{', '.join(LIBRARIES)} are loaded, and no code of a checkpoint"
        )
    fits = inspect.isclass(kind) and not issubclass(kind, (DiffusionPipeline, ModularPipeline))
    if not fits or is_network(kind) != network:
        raise ComponentError(
            f"{place_of(spec)}: the index names {kind.__name__} for {spec.name}, which "
            f"{'is a network' if network else 'has no weights'}. Fetch the index again."
        )


def load_part(spec: Any, source: Source) -> Any:
    """One component by its class, from its subfolder."""
    kind, where = spec.type_hint, place_of(spec)
    repository = str(spec.pretrained_model_name_or_path)
    if "Tokenizer" in kind.__name__:
        check_vocabulary(Path(repository), spec.subfolder or "", kind)
    own = source.revision if repository == source.weights else None
    options = {"subfolder": spec.subfolder or "", "revision": spec.revision or own}
    if kind.__module__.startswith("transformers"):
        options["trust_remote_code"] = False  # it would ask at the terminal
    network = is_network(kind)
    if network:
        options |= network_options(spec, source)
    try:
        loaded = kind.from_pretrained(
            repository, **{k: v for k, v in options.items() if v is not None}
        )
    except Exception as error:
        raise ComponentError(
            f"{where}: no {kind.__name__} could be loaded ({reason(error)}). The files are "
            "missing, damaged or of another model: fetch them again. "
            "Weights are read from safetensors files alone; pickled ones can run code and are "
            "refused."
        ) from error
    return checked(loaded[0], loaded[1], where) if network else loaded


def check_vocabulary(repository: Path, subfolder: str, kind: type) -> None:
    """transformers makes a tokenizer of its own of a folder that has none."""
    folder = repository / subfolder
    if repository.is_dir() and not any((folder / name).is_file() for name in VOCABULARIES):
        raise ComponentError(
            f"{folder}: expected {' or '.join(VOCABULARIES)} of a {kind.__name__}, and it is not "
            "there. Fetch it again."
        )


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
