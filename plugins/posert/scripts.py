"""Published captions and poses, for those who have the files; none are shipped.

`pose_script`: PoseScript (Delmas et al. 2022, 2210.11795; CC BY-NC-SA). Its captions are JSON,
`{id: caption or [captions]}`; another JSON says which frame each id is, `{id: [data set, sequence,
frame]}`; poses are in AMASS, one .npz for each sequence.

`bedlam_script`: captions of BEDLAM's pictures (Black et al. 2023), JSON `{picture: caption or
[captions]}`, with BEDLAM's annotations, .npz with `imgname` `(n,)` and `pose_cam` `(n, 66 or
more)`, axis-angle in camera axes (x right, y down). The release of BEDLAM-Script was not at hand:
this is the layout that its sources suggest.

Nothing is unpickled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.humans.archives import DAMAGED, read_archive
from rewardft_plugins.humans.sampling import without_heading
from rewardft_plugins.posert.dataset import NOTHING_SEEN
from rewardft_plugins.posert.rotations import SIZE, pack_axis_angle
from rewardft_plugins.posert.text import ANSWER, ANSWER_TEXT, BODY
from scipy.spatial.transform import Rotation
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.json_text import parse

Task = Literal["text", "describe"]
Floats = NDArray[np.float32]
LARGEST = 2**28  # bytes of a file of captions


class Captioned:
    """Captions with poses facing +z: items as those of `pose_dialogues`.

    Args:
        captions, poses: by id; the poses are axis-angle `(22, 3)`, y up.
        task: text (-> pose) or describe (pose -> text).
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self, captions: Mapping[str, list[str]], poses: Mapping[str, Floats], task: Task
    ) -> None:
        self.ids = [(id_, i) for id_ in poses for i in range(len(captions[id_]))]
        self.captions, self.task = captions, task
        # Captions do not say where a person faces, so it could not be learned.
        stacked = without_heading(np.stack(list(poses.values())))
        vectors = pack_axis_angle(torch.from_numpy(stacked))
        self.poses: dict[str, Tensor] = dict(zip(poses, vectors))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        id_, number = self.ids[index]
        # Each caption of a pose is an item of its own.
        caption, pose = self.captions[id_][number], self.poses[id_]
        asks_for_text = self.task == "describe"
        reference = caption if asks_for_text else ANSWER_TEXT
        return {
            "id": f"{self.task}/{id_}/{number}",
            "group": self.task,
            "prompt": f"{BODY if asks_for_text else caption} {ANSWER}",
            "reference": reference,
            "answer": reference,
            "caption": caption,
            "pose": pose,
            "body": pose if asks_for_text else torch.zeros(SIZE),
            **NOTHING_SEEN,
        }


def pose_script(
    captions: Path, index: Path, amass: Path, ids: Path | None = None, task: Task = "text"
) -> Captioned:
    """PoseScript's captions of frames of AMASS.

    Args:
        captions, index: the JSON files.
        amass: folder of the sequences.
        ids: JSON list of the ids of a split; null: all that have a caption.
        task: text or describe.

    Raises DataError for files that are missing or of another layout.
    """
    texts, frames = read_captions(captions), read_json(index, dict)
    wanted = list(texts) if ids is None else [str(i) for i in read_json(ids, list)]
    poses: dict[str, Floats] = {}
    sequences: dict[str, Floats] = {}
    for id_ in (id_ for id_ in wanted if id_ in texts):
        entry = frames.get(id_)
        # Otherwise the error would be numpy's, and would not name the id.
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], int):
            raise DataError(
                f"{index}: id {id_!r} is {entry!r:.80}; expected [data set, sequence, frame]."
            )
        name, frame = str(entry[1]), entry[2]
        # A sequence has thousands of frames and often several captions.
        if name not in sequences:
            if not (amass / name).resolve().is_relative_to(amass.resolve()):
                raise DataError(f"{index}: the sequence {name!r} of {id_!r} is not below {amass}.")
            sequences[name] = read_sequence(amass / name)
        if not 0 <= frame < len(sequences[name]):
            raise DataError(f"{index}: {name} has no frame {frame}, it has {len(sequences[name])}.")
        poses[id_] = sequences[name][frame]
    return checked(texts, poses, captions, task)


def bedlam_script(captions: Path, annotations: Path, task: Task = "text") -> Captioned:
    """Captions of BEDLAM's pictures with its poses; pictures of several people are left out.

    Args:
        captions: the JSON file.
        annotations: BEDLAM's .npz file.
        task: text or describe.

    Raises DataError for files that are missing or of another layout.
    """
    texts = read_captions(captions)
    arrays = read_arrays(annotations, ("imgname", "pose_cam"))
    names = [str(name) for name in arrays["imgname"]]
    rows = bodies(annotations, arrays["pose_cam"])
    over = Rotation.from_euler("x", 180, degrees=True)  # y down and z away, to y up
    turned = turn_roots(rows, over)
    # A caption of a picture with several people does not say whose pose it describes.
    people = Counter(names)
    poses = {name: turned[i] for i, name in enumerate(names) if name in texts and people[name] == 1}
    return checked(texts, poses, captions, task)


def checked(
    texts: Mapping[str, list[str]], poses: Mapping[str, Floats], where: Path, task: Task
) -> Captioned:
    """Raises DataError if no caption has a pose."""
    if not poses:
        raise DataError(f"{where}: none of its {len(texts)} captions has a pose.")
    return Captioned(texts, poses, task)


def read_captions(path: Path) -> dict[str, list[str]]:
    """Captions by id. Raises DataError for anything but texts and lists of them."""
    found = {}
    for id_, value in read_json(path, dict).items():
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: {id_!r} is {value!r:.80}; expected a caption or a list.")
        found[str(id_)] = [text for text in texts if text.strip()]
    return found


def read_json(path: Path, kind: type) -> Any:
    """Raises DataError for a file that is missing, too large, damaged, or not of `kind`."""
    try:
        # Asked before reading: a file may be larger than the memory.
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path} has over {LARGEST // 2**20} MiB; captions have fewer.")
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(value, kind):
        raise DataError(f"{path} holds a {type(value).__name__}; expected a {kind.__name__}.")
    return value


def read_arrays(path: Path, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Raises DataError for an archive that is damaged or lacks an array."""
    try:
        arrays = read_archive(path, wanted)
    except DAMAGED as error:
        raise DataError(f"{path} is not a readable archive: {error}") from error
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise DataError(f"{path} has no array {missing[0]!r}; it has {', '.join(sorted(arrays))}.")
    return arrays


def read_sequence(path: Path) -> Floats:
    """All frames of a sequence of AMASS `(n, 22, 3)`, turned from z up to y up."""
    rows = bodies(path, read_arrays(path, ("poses",))["poses"])
    return turn_roots(rows, Rotation.from_euler("x", -90, degrees=True))


def bodies(path: Path, rows: NDArray[Any]) -> Floats:
    """The 22 body joints of `(n, 66 or more)`."""
    fits = rows.ndim == 2 and rows.shape[1] >= 66 and np.issubdtype(rows.dtype, np.floating)
    if not fits or not np.isfinite(rows[:, :66]).all():
        raise DataError(
            f"{path} holds poses {rows.dtype} {list(rows.shape)}; expected finite numbers [n, 66 or"
            " more]."
        )
    # The hands come after the 22 body joints, and the pose vector has none.
    return rows[:, :66].reshape(-1, 22, 3).astype(np.float32)


def turn_roots(poses: Floats, turn: Rotation) -> Floats:
    """Poses in other axes."""
    turned = poses.copy()
    turned[:, 0] = (turn * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return turned
