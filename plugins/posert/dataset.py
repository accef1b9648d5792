"""`pose_dialogues`: questions about poses and good answers, in three tasks.

* image -> pose: what a detector saw in a picture; the pose in the camera's frame.
* text -> pose: a caption of four posecodes; a pose of which they are true, facing +z.
* pose -> text: a pose, facing +z; four of its posecodes.

Pictures are those of `rewardft adhmr build-dataset`; poses of the other tasks are frames of motion
clips. A caption is determined by the item's id alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rewardft_plugins.humans.motion import read_motions, shipped_clips
from rewardft_plugins.humans.poses.mirror import mirror_poses
from rewardft_plugins.humans.poses.pictures import Split, find_root, read_split, with_mirrored
from rewardft_plugins.humans.sampling import without_heading
from rewardft_plugins.posert import posecodes
from rewardft_plugins.posert.rotations import SIZE, joints, pack_axis_angle
from rewardft_plugins.posert.text import (
    ANSWER,
    ANSWER_TEXT,
    BODY,
    IMAGE,
    OTHER_ANSWERS,
    OTHER_SHARES,
    TASKS,
)
from torch import Tensor

from rewardft.errors import DataError, did_you_mean
from rewardft.files.paths import PathOrShipped
from rewardft.noise import keyed_generator
from rewardft.recipe.bounds import Count

SHIPPED = "shipped"
PHRASES_SAID = 4
NOTHING_SEEN = {
    "landmarks": torch.zeros(33, 4),
    "world": torch.zeros(33, 3),
    "turned": torch.zeros(2),
}


@dataclass(frozen=True)
class Frames:
    """Poses of motion clips, facing +z: ids, vectors `(n, 132)`, true phrases `(n, 12)`, how often
    each phrase is true."""

    ids: list[str]
    poses: Tensor
    phrases: Tensor
    frequency: Tensor


@lru_cache(maxsize=8)
def read_frames(motions: str, split: str, mirrored: bool) -> Frames:
    """Every frame of the clips of a split. Raises DataError where there is none."""
    clips = shipped_clips() if motions == SHIPPED else read_motions(Path(motions).expanduser())
    wanted = [clip for clip in clips if clip.split == split]
    if not wanted:
        splits = sorted({clip.split for clip in clips})
        raise DataError(
            f"the motions {motions} have no clip of the split {split!r}; they have "
            f"{', '.join(splits)}.{did_you_mean(split, splits)}"
        )
    ids = [f"{clip.name}/{frame}" for clip in wanted for frame in range(len(clip.poses))]
    poses = np.concatenate([clip.poses for clip in wanted]).astype(np.float32)
    if mirrored:
        ids = ids + [f"{id_}/mirrored" for id_ in ids]
        # (2 n, 22, 3): mirror images behind all originals, in the same order as their ids.
        poses = np.concatenate([poses, mirror_poses(poses)])
    # A caption says nothing of where a person faces, so a heading could not be learned.
    vectors = pack_axis_angle(torch.from_numpy(without_heading(poses)))
    # In parts, which bounds the memory.
    phrases = torch.cat([posecodes.true_phrases(joints(part)) for part in vectors.split(4096)])
    return Frames(ids, vectors, phrases, posecodes.frequencies(phrases))


@dataclass(frozen=True)
class Question:
    """One item before its tensors are made. row: of the task's source."""

    task: str
    row: int
    id: str


