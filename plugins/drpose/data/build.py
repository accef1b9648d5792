"""Build a `drpose15k` data set from motion clips, in the manner of DrPose15K (arXiv 2603.02619).

Clips are split as a whole. Of each split's frames, farthest-point sampling on root-relative joints
(heading removed) takes `poses`, and each comes with its temporal neighbours (paper: 1.5K poses, 10
frames each). Every frame is turned to random headings, given a random shape and look, and rendered.
What a sample looks like depends only on the seed and its place in the motion, so a set can be
rebuilt to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.drpose.data.columns import column_file, samples_file
from rewardft_plugins.drpose.data.dataset import PAIR_COLUMNS, TARGET_COLUMNS
from rewardft_plugins.drpose.data.painter import Frames, Painter, RenderedPainter
from rewardft_plugins.drpose.data.splits import SplitPlan
from rewardft_plugins.drpose.data.storage import new_folder, write_manifest
from rewardft_plugins.humans.appearance import generator, random_look, random_shape
from rewardft_plugins.humans.body import JOINTS, Body
from rewardft_plugins.humans.body_file import BETAS
from rewardft_plugins.humans.camera import HALF_EXTENT, VIEWS, project
from rewardft_plugins.humans.clip import Clip, check_unique
from rewardft_plugins.humans.raster import Views
from rewardft_plugins.humans.render import render
from rewardft_plugins.humans.sampling import (
    farthest_points,
    root_relative,
    turn,
    with_neighbours,
    without_heading,
)
from scipy.spatial.transform import Rotation

from rewardft.errors import DataError

Floats = NDArray[np.float32]
CHUNK = 64


@dataclass(frozen=True)
class _Sample:
    clip: Clip
    frame: int
    yaw: int

    @property
    def id(self) -> str:
        return f"{self.clip.name}/{self.frame}/yaw{self.yaw:03d}"


def build_dataset(
    out: Path,
    plans: Sequence[SplitPlan],
    body: Body,
    *,
    size: int = 64,
    seed: int = 0,
    painter: Painter | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Build a data set and move it into place at once: `out` is complete or untouched.

    Args:
        out: the folder to create. plans: the splits. body: who is rendered.
        size: of the pictures in pixels. seed: of everything that is random.
        painter: of the conditioning images; None is the renderer on white.
        overwrite: replace a data set that is at `out` (nothing else is ever replaced).
        progress: called with (samples done, samples in all).

    Returns:
        The manifest.

    Raises:
        DataError: a clip is in two splits or a split has none, `out` exists, or targets are wanted
            from a painter whose images do not show the rendered person.
    """
    painter = painter or RenderedPainter()
    _check_plans(plans, painter)
    chosen = {plan.name: choose_samples(plan, body, seed) for plan in plans}
    total, done = sum(map(len, chosen.values())), 0
    with new_folder(out, overwrite) as folder:
        cut = 0.0
        for plan in plans:
            with _SplitWriter(folder, plan, len(chosen[plan.name]), size) as writer:
                for samples in _chunks(chosen[plan.name]):
                    cut = max(cut, writer.write(samples, body, painter, seed))
                    done += len(samples)
                    if progress:
                        progress(done, total)
        # Everything that is needed to build the same set again.
        facts = {"size": size, "seed": seed, "painter": painter.name, "cut_off": cut}
        return write_manifest(folder, plans, body, facts)


def choose_samples(plan: SplitPlan, body: Body, seed: int) -> list[_Sample]:
    """Choose frames and headings of a split, shuffled; deterministic in the seed."""
    # In the order of the poses below.
    places = [(clip, frame) for clip in plan.clips for frame in range(len(clip.poses))]
    poses = np.concatenate([clip.poses for clip in plan.clips])
    # Without heading: the same pose seen from behind is not another pose.
    points = root_relative(body.joints(without_heading(poses)))
    # Neighbours of two poses may overlap; each frame is taken once.
    frames: dict[tuple[str, int], Clip] = {}
    for place in farthest_points(points, plan.poses):
        clip, frame = places[place]
        for near in with_neighbours(frame, len(clip.poses), plan.neighbours):
            frames[clip.name, near] = clip
    samples = [
        _Sample(clip, frame, yaw)
        for (_, frame), clip in frames.items()
        for yaw in _yaws(clip, frame, plan.yaws, seed)
    ]
    # Shuffled on disk, so that the first n samples are a random choice.
    order = generator(seed, f"order/{plan.name}").permutation(len(samples))
    return [samples[i] for i in order[: plan.limit]]


def _yaws(clip: Clip, frame: int, count: int, seed: int) -> list[int]:
    """`count` different headings in whole degrees, one in each of as many equal sectors."""
    sector = 360 // count
    draws = generator(seed, f"yaw/{clip.name}/{frame}").integers(sector, size=count)
    return [place * sector + int(draw) for place, draw in enumerate(draws)]


def _tumbled(poses: Floats, samples: list[_Sample], share: float, seed: int) -> Floats:
    """The poses `(n, 22, 3)`, a share of them turned about any axis, evenly over all rotations."""
    draws = [generator(seed, f"tumble/{sample.id}") for sample in samples] if share else []
    for pose, rng in zip(poses, draws):
        if rng.uniform() < share:
            turned = Rotation.random(random_state=rng) * Rotation.from_rotvec(pose[0])
            pose[0] = turned.as_rotvec()
    return poses


