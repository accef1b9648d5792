"""The files of a data set: a manifest, and of each split a list of samples and its columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError, field_validator
from rewardft_plugins.humans.archives import DAMAGED, fault

from rewardft.errors import DataError, did_you_mean
from rewardft.files.digests import sha256_once
from rewardft.files.json_text import parse
from rewardft.files.paths import read_text

FORMAT = "rewardft-drpose"
LARGEST_JSON = 2**28  # bytes of a manifest or a list of samples


# No separator, no leading dot: a manifest from elsewhere cannot point out of its folder.
PlainName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # part of a file's name


VERSION = 1
MANIFEST = "manifest.json"


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check `manifest.json` of a data set folder.

    Raises:
        DataError: it is missing, not JSON, of another format, or written by a newer version.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no data set at {str(root)!r}: expected the file {path}. Build one with"
            f" `rewardft drpose build-dataset {root} --yaws 4`, which is what the recipes train on."
        )
    try:
        manifest = parse(read_text(path, LARGEST_JSON))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not readable JSON ({error}). Build the data set again."
        ) from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != FORMAT
        or "splits" not in manifest
    ):
        raise DataError(
            f"{path} is not the manifest of a drpose15k data set: expected format {FORMAT!r}."
        )
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path} has format version {manifest.get('version')!r}; this rewardft reads version "
            f"{VERSION}. Build the data set again."
        )
    try:
        _Manifest.model_validate(manifest, strict=True)
    except ValidationError as error:
        # The first problem is enough: a damaged file has many, and all have one remedy.
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is damaged at {where}: {first['msg']}. Build the data set again."
        ) from None
    return manifest


class _FileFacts(BaseModel):
    """The manifest's entry for one file."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    dtype: str = ""
    shape: list[int] = []


class _SplitFacts(BaseModel):
    count: Annotated[int, Field(ge=1)]
    targets: bool
    files: dict[PlainName, _FileFacts]

    @field_validator("files")
    @classmethod
    def _columns_are_described(cls, files: dict[str, _FileFacts]) -> dict[str, _FileFacts]:
        for name, facts in files.items():
            # Lists of samples are JSON, which has neither.
            if name.endswith(".npy") and not facts.model_fields_set >= {"dtype", "shape"}:
                raise ValueError(f"{name} needs `dtype` and `shape`")
        return files


class _Manifest(BaseModel):
    """The part of a manifest that reading follows."""

    splits: dict[PlainName, _SplitFacts]
    aliases: dict[str, str] = {}


class _Sample(BaseModel):
    """A line of `SPLIT.samples.json`."""

    id: Annotated[str, Field(min_length=1)]
    clip: str
    plain: bool


def column_file(split: str, column: str) -> str:
    """Name of the file that holds a column of a split."""
    return f"{split}.{column}.npy"


def samples_file(split: str) -> str:
    """Name of the file that lists the samples of a split."""
    return f"{split}.samples.json"


def resolve_split(manifest: dict[str, Any], split: str, root: Path) -> str:
    splits, aliases = manifest["splits"], manifest.get("aliases", {})
    # A split's own name comes before an alias for another.
    name = split if split in splits else aliases.get(split, split)
    if name not in splits:
        raise DataError(f"{root} has no split {split!r}.{did_you_mean(split, {*splits, *aliases})}")
    return name


def column_path(root: Path, split: str, column: str) -> Path:
    return root / column_file(split, column)


def open_column(root: Path, split: str, column: str, entry: dict[str, Any]) -> NDArray[Any]:
    path = column_path(root, split, column)
    if not path.is_file():
        raise DataError(
            f"{path} is missing, though the manifest lists it. Build the data set again."
        )
    expected = entry["files"].get(path.name)
    if expected is None:
        raise DataError(f"{root / MANIFEST} does not list {path.name}. Build the data set again.")
    # Cheap, and says more than numpy's error about a truncated file.
    if path.stat().st_size != expected["bytes"]:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected {expected['bytes']}: it is "
            "truncated or was replaced. Build the data set again."
        )
    try:
        # Mapped, not read: a column may be larger than memory, and an item needs one row.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise DataError(
            f"{path} is not a readable .npy file ({fault(error)}). Build the data set again."
        ) from error
    # Another shape or dtype may have as many bytes.
    if list(array.shape) != expected["shape"] or str(array.dtype) != expected["dtype"]:
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}, expected {expected['dtype']} "
            f"{expected['shape']}. Build the data set again."
        )
    return array


def verify_file(path: Path, expected: dict[str, Any]) -> None:
    """Raises DataError unless a file is the one that was built; large ones are read once."""
    if sha256_once(path) != expected["sha256"]:
        raise DataError(
            f"{path} is not the file that was built: its SHA-256 differs from the one in "
            f"{MANIFEST}. Build the data set again."
        )


def read_samples(root: Path, split: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    path = root / samples_file(split)
    if path.name not in entry["files"]:
        raise DataError(f"{root / MANIFEST} does not list {path.name}. Build the data set again.")
    try:
        samples = parse(read_text(path, LARGEST_JSON))
    except (ValueError, RecursionError, DataError) as error:
        raise DataError(
            f"{path} is missing or not readable JSON ({error}). Build the data set again."
        ) from error
    if not isinstance(samples, list) or len(samples) != entry["count"]:
        found = len(samples) if isinstance(samples, list) else type(samples).__name__
        raise DataError(
            f"{path} lists {found} samples, expected {entry['count']}. Build the data set again."
        )
    seen: set[str] = set()
    for number, sample in enumerate(samples):
        try:
            _Sample.model_validate(sample, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise DataError(
                f"{path}: sample {number} is damaged{f' at {where}' if where else ''}: "
                f"{first['msg']}. Build the data set again."
            ) from None
        # Noise is keyed by the id: two samples with one id would share it.
        if sample["id"] in seen:
            raise DataError(f"{path}: two samples are called {sample['id']!r:.200}.")
        seen.add(sample["id"])
    return samples


def singular(column: str) -> str:
    """Columns that hold one thing per sample are named after it; six views and many joints stay
    plural."""
    return {"images": "image", "poses": "pose", "offsets": "offset"}.get(column, column)
