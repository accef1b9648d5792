"""How a data set reaches the disk: built beside its place, synchronised, renamed; and the manifest
that describes it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rewardft_plugins.drpose.data.columns import (
    FORMAT,
    MANIFEST,
    VERSION,
    read_manifest,
    samples_file,
)
from rewardft_plugins.drpose.data.splits import SplitPlan
from rewardft_plugins.humans.body import JOINTS, PARTS, Body, describe_body
from rewardft_plugins.humans.camera import AZIMUTHS, HALF_EXTENT, MIRRORED, VIEWS
from rewardft_plugins.humans.clip import Clip
from rewardft_plugins.humans.sampling import diversity, without_heading

from rewardft.errors import DataError
from rewardft.files.atomic import flush, make_folder
from rewardft.files.digests import sha256


@contextlib.contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Give a temporary sibling of `out` that takes its place if the block succeeds, and is deleted
    otherwise.

    Raises:
        DataError: `out` exists and may not be replaced, or is not a data set.
    """
    _check_place(out, overwrite)
    make_folder(out.parent)
    # A sibling, because renaming is atomic only within one file system.
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
        # Without it a rename may reach the disk before the contents, and a power cut leave empty
        # files.
        for path in [*folder.iterdir(), folder]:
            flush(path)
        if out.exists():
            _replace(folder, out)
        else:
            folder.rename(out)
        flush(out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(
    folder: Path, plans: Sequence[SplitPlan], body: Body, facts: dict[str, Any]
) -> dict[str, Any]:
    """Describe the files of a finished folder, write `manifest.json` into it and return it."""
    names = [plan.name for plan in plans]
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        **facts,
        "half_extent": HALF_EXTENT,
        "views": VIEWS,
        "azimuths": AZIMUTHS,
        "mirrored": MIRRORED,
        "joints": JOINTS,
        "parts": PARTS,
        "body": {"name": body.name, "licensed_smplx": body.licensed, "notice": describe_body(body)},
        # The paper's statistic (its figure 4), over all clips of the set.
        "diversity": pose_diversity([clip for plan in plans for clip in plan.clips], body),
        "aliases": {
            short: f"acro_{short}" for short in ("train", "val") if f"acro_{short}" in names
        },
        "splits": {plan.name: _describe_split(folder, plan) for plan in plans},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def pose_diversity(clips: Sequence[Clip], body: Body) -> dict[str, float | None]:
    """Standard deviation of joint locations in metres: all clips, the plain ones, and the ratio
    (paper: 1.73)."""
    everything = _spread(clips, body)
    plain = _spread([clip for clip in clips if clip.plain], body)
    return {
        "all": everything,
        "plain": plain,
        "ratio": everything / plain if everything and plain else None,
    }


def verify_dataset(root: Path) -> int:
    """Compare every file of a data set with its checksum; return how many there are.

    Raises:
        DataError: files are missing or differ; all of them are named.
    """
    splits = read_manifest(root)["splits"].values()
    expected = {name: entry["sha256"] for split in splits for name, entry in split["files"].items()}
    # All bad files in one message: a copy that broke off lacks many.
    bad = [
        name
        for name, digest in expected.items()
        if not (root / name).is_file() or sha256(root / name) != digest
    ]
    if bad:
        raise DataError(
            f"{root}: {len(bad)} of {len(expected)} files are missing or damaged: {', '.join(bad)}."
        )
    return len(expected)


def _spread(clips: Sequence[Clip], body: Body) -> float | None:
    if not clips:
        return None
    return diversity(body.joints(without_heading(np.concatenate([clip.poses for clip in clips]))))


def _describe_split(folder: Path, plan: SplitPlan) -> dict[str, Any]:
    samples = json.loads((folder / samples_file(plan.name)).read_text(encoding="utf-8"))
    files = {}
    for path in sorted(folder.glob(f"{plan.name}.*")):
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            files[path.name] |= {"dtype": str(array.dtype), "shape": list(array.shape)}
    counts: dict[str, int] = {clip.name: 0 for clip in plan.clips}
    for sample in samples:
        counts[sample["clip"]] += 1
    return {
        "count": len(samples),
        "targets": plan.targets,
        "poses": plan.poses,
        "neighbours": plan.neighbours,
        "yaws": plan.yaws,
        "clips": {
            clip.name: {"samples": counts[clip.name], "plain": clip.plain, "licence": clip.licence}
            for clip in plan.clips
        },
        "files": files,
    }


def _check_place(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not (out / MANIFEST).is_file():
        raise DataError(
            f"{out} exists and is not a data set; give a folder that does not exist yet."
        )
    if not overwrite:
        raise DataError(
            f"{out} holds a data set already; give another folder, or replace it: "
            f"rewardft drpose build-dataset {out} --overwrite"
        )
    splits = read_manifest(out)["splits"].values()
    # Never delete what somebody else put there.
    ours = {MANIFEST, *(name for split in splits for name in split["files"])}
    others = sorted(path.name for path in out.iterdir() if path.name not in ours)
    if others:
        raise DataError(
            f"{out} holds more than a data set ({', '.join(others[:5])}), so it is not replaced; "
            "give another folder."
        )


def _replace(folder: Path, out: Path) -> None:
    """Put a new data set where an old one is; the old one is put back if that fails."""
    # A folder cannot be replaced in one step, so the old one waits until the new one is in place.
    old = folder.with_name(folder.name + ".old")
    out.rename(old)
    try:
        folder.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old)
