"""People in pictures as other data sets describe them: HumanData archives (`.npz`), which ADHMR's
scorer is trained on, and ScoreHypo's annotations of 3DPW and Human3.6M (`.json`).

Only the pictures' names, the people's boxes and their poses are read; nothing is ever unpickled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.archives import DAMAGED, LARGEST, fault, read_archive
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError
from rewardft.files.json_text import parse
from rewardft.files.paths import read_text

Floats = NDArray[np.float32]

MODELS = ("smplx", "smpl", "smplh")  # in this order; their first 22 joints are the same
PLAIN = ("image_path", "bbox_xywh")
ROTATIONS = ("global_orient", "body_pose")
JOINTS = 22
_BOX = 4

FLATTEN = """python - IN.npz OUT.npz <<'END'
import sys
import numpy as np
whole = np.load(sys.argv[1], allow_pickle=True)
flat = {f"MODEL/{k}": v for k, v in whole["MODEL"].item().items()}
names = np.array(whole["image_path"], str)
np.savez(sys.argv[2], image_path=names, bbox_xywh=whole["bbox_xywh"], **flat)
END"""


@dataclass(frozen=True)
class Annotations:
    """n people. names: of their pictures, relative to the data set's folder. boxes: `(n, 4)` left,
    top, width and height in pixels. poses: `(n, 22, 3)` axis-angle in the frame of this plugin's
    camera: x right, y up, z towards it."""

    names: list[str]
    boxes: Floats
    poses: Floats


def read_annotations(path: Path) -> Annotations:
    """Read a file by its ending.

    Raises:
        DataError: there is no such file, its ending is neither .npz nor .json, it is larger than
            512 MiB, damaged, lacks something, or could only be read by unpickling.
    """
    if path.suffix not in (".npz", ".json"):
        raise DataError(
            f"{path}: expected a HumanData archive (.npz) or annotations of ScoreHypo (.json)."
        )
    found = read_human_data(path) if path.suffix == ".npz" else read_scorehypo(path)
    return checked(found, path)


def read_human_data(path: Path) -> Annotations:
    """A HumanData archive whose parameters are plain arrays, named such as `smplx/body_pose`."""
    try:
        with ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
        # Names first: of what the archive holds beside these arrays, nothing is unpacked.
        model, mark = parameters(path, names)
        rotations = [f"{model}{mark}{name}" for name in ROTATIONS]
        missing = [name for name in (*PLAIN, *rotations) if name not in names]
        if missing:
            has = ", ".join(sorted(names))
            raise DataError(f"{path} lacks {', '.join(missing)}; it has {has}.")
        arrays = read_archive(path, (*PLAIN, *rotations))
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"{path} is not a readable .npz archive: {fault(error)}") from error
    orient, body = (numbers(arrays[name], path, name) for name in rotations)
    boxes = numbers(arrays["bbox_xywh"], path, "bbox_xywh")
    pictures = arrays["image_path"].astype(str).ravel().tolist()
    return Annotations(pictures, boxes, joined(path, orient, body))


def parameters(path: Path, names: set[str]) -> tuple[str, str]:
    """The body model whose parameters an archive holds, and the separator after its name."""
    for model in MODELS:
        for mark in ("/", "."):
            if any(name.startswith(model + mark) for name in names):
                return model, mark
        # The refusal says how to get there safely, as these files are what people have.
        if model in names:
            raise DataError(
                f"{path}: {model!r} is a Python dictionary, which only unpickling could read, and "
                "that can run whatever code a file holds; nothing is unpickled here. If you trust "
                f"the file, flatten it once:\n{FLATTEN.replace('MODEL', model)}"
            )
    raise DataError(
        f"{path} has no parameters of a body: expected arrays such as 'smplx/body_pose' "
        f"({', '.join(MODELS)}), got {', '.join(sorted(names))}."
    )


def read_scorehypo(path: Path) -> Annotations:
    """ScoreHypo's annotations: `images` and `annotations`, joined by the image's id; poses as
    `smpl_param.pose` (3DPW) or `thetas` (Human3.6M), 72 numbers."""
    try:
        whole = parse(read_text(path, LARGEST))
        # Joined by id: the two lists may be in different orders.
        names = {image["id"]: name_of(image) for image in whole["images"]}
        people = whole["annotations"]
        pose = np.array([angles(person) for person in people], np.float32).reshape(-1, 72)
        boxes = np.array([person["bbox"] for person in people], np.float32)
        return Annotations(
            [names[person["image_id"]] for person in people],
            boxes,
            joined(path, pose[:, :3], pose[:, 3:]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: expected ScoreHypo's annotations, an object with `images` (id, file_name) "
            "and `annotations` (image_id, bbox, smpl_param.pose or thetas); "
            f"{type(error).__name__}: {error}"
        ) from error


def name_of(image: Mapping[str, Any]) -> str:
    """A picture's place under the data set's folder: 3DPW has one for each sequence."""
    name = str(image["file_name"])
    return f"{image['sequence']}/{name}" if "sequence" in image else name


def angles(person: Mapping[str, Any]) -> Any:
    """72 numbers: axis-angle of SMPL's 24 joints, the pelvis first."""
    return person["thetas"] if "thetas" in person else person["smpl_param"]["pose"]


