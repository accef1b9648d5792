"""Where weights come from: a folder in diffusers' layout, or an id on the hub. Only safetensors, no
remote code.

Every part of a model is loaded by a named class of diffusers or transformers from its own
subfolder; the checkpoint cannot name a class of its own, and pickled weights are refused because
they can run code.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rewardft.errors import ComponentError
from rewardft.files.shapes import is_shapes_only

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name; one word is a folder
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")  # any of them makes a tokenizer
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Precision = Literal["fp32", "bf16", "fp16"]
PICKLED = (
    "Pickled weights can run code and are never loaded; if you trust them, load them once and "
    "save them with `save_pretrained(folder, safe_serialization=True)`."
)
LAYOUT = "Give a folder in diffusers' layout, as `save_pretrained` of a pipeline writes it."


@dataclass(frozen=True)
class Source:
    """An existing folder, or a hub id with an optional revision.

    `variant` picks files such as `*.fp16.safetensors`.
    """

    weights: str
    folder: Path | None
    revision: str | None
    variant: str | None

    @classmethod
    def open(cls, weights: str, revision: str | None = None, variant: str | None = None) -> Source:
        """A local folder comes first.

        Raises ComponentError for what is neither a folder nor a possible hub id.
        """
        path = Path(weights).expanduser()
        if path.is_dir():
            if revision is not None:
                raise ComponentError(
                    f"weights: {weights} is a folder, and folders have no revision; leave it out"
                )
            return cls(weights, path, None, variant)
        # A misspelt path must not become a question to the hub.
        if path.exists() or not HUB_ID.fullmatch(weights):
            what = "is a file" if path.exists() else "does not exist"
            raise ComponentError(
                f"weights: expected a folder or a hub id, got {weights!r}, which {what}. {LAYOUT}"
            )
        return cls(weights, None, revision, variant)

    def network(self, library: str, name: str, subfolder: str, dtype: torch.dtype) -> nn.Module:
        """A frozen network in evaluation mode.

        Raises ComponentError naming what was expected, and where.
        """
        if is_shapes_only():
            # By torch's own: that of diffusers warns of the precision.
            return nn.Module.to(self.without_weights(library, name, subfolder), dtype)
        self.check_local(name, subfolder, weights=True)
        options: dict[str, Any] = {
            "use_safetensors": True,
            "variant": self.variant,
            "output_loading_info": True,
        }
        if library == "diffusers":
            options["torch_dtype"] = dtype
        loaded, info = self.load(library, name, subfolder, options)
        # The libraries would fill these with random numbers, and only warn.
        lacking = sorted(info["missing_keys"]) + [
            str(entry[0]) for entry in info["mismatched_keys"]
        ]
        if lacking:
            raise ComponentError(
                f"{self.place(subfolder)}: the weights do not fill the {name} that config.json "
                f"describes: {len(lacking)} tensors are missing or misshapen, the first is "
                f"{lacking[0]!r}. Fetch them again."
            )
        module: nn.Module = loaded.eval().requires_grad_(False)
        return module if library == "diffusers" else module.to(dtype)

    def without_weights(self, library: str, name: str, subfolder: str) -> nn.Module:
        """The network that `config.json` describes, on the meta device."""
        self.check_local(name, subfolder, weights=False)
        made_by = name if library == "diffusers" else config_name(name)
        loader = "load_config" if library == "diffusers" else "from_pretrained"
        config = self.load(library, made_by, subfolder, {}, loader)
        kind: Any = getattr(importlib.import_module(library), name)
        with torch.device("meta"):
            module = kind.from_config(config) if library == "diffusers" else kind(config)
        network: nn.Module = module.eval().requires_grad_(False)
        return network

    def tokenizer(self, name: str, subfolder: str) -> Any:
        self.check_local(name, subfolder, weights=False)
        return self.load("transformers", name, subfolder, {})

    def scheduler_config(self, subfolder: str) -> dict[str, Any]:
        """What `scheduler_config.json` says, whatever class it names."""
        self.check_local("Scheduler", subfolder, weights=False)
        return dict(self.load("diffusers", "DDIMScheduler", subfolder, {}, "load_config"))

    def load(
        self,
        library: str,
        name: str,
        subfolder: str,
        options: Mapping[str, Any],
        method: str = "from_pretrained",
    ) -> Any:
        """Call the library's own loader;
        what it raises becomes a ComponentError that says what to do."""
        from safetensors import SafetensorError

        # The class comes from the family's own code, never from the checkpoint.
        call = getattr(getattr(importlib.import_module(library), name), method)
        where = {"subfolder": subfolder} if subfolder else {}
        where |= {"revision": self.revision} if self.revision else {}
        try:
            return call(
                self.weights if self.folder is None else str(self.folder), **where, **options
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            # What the library said comes last, as it is often long.
            text = f"{self.place(subfolder)}: no {name} could be loaded. {self.advice}\n{error}"
            raise ComponentError(text) from error

    @property
    def advice(self) -> str:
        if self.folder is not None:
            return "The files are damaged or of another model; fetch them again."
        return (
            f"{self.weights!r} is not a folder here and was looked for on the hub: check the name, "
            "the revision, the network and the access token, or give a folder. Only safetensors "
            "files are accepted."
        )

    def files(self) -> Path:
        """The folder with all files of the checkpoint, fetched where it is on the hub."""
        if self.folder is not None:
            return self.folder
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(self.weights, revision=self.revision))

    def place(self, subfolder: str) -> str:
        """The subfolder as messages name it."""
        pinned = f" (revision {self.revision})" if self.revision else ""
        return (f"{self.weights}/{subfolder}" if subfolder else self.weights) + pinned

    def has(self, subfolder: str) -> bool:
        """Whether a local folder holds a part; a hub id is taken to."""
        return self.folder is None or (self.folder / subfolder).is_dir()

    def check_local(self, name: str, subfolder: str, weights: bool) -> None:
        """Say what a local folder lacks, which the libraries' own errors hide."""
        if self.folder is None:
            return
        place = self.folder / subfolder
        # A library would name a file that it did not find, not the part that is missing.
        if not place.is_dir():
            found = ", ".join(sorted(p.name for p in self.folder.iterdir())) or "nothing"
            raise ComponentError(
                f"{self.folder}: expected the subfolder {subfolder!r} ({name}), and it is not "
                f"there; the folder has: {found}. {LAYOUT}"
            )
        if "Tokenizer" in name:
            require(
                any((place / v).is_file() for v in VOCABULARIES),
                place,
                name,
                " or ".join(VOCABULARIES),
            )
        elif "Scheduler" in name:
            require(
                (place / "scheduler_config.json").is_file(), place, name, "scheduler_config.json"
            )
        else:
            require((place / "config.json").is_file(), place, name, "config.json")
            check_class(place, name)
        if weights:
            check_safetensors(place, name, self.variant)


