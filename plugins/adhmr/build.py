"""Build a `pose_pictures` data set: poses from motion clips, their pictures, and what a detector
sees in them.

Clips are split as a whole. `plain` pictures show frames in which the pelvis stands upright,
`tilted` ones those in which it leans by more than 60 degrees. `synthetic` pictures are tilted too:
frames of the training clips, half of them with the legs of another frame, turned over at random;
nobody moved like that, but preferences need only pictures. What a picture looks like is determined
by the seed and its id.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.adhmr.detector import Found, Network, detect
from rewardft_plugins.adhmr.pictures import take, turn_to_camera
from rewardft_plugins.humans.appearance import generator
from rewardft_plugins.humans.body import Body, describe_body
from rewardft_plugins.humans.clip import Clip
from rewardft_plugins.humans.poses.pictures import COLUMNS, FORMAT, MANIFEST, VERSION
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError
from rewardft.files.atomic import make_folder, write_folder
from rewardft.files.digests import sha256

Floats = NDArray[np.float32]

UPRIGHT, LEANING = 0.6, 0.5  # height of the pelvis' up axis: above, plain; below, tilted
OVERTURNED = (60.0, 180.0)  # degrees that synthetic poses are turned over
LEGS = (1, 2, 4, 5, 7, 8, 10, 11)
CHUNK = 64
KEPT = 8  # pictures of each held-out group


@dataclass(frozen=True)
class Amounts:
    """How many pictures of each kind: of training, and of each kind of validation."""

    plain: int = 1200
    tilted: int = 1200
    synthetic: int = 1200
    val: int = 330


@dataclass(frozen=True)
class Shots:
    """Poses `(n, 22, 3)` to be photographed, before any camera."""

    ids: list[str]
    clips: list[str]
    groups: list[str]
    poses: Floats


def build_dataset(
    out: Path,
    clips: Sequence[Clip],
    body: Body,
    network: Network,
    amounts: Amounts,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Photograph, detect and write; `out` is complete or absent. Returns the manifest.

    Raises DataError when `out` exists, or the clips lack frames of a kind that is asked for.
    """
    # Before the photographs, which take minutes.
    if out.exists():
        raise DataError(f"{out} exists; give a folder that does not exist yet.")
    # Planned first: clips that lack frames of a kind are refused before anything is rendered.
    plans = {
        "train": plan_training(clips, amounts, seed),
        "val": plan_validation(clips, amounts, seed),
    }
    total, done = sum(len(shots.ids) for shots in plans.values()), 0
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "seed": seed,
        "body": describe_body(body),
        # Of the motions: whoever passes the pictures on has to know.
        "licences": sorted({clip.licence for clip in clips}),
        "splits": {},
    }

    def fill(folder: Path) -> None:
        nonlocal done
        for name, shots in plans.items():
            rows = []
            for start in range(0, len(shots.ids), CHUNK):
                rows.append(photograph(shots, slice(start, start + CHUNK), body, network, seed))
                done += len(rows[-1]["landmarks"])
                if progress:
                    progress(done, total)
            manifest["splits"][name] = write_split(folder / f"{name}.npz", shots, rows)
        keep_pictures(folder / "val_pictures.npz", plans["val"], body, seed)
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    make_folder(out.parent)
    write_folder(out, fill)
    return manifest


def photograph(
    shots: Shots, rows: slice, body: Body, network: Network, seed: int
) -> dict[str, NDArray[Any]]:
    """Columns of some of the shots."""
    ids = shots.ids[rows]
    poses = turn_to_camera(shots.poses[rows], ids, seed)
    taken = take(body, poses, ids, seed)
    found: list[Found] = [detect(shot.picture, network) for shot in taken]
    # Half the size: 0.001 rad and a millimetre are far below the detector's error.
    return {
        "poses": poses.astype(np.float16),
        "centres": np.stack([shot.centre for shot in taken]).astype(np.float16),
        "landmarks": np.stack([one.landmarks for one in found]).astype(np.float16),
        "world": np.stack([one.world for one in found]).astype(np.float16),
        "turned": np.stack([one.turned for one in found]).astype(np.float16),
    }


def write_split(path: Path, shots: Shots, rows: list[dict[str, NDArray[Any]]]) -> dict[str, Any]:
    """Write one archive and describe it for the manifest."""
    columns: dict[str, Any] = {
        name: np.concatenate([row[name] for row in rows]) for name in rows[0]
    }
    columns |= {"ids": np.array(shots.ids), "clips": np.array(shots.clips)}
    columns["groups"] = np.array(shots.groups)
    np.savez_compressed(path, **{name: columns[name] for name in COLUMNS})
    counts = {group: shots.groups.count(group) for group in dict.fromkeys(shots.groups)}
    return {"count": len(shots.ids), "groups": counts, "sha256": sha256(path)}


