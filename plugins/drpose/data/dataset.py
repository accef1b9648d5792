"""`drpose15k`: (single image, SMPL-X pose) pairs in the manner of DrPose15K, with six-view targets
where wanted.

A data set is a folder: `manifest.json` and one plain `.npy` file per split and column, opened by
memory mapping. `rewardft drpose build-dataset` writes it (`build.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError
from rewardft_plugins.humans.archives import DAMAGED
from torch import Tensor

from rewardft.errors import DataError, did_you_mean
from rewardft.files.digests import sha256_once
from rewardft.files.paths import Place, read_text

FORMAT = "rewardft-drpose"
LARGEST_JSON = 2**28  # bytes of a manifest or a list of samples
PlainName = Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")]  # part of a file's name
VERSION = 1
MANIFEST = "manifest.json"

PAIR_COLUMNS = ("images", "joints", "joints2d", "offsets", "poses", "betas")
TARGET_COLUMNS = ("normals", "colours", "labels")
PICTURES = ("images", "normals", "colours")


class Drpose15k:
    """Pairs of a conditioning image and a pose, in the order of the build (shuffled by its seed).

    Each item holds, with s the picture size:
        id: unique, `clip/frame/yawDDD`. clip: name of the motion clip. plain: whether that is a
            plain clip.
        group: "plain" or "acrobatic"; evaluations are reported for each.
        image: `(3, s, s)` float32 in [0, 1], the front view.
        joints: `(23, 3)` float32 metres in the frame of the condition camera, pelvis at the origin.
        offset: `(3,)` float32 metres, pelvis in the rendered frame: `camera.project(joints +
            offset)` is `joints2d`.
        joints2d: `(6, 23, 2)` float32, [-1, 1] is the picture, x right, y down, mirrored for the
            mirrored views.
        pose: `(22, 3)` float32 axis-angle. betas: `(10,)` float32 body shape.
    and with `targets` also, in the published order of views, back and left stored mirrored:
        normals, colours: `(6, 3, s, s)` float32 in [0, 1] on white.
        labels: `(6, s, s)` uint8, index into `body.PARTS`, 0 = background.
    """

    provides = frozenset({"multiview"})

    def __init__(
        self,
        root: Annotated[str, Place()],
        split: str = "train",
        targets: bool = False,
        limit: int | None = None,
    ) -> None:
        """Open a split, or several joined by `+`.

        Args:
            root: folder that `rewardft drpose build-dataset` wrote.
            split: name of the split; `train` and `val` mean `acro_train` and `acro_val` unless the
                set has its own. `acro_val+plain_val` is the one after the other.
            targets: also give the six views (normals, colours, labels) of each sample.
            limit: only the first so many samples of each split; they are a random choice, because
                samples are stored shuffled.

        Raises:
            DataError: the folder, the split or its targets are missing, a file is truncated or does
                not have the shape that the manifest states, a pose or joint is not finite, or
                `limit` is not positive.
        """
        self.root = Path(root)
        self.manifest = read_manifest(self.root)
        self.parts = [
            _Split(self.root, self.manifest, name, targets, limit) for name in split.split("+")
        ]
        self.split = "+".join(part.split for part in self.parts)
        self.targets = targets

    @staticmethod
    def tags(**options: Any) -> frozenset[str]:
        """`training_targets` when the samples hold the six clean views."""
        return frozenset({"training_targets"}) if options.get("targets") else frozenset()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Any]:
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"sample {index} of a split of {count}")
        index %= count
        for part in self.parts[:-1]:
            if index < len(part):
                return part[index]
            index -= len(part)
        return self.parts[-1][index]


class _Split:
    """The memory-mapped columns of one split."""

    def __init__(
        self, root: Path, manifest: dict[str, Any], split: str, targets: bool, limit: int | None
    ) -> None:
        self.root, self.split = root, _resolve_split(manifest, split, root)
        entry = manifest["splits"][self.split]
        if targets and not entry["targets"]:
            raise DataError(
                f"split {self.split!r} of {self.root} holds no six-view targets; expected them "
                "because targets is true. Build it with `--targets all`, or take another split."
            )
        if limit is not None and limit < 1:
            raise DataError(
                f"drpose15k: limit is {limit}; expected at least 1, or null for all samples."
            )
        columns = PAIR_COLUMNS + (TARGET_COLUMNS if targets else ())
        self._arrays = {name: _open(self.root, self.split, name, entry) for name in columns}
        self._samples: list[dict[str, Any]] = _read_samples(self.root, self.split, entry)
        self._check_finite()
        for name in (samples_file(self.split), *(column_file(self.split, c) for c in columns)):
            _verify(self.root / name, entry["files"][name])
        self._count = min(len(self._samples), limit or len(self._samples))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._samples[index]
        plain = bool(sample["plain"])
        item = {
            "id": sample["id"],
            "clip": sample["clip"],
            "plain": plain,
            "group": "plain" if plain else "acrobatic",
        }
        return item | {_singular(name): self._tensor(name, index) for name in self._arrays}

    def _tensor(self, name: str, index: int) -> Tensor:
        row = torch.from_numpy(
            np.array(self._arrays[name][index])
        )  # a copy: the mapped file is read-only
        return row.float().div_(255.0) if name in PICTURES else row

    def _check_finite(self) -> None:
        for name in ("joints", "joints2d", "offsets", "poses", "betas"):
            bad = ~np.isfinite(self._arrays[name]).reshape(len(self._samples), -1).all(axis=1)
            if bad.any():
                row = int(bad.argmax())
                raise DataError(
                    f"{_file(self.root, self.split, name)}: row {row} (sample "
                    f"{self._samples[row]['id']}) is not finite ({int(bad.sum())} such rows). The "
                    "data set is damaged; build it again."
                )


def read_manifest(root: Path) -> dict[str, Any]:
    """Read and check `manifest.json` of a data set folder.

    Raises:
        DataError: it is missing, not JSON, of another format, or written by a newer version.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise DataError(
            f"no data set at {str(root)!r}: expected the file {path}. Build one with"
            f" `rewardft drpose build-dataset {root}`."
        )
    try:
        manifest = json.loads(read_text(path, LARGEST_JSON))
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
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path} is damaged at {where}: {first['msg']}. Build the data set again."
        ) from None
    return manifest