def _chunks(samples: list[_Sample]) -> Iterator[list[_Sample]]:
    for start in range(0, len(samples), CHUNK):
        yield samples[start : start + CHUNK]


class _SplitWriter:
    """Fills the `.npy` files of one split chunk by chunk."""

    def __init__(self, folder: Path, plan: SplitPlan, count: int, size: int) -> None:
        self._folder, self._plan, self._size, self._row = folder, plan, size, 0
        columns = PAIR_COLUMNS + (TARGET_COLUMNS if plan.targets else ())
        shapes = _shapes(size)
        # A split may be larger than the memory.
        self._files = {
            name: np.lib.format.open_memmap(
                folder / column_file(plan.name, name),
                mode="w+",
                dtype=shapes[name][0],
                shape=(count, *shapes[name][1]),
            )
            for name in columns
        }
        self._samples: list[dict[str, Any]] = []

    def __enter__(self) -> _SplitWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A list of samples only for a split that was finished; the folder of another is thrown
        # away.
        if kind is None:
            text = json.dumps(self._samples, separators=(",", ":"))
            (self._folder / samples_file(self._plan.name)).write_text(text, encoding="utf-8")
            for array in self._files.values():
                array.flush()
        self._files.clear()

    def write(self, samples: list[_Sample], body: Body, painter: Painter, seed: int) -> float:
        """Render and store a chunk; return how far the bodies reach beyond the picture, in
        metres."""
        poses = turn(
            np.stack([s.clip.poses[s.frame] for s in samples]), np.array([s.yaw for s in samples])
        )
        poses = _tumbled(poses, samples, self._plan.tumble, seed)
        draws = [generator(seed, s.id) for s in samples]
        # Shape first, then look, from one generator per sample: the order is part of the data set.
        betas = np.stack([random_shape(rng) for rng in draws])
        vertices, joints = body.pose(poses, betas)
        # The middle of the body's box in the middle of the picture, so that every pose fits.
        centre = (vertices.min(axis=1) + vertices.max(axis=1))[:, None] / 2
        vertices, joints = vertices - centre, joints - centre
        views = render(body, vertices, [random_look(rng) for rng in draws], self._size)
        # (n, 6, 23, 2) in [-1, 1], mirrored for the mirrored views.
        joints2d = project(joints)
        frames = Frames(
            [s.id for s in samples], poses, joints2d[:, 0], views.colours[:, 0], views.alpha[:, 0]
        )
        self._store(
            images=_painted(painter, frames),
            joints=root_relative(joints),
            joints2d=joints2d,
            offsets=joints[:, 0],
            poses=poses,
            betas=betas,
            **_targets(views),
        )
        self._samples += [{"id": s.id, "clip": s.clip.name, "plain": s.clip.plain} for s in samples]
        return max(0.0, float(np.abs(vertices).max()) - HALF_EXTENT)

    def _store(self, **rows: NDArray[Any]) -> None:
        end = self._row + len(rows["images"])
        for name, array in self._files.items():
            array[self._row : end] = rows[name]
        self._row = end


def _shapes(size: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of one row of each column."""
    views, joints = len(VIEWS), len(JOINTS)
    return {
        "images": (np.uint8, (3, size, size)),
        "joints": (np.float32, (joints, 3)),
        "joints2d": (np.float32, (views, joints, 2)),
        "offsets": (np.float32, (3,)),
        "poses": (np.float32, (22, 3)),
        "betas": (np.float32, (BETAS,)),
        "normals": (np.uint8, (views, 3, size, size)),
        "colours": (np.uint8, (views, 3, size, size)),
        "labels": (np.uint8, (views, size, size)),
    }


def _targets(views: Views) -> dict[str, NDArray[np.uint8]]:
    return {name: getattr(views, name) for name in TARGET_COLUMNS}


def _painted(painter: Painter, frames: Frames) -> NDArray[np.uint8]:
    images = np.asarray(painter.paint(frames))
    # A painter is somebody else's code; a picture of another size would be cut by the file.
    if images.shape != frames.colours.shape or images.dtype != np.uint8:
        raise DataError(
            f"the painter {painter.name!r} returned {images.dtype} {list(images.shape)};"
            f" expected uint8 {list(frames.colours.shape)}."
        )
    return images


def _check_plans(plans: Sequence[SplitPlan], painter: Painter) -> None:
    owner: dict[str, str] = {}
    for plan in plans:
        if not plan.clips:
            raise DataError(
                f"split {plan.name!r} has no clips: give motions that it can be made of."
            )
        for clip in check_unique(plan.clips):
            # Neighbouring frames of one clip would make the held-out set a copy.
            if owner.setdefault(clip.name, plan.name) != plan.name:
                raise DataError(
                    f"clip {clip.name!r} is in the splits {owner[clip.name]!r} and {plan.name!r}; "
                    "splits are by clip."
                )
        if plan.targets and not painter.matches_targets:
            raise DataError(
                f"split {plan.name!r} asks for targets, but the images of the painter "
                f"{painter.name!r} do not show the rendered person. Build it with `--targets none`."
            )