def keep_pictures(path: Path, shots: Shots, body: Body, seed: int) -> None:
    """Some pictures of each group at half their size, for figures."""
    groups = np.array(shots.groups)
    rows = [row for name in ("tilted", "plain") for row in np.flatnonzero(groups == name)[:KEPT]]
    ids = [shots.ids[row] for row in rows]
    taken = take(body, turn_to_camera(shots.poses[rows], ids, seed), ids, seed)
    # Every second pixel: the pictures are for looking at, and a data set stays small.
    pictures = np.stack([shot.picture[::2, ::2] for shot in taken])
    np.savez_compressed(path, ids=np.array(ids), pictures=pictures)


def plan_training(clips: Sequence[Clip], amounts: Amounts, seed: int) -> Shots:
    """Plain, tilted and synthetic shots of the training clips, in this order."""
    train = [clip for clip in clips if clip.split == "train"]
    parts = [
        choose(train, "plain", upright, amounts.plain, seed),
        choose(train, "tilted", leaning, amounts.tilted, seed),
    ]
    if amounts.synthetic:
        # Training alone: a pose that nobody performed tests nothing.
        parts.append(overturn(choose(train, "synthetic", None, amounts.synthetic, seed), seed))
    return join(parts)


def plan_validation(clips: Sequence[Clip], amounts: Amounts, seed: int) -> Shots:
    """Plain shots of plain clips and tilted ones of all, none of which is in training."""
    val = [clip for clip in clips if clip.split == "val"]
    return join(
        [
            choose([clip for clip in val if clip.plain], "plain", upright, amounts.val, seed),
            choose(val, "tilted", leaning, amounts.val, seed),
        ]
    )


def upward(poses: Floats) -> Floats:
    """Height of the pelvis' up axis in [-1, 1], `(n,)`."""
    height: Floats = Rotation.from_rotvec(poses[:, 0]).apply([0.0, 1.0, 0.0])[:, 1]
    return height


def upright(poses: Floats) -> NDArray[np.bool_]:
    return upward(poses) > UPRIGHT


def leaning(poses: Floats) -> NDArray[np.bool_]:
    return upward(poses) <= LEANING


def choose(
    clips: Sequence[Clip],
    kind: str,
    fits: Callable[[Floats], NDArray[np.bool_]] | None,
    count: int,
    seed: int,
) -> Shots:
    """`count` shots of the frames that fit, in turn: none is taken again before all have been.

    Raises DataError when there is no such frame and some are asked for.
    """
    frames = [
        (clip, frame)
        for clip in clips
        for frame in np.flatnonzero(fits(clip.poses) if fits else np.ones(len(clip.poses)))
    ]
    if count and not frames:
        raise DataError(
            f"the clips have no {kind} frames; ask for 0 of them, or give other motions."
        )
    # The turn is a part of the id, so a frame that is taken twice gets another camera.
    order = generator(seed, f"order/{kind}").permutation(len(frames))
    # Round after round, each in the same order: the number of the round is part of the id.
    taken = [(*frames[order[i % len(frames)]], i // len(frames)) for i in range(count)]
    return Shots(
        ids=[f"{kind}/{clip.name}/{frame}/{turn}" for clip, frame, turn in taken],
        clips=[clip.name for clip, _, _ in taken],
        groups=["plain" if kind == "plain" else "tilted"] * count,
        poses=np.array([clip.poses[frame] for clip, frame, _ in taken], np.float32).reshape(
            -1, 22, 3
        ),
    )


def overturn(shots: Shots, seed: int) -> Shots:
    """The shots with half of them on others' legs, and all turned over about a level axis."""
    rng = generator(seed, "overturn")
    poses = shots.poses.copy()
    # The legs of another frame: more poses than anybody performed, each half plausible by itself.
    others = rng.permutation(len(poses))
    swapped = rng.uniform(size=len(poses)) < 0.5
    legs = np.ix_(swapped, np.array(LEGS))
    poses[legs] = shots.poses[others][legs]
    axis, angle = rng.uniform(-np.pi, np.pi, len(poses)), rng.uniform(*OVERTURNED, len(poses))
    # About level axes alone: turning about the vertical would only change the heading.
    level = np.stack([np.cos(axis), np.zeros(len(poses)), np.sin(axis)], axis=1)
    turn = Rotation.from_rotvec(np.deg2rad(angle)[:, None] * level)
    poses[:, 0] = (turn * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return Shots(shots.ids, shots.clips, shots.groups, poses)


def join(parts: Sequence[Shots]) -> Shots:
    """One after the other."""
    return Shots(
        [id_ for part in parts for id_ in part.ids],
        [clip for part in parts for clip in part.clips],
        [group for part in parts for group in part.groups],
        np.concatenate([part.poses for part in parts]),
    )
