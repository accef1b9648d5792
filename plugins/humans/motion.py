"""Motion clips: what the shipped clips are, and readers for the formats that users have.

Everything is turned into `Clip`: SMPL-X body poses, at most 30 fps, y up. Readers never unpickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.archives import DAMAGED, fault, read_archive, read_array
from rewardft_plugins.humans.body import ASSETS
from rewardft_plugins.humans.clip import BODY_JOINTS, FPS, Clip, check_unique, classify, thin
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError
from rewardft.files.atomic import make_folder, write_bytes, write_text
from rewardft.files.json_text import parse
from rewardft.files.paths import read_text

Floats = NDArray[np.float32]

SHIPPED = ASSETS / "motions" / "deepmimic15.npz"
POSES = ("poses", "smpl_poses")  # all joints, those of the hands after the 22 of the body
ROOTS, BODIES = ("root_orient", "global_orient"), ("pose_body", "body_pose")  # or in two arrays
AMASS_RATES = ("mocap_frame_rate", "mocap_framerate")  # which say that z is up, too
RATES = (*AMASS_RATES, "fps", "frame_rate")
AIST_FPS = 60.0  # of `smpl_poses`, which is y up
MOTION_ARRAYS = frozenset({*POSES, *ROOTS, *BODIES, *RATES})
LARGEST_ANGLE = 100.0  # radians: axis-angles have at most a few turns
LARGEST_INDEX = 2**26  # bytes of an index


def shipped_clips() -> list[Clip]:
    """The fifteen clips that come with the plugin."""
    return read_motions(SHIPPED)


def read_clips(files: Sequence[Path] | None) -> list[Clip]:
    """The clips of all files, whose names must differ; the shipped ones where no file is given."""
    if not files:
        return shipped_clips()
    return check_unique(clip for path in files for clip in read_motions(path))


def read_motions(path: Path) -> list[Clip]:
    """Read a motion file by its suffix: `.npz`, `.npy`, `.bvh`, or DeepMimic's `.txt`.

    Raises:
        DataError: no such file, a format that is not known, or content that is damaged.
    """
    if not path.is_file():
        raise DataError(f"no motion file at {str(path)!r}.")
    reader = _readers().get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: {path.suffix or 'a file without a suffix'} is not a motion format that is "
            f"read. Choose one of: {', '.join(sorted(_readers()))}."
        )
    return reader(path)


def _readers() -> Mapping[str, Callable[[Path], list[Clip]]]:
    return {".npz": read_npz, ".npy": read_motionx, ".bvh": _read_mocap, ".txt": _read_mocap}


def _read_mocap(path: Path) -> list[Clip]:
    # Here and not at the top, where the two modules would import each other.
    from rewardft_plugins.humans.mocap import read_mocap

    return [read_mocap(path)]


def read_npz(path: Path) -> list[Clip]:
    """Read an archive: our layout (one `(frames, 22, 3)` array per clip), or AMASS / Motion-X
    (`poses`, `root_orient`).

    Our layout may have an index beside it, `<stem>.json`: `{"clips": {name: {"plain": true,
    "split": "train", "fps": 30, "licence": "..."}}}`. What the index leaves out is derived: see
    `classify`.
    """
    arrays = _load_archive(path)
    # Other people's layouts are known by the names of their arrays.
    if MOTION_ARRAYS & set(arrays):
        return [_amass_clip(path, arrays)]
    if not any(array.ndim > 1 for array in arrays.values()):
        raise DataError(
            f"{path} holds no motion: its arrays are {', '.join(sorted(arrays)) or 'none'}; "
            "expected clips [frames, 22, 3], poses, or global_orient and body_pose."
        )
    index = _read_index(path)
    return [_indexed_clip(path, name, poses, index) for name, poses in arrays.items()]


def read_motionx(path: Path) -> list[Clip]:
    """Read Motion-X's `(frames, 322)` array: root orientation, 21 body rotations, then hands, face
    and the rest."""
    rows = _load(path, lambda: read_array(path))
    if rows.ndim != 2 or rows.shape[1] != 322:
        raise DataError(
            f"{path} holds an array {list(rows.shape)}; expected Motion-X's [frames, 322]."
        )
    return [
        classify(path.stem, _check_poses(path, path.stem, rows[:, :66].reshape(-1, BODY_JOINTS, 3)))
    ]


def write_motions(out: Path, clips: Iterable[Clip]) -> None:
    """Write clips in our layout, `out` (.npz, float16) and its index `<stem>.json`, which
    `read_npz` reads.

    Tags that an index at that place already states (plain, split, licence) are kept.

    Raises:
        DataError: `out` does not end in .npz, or two clips share a name.
    """
    if out.suffix != ".npz":
        raise DataError(f"motions are written to an .npz file; got {str(out)!r}.")
    clips = check_unique(clips)
    known = _read_index(out).get("clips", {})
    entries = {}
    for clip in clips:
        # Tags that a user has written win over derived ones.
        tags = {"plain": clip.plain, "split": clip.split, "licence": clip.licence} | known.get(
            clip.name, {}
        )
        entries[clip.name] = tags | {"frames": len(clip.poses), "fps": round(clip.fps, 3)}
    make_folder(out.parent)
    # Half the size, and at most 0.001 rad off at a half turn.
    arrays: dict[str, Any] = {clip.name: clip.poses.astype(np.float16) for clip in clips}
    content = BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(out, content.getvalue())
    write_text(out.with_suffix(".json"), json.dumps({"clips": entries}, indent=1) + "\n")


def _indexed_clip(path: Path, name: str, poses: Any, index: Mapping[str, Any]) -> Clip:
    entry = index.get("clips", {}).get(name, {})
    _check_entry(path.with_suffix(".json"), name, entry)
    known = {key: entry[key] for key in ("plain", "split") if key in entry}
    licence, fps = entry.get("licence", "unknown"), float(entry.get("fps", FPS))
    return classify(name, _check_poses(path, name, poses), fps, licence, **known)


def _check_entry(file: Path, name: str, entry: Any) -> None:
    """Check what an index says about a clip; every key may be missing."""
    if not isinstance(entry, dict):
        raise DataError(f"{file}: clip {name!r} is {entry!r:.80}; expected {{...}}.")
    fps = entry.get("fps", FPS)
    good = {
        "plain": (isinstance(entry.get("plain", True), bool), "true or false"),
        "split": (entry.get("split", "train") in ("train", "val"), "train or val"),
        # `type` and not isinstance: True is an int.
        "fps": (
            type(fps) in (int, float) and 0.1 <= fps <= 1000,
            "a number from 0.1 to 1000",
        ),
        "licence": (isinstance(entry.get("licence", ""), str), "text"),
    }
    for key, (fits, expected) in good.items():
        if not fits:
            raise DataError(
                f"{file}: clip {name!r} has {key} {entry[key]!r:.80}; expected {expected}."
            )


def _amass_clip(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Clip:
    """AMASS is z up; AIST++ is y up at 60 fps; others are y up, at 30 fps if they state no rate."""
    rows = _first(arrays, POSES)
    if rows is None:
        root, body = _first(arrays, ROOTS), _first(arrays, BODIES)
        if root is None or body is None:
            raise DataError(
                f"{path} has {', '.join(sorted(MOTION_ARRAYS & set(arrays)))} and no "
                f"{' or '.join(ROOTS if root is None else BODIES)}; expected both, or poses."
            )
        root, body = _rows(path, root), _rows(path, body)
        if root.shape[1] != 3 or len(root) != len(body):
            raise DataError(
                f"{path} holds root orientations {list(root.shape)} and body poses "
                f"{list(body.shape)}; expected [frames, 3] and [frames, 63 or more]."
            )
        rows = np.concatenate([root, body], axis=1)
    rows = _rows(path, rows)
    if rows.shape[1] < 66:
        raise DataError(
            f"{path} holds poses {list(rows.shape)}; expected at least 66 columns (22 joints)."
        )
    poses = _check_poses(path, path.stem, rows[:, :66].reshape(-1, BODY_JOINTS, 3))
    if _first(arrays, AMASS_RATES) is not None:
        # From z up to y up.
        up = Rotation.from_euler("x", -90, degrees=True)
        poses[:, 0] = (up * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    rate = _first(arrays, RATES)
    stated = AIST_FPS if "smpl_poses" in arrays else FPS
    kept, fps = thin(poses, stated if rate is None else _frame_rate(path, rate))
    return classify(path.stem, kept, fps)


def _first(arrays: Mapping[str, NDArray[Any]], names: Iterable[str]) -> NDArray[Any] | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _frame_rate(path: Path, stated: NDArray[Any]) -> float:
    """A number of frames per second; some files hold it as text."""
    try:
        # A rate of 0 or of a list would thin a clip to nothing, or not at all.
        rate = float(stated.reshape(-1)[0]) if stated.size == 1 else float("nan")
    except (TypeError, ValueError):
        rate = float("nan")
    if not 1.0 <= rate <= 10_000.0:
        shown = str(stated) if stated.size == 1 else f"{stated.size} values"
        raise DataError(
            f"{path} states a frame rate of {shown:.80}; expected a number of frames per second."
        )
    return rate


def _rows(path: Path, array: NDArray[Any]) -> NDArray[Any]:
    """`(frames, columns)`, also from `(frames, joints, 3)`."""
    if array.ndim == 3 and array.shape[2] == 3:
        array = array.reshape(len(array), 3 * array.shape[1])
    if array.ndim != 2:
        raise DataError(f"{path} holds poses {list(array.shape)}; expected [frames, columns].")
    return array


def _check_poses(path: Path, name: str, poses: NDArray[Any]) -> Floats:
    if (
        poses.ndim != 3
        or poses.shape[1:] != (BODY_JOINTS, 3)
        or not np.issubdtype(poses.dtype, np.floating)
    ):
        raise DataError(
            f"{path}: clip {name!r} is {poses.dtype} {list(poses.shape)};"
            f" expected floating-point [frames, {BODY_JOINTS}, 3] axis-angle."
        )
    if len(poses) == 0:
        raise DataError(f"{path}: clip {name!r} has no frames.")
    if not np.isfinite(poses).all():
        frame = int((~np.isfinite(poses)).any(axis=(1, 2)).argmax())
        raise DataError(f"{path}: clip {name!r} is not finite at frame {frame}.")
    # Positions in millimetres, or angles in degrees, would pass for rotations.
    if np.abs(poses).max() > LARGEST_ANGLE:
        frame = int((np.abs(poses) > LARGEST_ANGLE).any(axis=(1, 2)).argmax())
        raise DataError(
            f"{path}: clip {name!r} turns by more than {LARGEST_ANGLE:g} radians at frame {frame}; "
            "expected axis-angle."
        )
    # From whatever the file has, float16 too.
    return poses.astype(np.float32)


def _load_archive(path: Path) -> dict[str, NDArray[Any]]:
    return _load(path, lambda: read_archive(path, MOTION_ARRAYS))


def _load(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except DAMAGED as error:
        raise DataError(f"{path} is not a readable motion archive: {fault(error)}") from error


def _read_index(path: Path) -> dict[str, Any]:
    file = path.with_suffix(".json")
    if not file.is_file():
        return {}
    try:
        index = parse(read_text(file, LARGEST_INDEX))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not readable JSON: {error}") from error
    if not isinstance(index, dict) or not isinstance(index.get("clips", {}), dict):
        raise DataError(f'{file} is not a motion index; expected {{"clips": {{name: {{...}}}}}}.')
    return index
