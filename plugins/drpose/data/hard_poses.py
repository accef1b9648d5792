"""Hard poses: a benchmark of 64 held-out acrobatic samples.

DrPose's own benchmark of hard poses, MixamoRP, was made with commercial models and is not
available. This one takes its place and is not comparable with it: the shipped acrobatic clips that
nothing was trained on (a cartwheel, a kick, getting up from the floor), poses chosen far apart,
each from one heading, rendered with the open body. It is the same on every machine.
"""

from __future__ import annotations

from pathlib import Path

from rewardft_plugins.drpose.data.build import build_dataset
from rewardft_plugins.drpose.data.columns import read_manifest
from rewardft_plugins.drpose.data.splits import SplitPlan
from rewardft_plugins.humans.body import OPEN_BODIES, load_body
from rewardft_plugins.humans.motion import shipped_clips

from rewardft.errors import DataError

SPLIT = "hard_poses"
COUNT = 64
SEED = 2603  # other shapes, looks and headings than in any set of the default seed


def build_hard_poses(root: Path) -> None:
    """Build the benchmark at `root`, unless it is there already.

    Raises DataError when another data set is there.
    """
    if (root / "manifest.json").is_file():
        if SPLIT not in read_manifest(root)["splits"]:
            raise DataError(f"{root} holds another data set, without the split {SPLIT!r}")
        return
    clips = [clip for clip in shipped_clips() if clip.split == "val" and not clip.plain]
    # No neighbours and one heading: 64 poses, not a few poses many times.
    plan = SplitPlan(SPLIT, clips, poses=COUNT, neighbours=1, yaws=1, targets=True, limit=COUNT)
    build_dataset(root, [plan], load_body(OPEN_BODIES[0]), seed=SEED)