def numbers(array: NDArray[Any], path: Path, name: str) -> Floats:
    """As float32, one row for each person. Raises DataError for text."""
    # Text would become NaN, or an error far from its cause.
    if not np.issubdtype(array.dtype, np.number) or not array.ndim:
        raise DataError(f"{path}: {name!r} holds {array.dtype}, expected numbers.")
    return array.astype(np.float32).reshape(len(array), math.prod(array.shape[1:]))


def joined(path: Path, orient: Floats, body: Floats) -> Floats:
    """Poses of 22 joints `(n, 22, 3)` in this plugin's frame.

    The sources' cameras have y down and z away: half a turn about x.
    """
    wanted = 3 * (JOINTS - 1)
    if orient.shape[1:] != (3,) or body.shape[1] < wanted or len(body) != len(orient):
        raise DataError(
            f"{path}: expected orientations of 3 and body poses of at least {wanted} numbers for "
            f"each person, got {list(orient.shape)} and {list(body.shape)}"
        )
    # Only the root turns: the body's rotations are relative to it. Hands (beyond 22 joints) are
    # cut.
    half = Rotation.from_rotvec([np.pi, 0.0, 0.0])
    turned = (half * Rotation.from_rotvec(orient)).as_rotvec() if len(orient) else orient
    return np.concatenate([turned, body[:, :wanted]], axis=1, dtype=np.float32).reshape(-1, 22, 3)


def checked(found: Annotations, path: Path) -> Annotations:
    """The same with boxes `(n, 4)`. Raises DataError where people and boxes do not go together."""
    count = len(found.names)
    boxes, poses = found.boxes, found.poses
    # Lists of different length would join a person to another's picture.
    if not count or len(poses) != count or boxes.ndim != 2 or len(boxes) != count:
        raise DataError(
            f"{path}: expected as many boxes and poses as pictures, and at least one, got {count} "
            f"pictures, {len(boxes)} boxes and {len(poses)} poses."
        )
    if boxes.shape[1] < _BOX or not np.isfinite(boxes).all() or not np.isfinite(poses).all():
        raise DataError(
            f"{path}: boxes and poses must be finite numbers, a box at least 4 of them, got "
            f"{list(boxes.shape)}."
        )
    # A box without area would cut out nothing, and the detector would see black.
    empty = np.flatnonzero((boxes[:, 2:_BOX] <= 0).any(1))
    if len(empty):
        raise DataError(
            f"{path}: the box of person {empty[0]} is empty: {boxes[empty[0]].tolist()}."
        )
    return Annotations(found.names, boxes[:, :_BOX], poses)
