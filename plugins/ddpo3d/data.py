"""Data sets of scenes and cameras: `ambigrams`, `scene_prompts` and `scenes_of`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le

from rewardft.contracts.protocols import Dataset
from rewardft.errors import DataError
from rewardft.noise import keyed_generator
from rewardft.recipe.bounds import Count, Positive

Split = Literal["train", "val"]
WORDS = ("front view", "side view", "back view", "side view")  # of cameras in quarter turns


class Ambigrams:
    """Scenes that are to read as another class from each side. Items, one for each scene and
    camera: id, scene, azimuth in degrees, label, group (the side).

    Args:
        scenes: how many.
        azimuths: where the sides are seen from, in degrees.
        classes: how many there are; each scene draws one for each side, all different.
        split: `train`: the sides themselves. `val`: `held_out` degrees to both sides of them.
        held_out: > 0 and, to be held out, more than the training's jitter.
        seed: of the classes.
    """

    def __init__(
        self,
        scenes: Count = 16,
        azimuths: Sequence[float] = (0.0, 90.0),
        classes: Count = 10,
        split: Split = "train",
        held_out: Positive = 12.0,
        seed: int = 0,
    ) -> None:
        if split not in ("train", "val") or scenes < 1 or held_out <= 0:
            raise DataError(
                "ambigrams: expected the split train or val, scenes >= 1 and held_out > 0, got "
                f"{split!r}, {scenes} and {held_out}"
            )
        if not 1 <= len(azimuths) <= classes:
            raise DataError(
                f"ambigrams: expected between 1 and {classes} sides, as each has a class of its "
                f"own, got {len(azimuths)} azimuths"
            )
        generator = keyed_generator("ambigrams", seed)
        order = [torch.randperm(classes, generator=generator) for _ in range(scenes)]
        self.labels = [row[: len(azimuths)].tolist() for row in order]
        off = [0.0] if split == "train" else [-held_out, held_out]
        self.cameras = [(side, by) for side in range(len(azimuths)) for by in off]
        self.azimuths, self.split = list(azimuths), split

    def __len__(self) -> int:
        return len(self.labels) * len(self.cameras)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        scene, camera = divmod(index, len(self.cameras))
        side, off = self.cameras[camera]
        azimuth = self.azimuths[side] + off
        return {
            "id": f"{self.split}/{scene}/{azimuth:g}",
            "scene": scene,
            "azimuth": float(azimuth),
            "label": self.labels[scene][side],
            "group": f"side{side}",
        }


class ScenePrompts:
    """One scene for each prompt, seen from around. Items, one for each scene and camera: id, scene,
    azimuth and elevation in degrees, prompt.

    Args:
        prompts: texts.
        cameras: how many azimuths, evenly around; with the sampler's `jitter: 180 / cameras` every
            direction is seen.
        elevation: of all of them.
        words: whether prompts end in `, front view`, `, side view` or `, back view` (DreamFusion,
            section 3.2).
        split: `train`, or `val`: halfway between these cameras, with the same words.
    """

    def __init__(
        self,
        prompts: Sequence[str],
        cameras: Count = 4,
        elevation: Annotated[float, Ge(-90), Le(90)] = 15.0,
        words: bool = True,
        split: Split = "train",
    ) -> None:
        if not prompts or cameras < 1 or split not in ("train", "val"):
            raise DataError(
                "scene_prompts: expected at least one prompt and camera, and the split train or "
                f"val; got {len(prompts)}, {cameras} and {split!r}"
            )
        self.prompts, self.cameras, self.elevation = list(prompts), cameras, elevation
        self.words, self.split = words, split

    def __len__(self) -> int:
        return len(self.prompts) * self.cameras

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        scene, camera = divmod(index, self.cameras)
        azimuth = 360 * (camera + (0.5 if self.split == "val" else 0)) / self.cameras
        end = f", {WORDS[round(azimuth / 90) % 4]}" if self.words else ""
        return {
            "id": f"{self.split}/{scene}/{azimuth:g}",
            "scene": scene,
            "azimuth": azimuth,
            "elevation": float(self.elevation),
            "prompt": self.prompts[scene] + end,
        }


class ScenesOf:
    """One scene for each item of another data set, seen from several sides at once. Items: those of
    the other data set with scene, azimuth `(v,)` in degrees, mirror `(v,)` bool.

    Args:
        of: the other data set: `{use: drpose15k, root: data/drpose_mini, split: acro_val}`.
        azimuths: of the v views of one sample; by default the six of the multi-view human models.
        mirrored: which of these views are flipped.
        limit: only the first items; null: all.
    """

    def __init__(
        self,
        of: Dataset,
        azimuths: Sequence[float] = (0, 45, 90, 180, 270, 315),
        mirrored: Sequence[float] = (180, 270),
        limit: Count | None = None,
    ) -> None:
        if not azimuths or not set(mirrored) <= set(azimuths) or (limit is not None and limit < 1):
            raise DataError(
                "scenes_of: expected at least one azimuth, mirrored ones among them, and limit >= "
                f"1; got azimuths {list(azimuths)}, mirrored {list(mirrored)}, limit {limit}"
            )
        self.of, self.limit = of, min(limit or len(of), len(of))
        self.azimuth = torch.tensor(azimuths, dtype=torch.float32)
        self.mirror = torch.tensor([azimuth in mirrored for azimuth in azimuths])

    @staticmethod
    def tags(of: Any = None, **_: Any) -> frozenset[str]:
        """What the other data set provides."""
        own: frozenset[str] = of.tags("provides", "tags") if of is not None else frozenset()
        return own

    def __len__(self) -> int:
        return self.limit

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self.limit:
            raise IndexError(index)
        return {**self.of[index], "scene": index, "azimuth": self.azimuth, "mirror": self.mirror}
