"""`pose_preferences`: hypotheses of the base, ranked by the scorer, as pairs or groups.

For each picture M hypotheses are drawn and scored. Pairs are the best against the worst
(`best_worst`), the k best against the k worst in order (`top_bottom`), or the truth against the
worst (`truth`), which is how the released code of ADHMR pairs where the truth is known. They are
made on first use, or once with `rewardft adhmr build-pairs`, which writes one archive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.hypotheses import draw_hypotheses
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.adhmr.scorer import HMRScorer
from rewardft_plugins.adhmr.space import unpack
from rewardft_plugins.humans.archives import DAMAGED, fault, read_archive
from rewardft_plugins.humans.poses.errors import mean_distance
from rewardft_plugins.humans.poses.pictures import LARGEST, SHIPPED, find_root, read_manifest
from torch import Tensor

from rewardft.errors import DataError, did_you_mean
from rewardft.files.atomic import make_folder, write_bytes
from rewardft.files.paths import PathOrShipped
from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.recipe.bounds import Count, Pair
from rewardft.types import Plan, Rollout

Form = Literal["pairs", "groups", "winners"]
Pairing = Literal["best_worst", "top_bottom", "truth"]
PAIRINGS = ("best_worst", "top_bottom", "truth")
CHUNK = 200
FORMAT = "rewardft-pose-preferences"
ARRAYS = ("samples", "scores", "rows", "winners", "losers", "right", "facts")


def pairing_named(name: str) -> Pairing:
    """Raises DataError for an unknown pairing."""
    if name not in PAIRINGS:
        raise DataError(f"there is no pairing {name!r}.{did_you_mean(name, PAIRINGS)}")
    return cast(Pairing, name)


@dataclass(frozen=True)
class Making:
    """All that determines preferences."""

    root: str = SHIPPED
    split: str = "train"
    base: str = "shipped"
    scorer: str = "shipped"
    hypotheses: int = 20
    pairing: Pairing = "best_worst"
    pairs: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        pairing_named(self.pairing)
        if self.hypotheses < 2 or not 1 <= self.pairs <= self.hypotheses // 2:
            raise DataError(
                "expected hypotheses >= 2 and 1 <= pairs <= hypotheses / 2, got "
                f"{self.hypotheses} and {self.pairs}"
            )


@dataclass(frozen=True)
class Preferences:
    """Of n pictures: hypotheses `(n, m, 118)` with scores `(n, m)`, and the pairs: rows of pictures
    `(p,)`, winners and losers `(p, 118)`. right: share of the pairs whose winner has the lower
    MPJPE."""

    samples: Tensor
    scores: Tensor
    rows: Tensor
    winners: Tensor
    losers: Tensor
    right: float


# Cached: a recipe's training and evaluation may ask for the same.
@lru_cache(maxsize=4)
def make_preferences(making: Making) -> Preferences:
    """Draw, score and pair; the same settings always give the same preferences."""
    data = PosePictures(making.root, making.split)
    batch = make_batch([data[i] for i in range(len(data))], [0] * len(data))
    base, scorer = PoseDiffusion(weights=making.base), HMRScorer(making.scorer)
    drawn, scored = [], []
    for start in range(0, len(batch), CHUNK):
        # 200 pictures with all their hypotheses at a time bound the memory.
        part = batch.select(slice(start, start + CHUNK))
        samples = draw_hypotheses(base, part, making.hypotheses, making.seed)
        copies = part.repeat(making.hypotheses)
        noise = Noise(making.seed, copies.ids, copies.epochs)
        # The scorer reads finished samples alone; nothing else of a rollout is known or needed.
        rollout = Rollout(cond=None, noise=noise, plan=Plan(stop=0), x0=samples.flatten(0, 1))
        with torch.no_grad():
            scored.append(scorer(rollout, copies).unflatten(0, (-1, making.hypotheses)))
        drawn.append(samples)
    return pair(torch.cat(drawn), torch.cat(scored), batch["pose"], making)


def pair(samples: Tensor, scores: Tensor, truth: Tensor, making: Making) -> Preferences:
    """Winners and losers by the scores, and how many of the pairs are right."""
    order = scores.argsort(dim=1, descending=True)
    count = making.pairs if making.pairing == "top_bottom" else 1
    # Flipped, so that the best is paired with the very worst, the second with the second worst.
    best, worst = order[:, :count], order[:, -count:].flip(1)
    rows = torch.arange(len(samples))[:, None].expand(-1, count)
    losers = samples[rows, worst].flatten(0, 1)
    if making.pairing == "truth":
        # The truth is better than any hypothesis, by definition.
        return Preferences(samples, scores, rows.flatten(), truth, losers, 1.0)
    errors = mean_distance(unpack(samples)["joints"], unpack(truth)["joints"][:, None])
    right = errors.gather(1, best) < errors.gather(1, worst)
    winners = samples[rows, best].flatten(0, 1)
    return Preferences(
        samples, scores, rows.flatten(), winners, losers, float(right.float().mean())
    )


def save_preferences(path: Path, made: Preferences, making: Making) -> None:
    """One archive, with the settings that it was made with; complete or absent."""
    facts = asdict(making) | {"format": FORMAT, "data": fingerprint(making)}
    # The vectors are nearly all of the file, and half precision is far below their errors.
    arrays = {
        "samples": made.samples.half().numpy(),
        "scores": made.scores.numpy(),
        "rows": made.rows.numpy(),
        "winners": made.winners.half().numpy(),
        "losers": made.losers.half().numpy(),
        "right": np.array(made.right),
        "facts": np.array(json.dumps(facts)),
    }
    make_folder(path.parent)
    content = BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def load_preferences(path: Path) -> tuple[Preferences, Making]:
    """Raises DataError for a file that is not ours, is damaged, or was made from other pictures."""
    try:
        arrays = read_archive(path, ARRAYS, LARGEST)
        facts = json.loads(str(arrays["facts"]))
        wrong = facts.pop("format", None) != FORMAT
        data = facts.pop("data", None)
        making, made = Making(**facts), preferences_of(arrays)
    except DAMAGED as error:
        raise DataError(
            f"{path}: expected preferences that `rewardft adhmr build-pairs` has written "
            f"({fault(error)})"
        ) from error
    # Rows are numbers of pictures: on other pictures they would name other people.
    if wrong or data != fingerprint(making):
        raise DataError(
            f"{path} was made from other pictures than {making.root!r} has now; build it again."
        )
    return made, making


def preferences_of(arrays: Mapping[str, NDArray[Any]]) -> Preferences:
    """Raises ValueError, KeyError or TypeError for arrays that do not go together."""
    tensors = {
        name: torch.from_numpy(arrays[name].astype(np.float32))
        for name in ("samples", "scores", "winners", "losers")
    }
    rows = torch.from_numpy(arrays["rows"].astype(np.int64))
    count, of_each, width = tensors["samples"].shape
    wanted = {"scores": (count, of_each), "winners": (len(rows), width)}
    wanted["losers"] = wanted["winners"]
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted.get(name, tensor.shape) or not tensor.isfinite().all():
            raise ValueError(f"{name!r} has another shape than the others, or numbers that are NaN")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
        raise ValueError(f"'rows' must be numbers of the {count} pictures")
    return Preferences(rows=rows, right=float(arrays["right"]), **tensors)


def found_at(root: str) -> Path:
    """The folder of pictures that a file or a recipe names, however it is written."""
    return find_root(root).resolve()


def fingerprint(making: Making) -> str:
    """The checksum of the pictures that preferences are about."""
    manifest = read_manifest(find_root(making.root))
    return str(manifest["splits"].get(making.split, {}).get("sha256"))


def check_agrees(file: Path, made: Making, asked: Making) -> None:
    """Raises DataError where a recipe asks for preferences that are not those in the file.

    Options that have their defaults ask for nothing.
    """
    # `root` and `split` are compared by the folder that they name, not by their spelling.
    wrong = [
        f"{field.name}: {getattr(asked, field.name)!r}, the file {getattr(made, field.name)!r}"
        for field in fields(Making)
        if field.name not in ("root", "split")
        and getattr(asked, field.name) not in (field.default, getattr(made, field.name))
    ]
    if wrong:
        raise DataError(
            f"{file} holds other preferences than the recipe asks for ({'; '.join(wrong)}); leave "
            "these options out, or build the file again."
        )


class PosePreferences:
    """Items: id, group, the detector's columns, and by form: `winner` and `loser` `(118,)`; or
    `samples` `(m, 118)` and `scores` `(m,)`; or the winner as `pose`, to be fine-tuned on.

    Splits other than the one that training takes hold pictures and truths alone, for evaluations.

    Args:
        root, split: as in `pose_pictures`.
        form: pairs, groups or winners.
        file: preferences on disk; null: made on first use, from the options below.
        base, scorer: weights of the model that draws and of the scorer that ranks.
        hypotheses: M, for each picture. The released code: 50.
        pairing, pairs: see the module; k pairs per picture with top_bottom.
        seed: of the hypotheses' noise.
        limit: held-out pictures of each group.
    """

    def __init__(
        self,
        root: PathOrShipped = SHIPPED,
        split: str = "train",
        form: Form = "pairs",
        file: Path | None = None,
        base: PathOrShipped = "shipped",
        scorer: PathOrShipped = "shipped",
        hypotheses: Pair = 20,
        pairing: Pairing = "best_worst",
        pairs: Count = 1,
        seed: int = 0,
        limit: Count | None = None,
    ) -> None:
        self.form, self.train = form, split == "train"
        self.pictures = PosePictures(root, split, limit=None if self.train else limit)
        # Held-out items are judged against the truth; making preferences for them costs minutes.
        if not self.train:
            return
        if file is None:
            making = Making(root, split, base, scorer, hypotheses, pairing, pairs, seed)
            self.made = make_preferences(making)
        else:
            self.made, making = load_preferences(Path(file))
            if (found_at(making.root), making.split) != (found_at(root), split):
                raise DataError(
                    f"{file} is about {making.root!r}, split {making.split}; the recipe asks for "
                    f"{root!r}, split {split}."
                )
            asked = Making(root, split, base, scorer, hypotheses, pairing, pairs, seed)
            check_agrees(Path(file), making, asked)

    @staticmethod
    def tags(form: str = "pairs", **_: Any) -> frozenset[str]:
        return frozenset({{"pairs": "pairs", "groups": "groups"}.get(form, "training_targets")})

    provides = frozenset[str]()

    def __len__(self) -> int:
        per_pair = self.train and self.form != "groups"
        return len(self.made.rows) if per_pair else len(self.pictures)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not self.train:
            return self.pictures[index]
        if self.form == "groups":
            item = dict(self.pictures[index])
            return item | {"samples": self.made.samples[index], "scores": self.made.scores[index]}
        item = dict(self.pictures[int(self.made.rows[index])])
        # A picture may have several pairs, and noise is keyed by id.
        item["id"] = f"{item['id']}/{index}"
        if self.form == "winners":
            return item | {"pose": self.made.winners[index]}
        return item | {"winner": self.made.winners[index], "loser": self.made.losers[index]}