class PoseDialogues:
    """Items: id, group (the task), prompt, answer (what a supervised model learns to say),
    reference (the wanted answer), caption, pose and body `(132,)`, and the detector's columns.

    Args:
        tasks: some of image, text, describe.
        root: folder of pictures; `shipped`: those that come with the plugin humans.
        motions: file of motion clips; `shipped`: the fifteen that come with the plugin humans.
        split: train or val, of both.
        group: plain or tilted pictures alone; null: both.
        limit: the most items of each task, spread evenly; null: one of each picture and frame.
        captions: different captions of each frame.
        mirrored: also the mirror images.
        answers: `exact`: all in the wanted form; `mixed`: some in another form, some refuse, see
            `text.OTHER_SHARES`.
    """

    provides = frozenset({"training_targets"})

    def __init__(
        self,
        tasks: Sequence[str] = ("image", "text"),
        root: PathOrShipped = SHIPPED,
        motions: PathOrShipped = SHIPPED,
        split: str = "train",
        group: str | None = "plain",
        limit: Count | None = None,
        captions: Count = 1,
        mirrored: bool = False,
        answers: Literal["exact", "mixed"] = "exact",
    ) -> None:
        for task in tasks:
            if task not in TASKS:
                known = ", ".join(TASKS)
                raise DataError(f"tasks are {known}, got {task!r}.{did_you_mean(task, TASKS)}")
        if (limit is not None and limit < 1) or captions < 1:
            raise DataError(f"limit and captions must be at least 1, got {limit} and {captions}")
        self.answers, self.pictures, self.frames = answers, None, None
        self.questions: list[Question] = []
        if "image" in tasks:
            self.pictures = pictures_of(root, split, mirrored)
            self.truth = pack_axis_angle(torch.from_numpy(self.pictures.poses))
            # Chosen before thinning, so that a limit counts pictures of this group.
            rows = [i for i, g in enumerate(self.pictures.groups) if group in (None, g)]
            if not rows:
                raise DataError(f"the pictures of {root} have none of the group {group!r}")
            ids = self.pictures.ids
            self.questions += [
                Question("image", i, f"image/{ids[i]}") for i in thinned(rows, limit)
            ]
        for task in (task for task in tasks if task != "image"):
            self.frames = read_frames(motions, split, mirrored)
            ids = self.frames.ids
            # All frames once before any twice, so that a limit takes different frames first.
            turns = [(i, turn) for turn in range(captions) for i in range(len(ids))]
            self.questions += [
                Question(task, i, f"{task}/{ids[i]}/{turn}") for i, turn in thinned(turns, limit)
            ]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        question = self.questions[index]
        item = self.picture(question) if question.task == "image" else self.frame(question)
        item["answer"] = self.spoken(question.id, item["reference"])
        return {"id": question.id, "group": question.task, **item}

    def picture(self, question: Question) -> dict[str, Any]:
        """What the detector saw, and the pose."""
        assert self.pictures is not None
        seen = {name: values[question.row] for name, values in self.pictures.detected.items()}
        pose = self.truth[question.row]
        return {
            "prompt": f"{IMAGE} {ANSWER}",
            "reference": ANSWER_TEXT,
            "caption": "",
            "pose": pose,
            "body": torch.zeros(SIZE),
            **seen,
        }

    def frame(self, question: Question) -> dict[str, Any]:
        """A caption, and the pose."""
        # Keyed by the id: an item has the same caption in every epoch and on every process.
        frames, generator = self.frames, keyed_generator("caption", question.id)
        assert frames is not None
        phrases = frames.phrases[question.row][None]
        said = posecodes.choose(phrases, frames.frequency, PHRASES_SAID, generator)[0]
        caption, pose = posecodes.caption(said), frames.poses[question.row]
        asks_for_text = question.task == "describe"
        # Every item has every column; what a task does not use is zero.
        return {
            "prompt": f"{BODY if asks_for_text else caption} {ANSWER}",
            "reference": caption if asks_for_text else ANSWER_TEXT,
            "caption": caption,
            "pose": pose,
            "body": pose if asks_for_text else torch.zeros(SIZE),
            **NOTHING_SEEN,
        }

    def spoken(self, id_: str, reference: str) -> str:
        """The answer as its form asks, or one that breaks it."""
        # Captions vary by themselves; only the fixed answer has other forms.
        if self.answers == "exact" or reference != ANSWER_TEXT:
            return reference
        draw = float(torch.rand((), generator=keyed_generator("form", id_)))
        # One draw for all: each answer has its own stretch of [0, 1).
        for share, answer in zip(OTHER_SHARES, OTHER_ANSWERS):
            if draw < share:
                return answer
            draw -= share
        return reference


@lru_cache(maxsize=8)
def pictures_of(root: str, split: str, mirrored: bool) -> Split:
    whole = read_split(find_root(root), split)
    return with_mirrored(whole) if mirrored else whole


def thinned(rows: list[Any], limit: int | None) -> list[Any]:
    """`limit` of the rows at even distances, or all."""
    if limit is None or limit >= len(rows):
        return rows
    # At even distances, so that every clip has its share.
    return [rows[int(i * len(rows) / limit)] for i in range(limit)]