def config_name(name: str) -> str:
    """The class of the configuration of a text encoder of transformers."""
    return "T5Config" if name.startswith("T5") else "CLIPTextConfig"


def require(found: bool, place: Path, name: str, files: str) -> None:
    if not found:
        raise ComponentError(
            f"{place}: expected {files} of a {name}, and it is not there. {LAYOUT}"
        )


def check_class(place: Path, name: str) -> None:
    """The class that config.json names must be the one that the family asks for."""
    try:
        config = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComponentError(
            f"{place / 'config.json'}: not readable JSON ({error}). Fetch it again."
        ) from error
    said = config.get("_class_name") or (config.get("architectures") or [name])[0]
    # These share their layers; a tensor that is really missing shows when loading.
    if said != name and not {said, name} <= {
        "CLIPTextModel",
        "CLIPTextModelWithProjection",
        "CLIPModel",
    }:
        raise ComponentError(
            f"{place}: expected a {name}, but config.json describes a {said}. The checkpoint is of "
            "another model family; change `use` in the recipe's model section."
        )


def check_safetensors(place: Path, name: str, variant: str | None) -> None:
    """The weights, whole or in shards,
    as safetensors files of the variant (None: of no variant)."""
    middle = f".{variant}" if variant else ""
    wanted = re.compile(rf"\w+{re.escape(middle)}(-\d+-of-\d+)?\.safetensors")
    names = sorted(
        p.name for p in place.iterdir() if p.suffix in (".bin", ".safetensors", ".ckpt", ".pt")
    )
    # Pickled files beside safetensors are never touched, so they may lie there.
    if any(map(wanted.fullmatch, names)):
        return
    other_variant = any(found.endswith(".safetensors") for found in names)
    raise ComponentError(
        f"{place}: expected the weights of a {name} as NAME{middle}.safetensors, found "
        f"{', '.join(names) or 'none'}. "
        + ("Set `variant` to the one that is there." if other_variant else PICKLED)
    )


def load_trained(module: nn.Module, path: str) -> None:
    """Fill a network from a file that full fine-tuning wrote.

    Raises ComponentError for one that does not fit.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = Path(path).expanduser()
    # A folder or another format would be an error deep inside the library.
    if file.suffix != ".safetensors" or not file.is_file():
        raise ComponentError(
            f"trained: expected a file such as RUN/adapter/model.safetensors, got {path!r}"
        )
    try:
        module.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise ComponentError(
            f"trained: {file} does not fit the network of the recipe.\n{error}"
        ) from error


def new_unet(config: dict[str, Any], seed: int) -> nn.Module:
    """Random weights that depend on the seed alone."""
    from diffusers import UNet2DModel

    # The global generator is put back, so that building a network changes no other draw.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = UNet2DModel(**config)
    return network.eval()