class _FileFacts(BaseModel):
    """What the manifest says of one file."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    dtype: str = ""
    shape: list[int] = []


class _SplitFacts(BaseModel):
    count: Annotated[int, Field(ge=1)]
    targets: bool
    files: dict[PlainName, _FileFacts]


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


def _resolve_split(manifest: dict[str, Any], split: str, root: Path) -> str:
    splits, aliases = manifest["splits"], manifest.get("aliases", {})
    name = split if split in splits else aliases.get(split, split)
    if name not in splits:
        raise DataError(f"{root} has no split {split!r}.{did_you_mean(split, {*splits, *aliases})}")
    return name


def _file(root: Path, split: str, column: str) -> Path:
    return root / column_file(split, column)


def _open(root: Path, split: str, column: str, entry: dict[str, Any]) -> NDArray[Any]:
    path = _file(root, split, column)
    if not path.is_file():
        raise DataError(
            f"{path} is missing, though the manifest lists it. Build the data set again."
        )
    expected = entry["files"].get(path.name)
    if expected is None:
        raise DataError(f"{root / MANIFEST} does not list {path.name}. Build the data set again.")
    if path.stat().st_size != expected["bytes"]:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes, expected {expected['bytes']}: it is "
            "truncated or was replaced. Build the data set again."
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise DataError(
            f"{path} is not a readable .npy file ({error}). Build the data set again."
        ) from error
    if list(array.shape) != expected["shape"] or str(array.dtype) != expected["dtype"]:
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}, expected {expected['dtype']} "
            f"{expected['shape']}. Build the data set again."
        )
    return array


def _verify(path: Path, expected: dict[str, Any]) -> None:
    """Raises DataError unless a file is the one that was built; large ones are read once."""
    if sha256_once(path) != expected["sha256"]:
        raise DataError(
            f"{path} is not the file that was built: its SHA-256 is another than {MANIFEST} says. "
            "Build the data set again."
        )


def _read_samples(root: Path, split: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    path = root / samples_file(split)
    if path.name not in entry["files"]:
        raise DataError(f"{root / MANIFEST} does not list {path.name}. Build the data set again.")
    try:
        samples = json.loads(read_text(path, LARGEST_JSON))
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
        if sample["id"] in seen:
            raise DataError(f"{path}: two samples are called {sample['id']!r:.200}.")
        seen.add(sample["id"])
    return samples


def _singular(column: str) -> str:
    """Columns that hold one thing per sample are named after it; six views and many joints stay
    plural."""
    return {"images": "image", "poses": "pose", "offsets": "offset"}.get(column, column)
