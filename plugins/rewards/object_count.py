"""`object_count`: are there as many objects in a sample as its row of the data set says?

For a row that wants n_c objects of each of C classes, of which a detector finds d_c, the score is

    relative    the mean over classes of max(0, 1 - |d_c - n_c| / max(n_c, 1))
    exact       1 if d_c = n_c for all classes, else 0

`exact` with `at_least` is how GenEval (Ghosh et al. 2023, 2310.11513) judges one or two objects;
`relative` is the reward of Flow-GRPO (Liu et al. 2025, 2505.05470) for counting, cut off at 0.
GenEval's colours and positions are not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rewardft.errors import RewardError, did_you_mean
from rewardft.files.json_text import parse
from rewardft.files.paths import Weights
from rewardft.recipe.bounds import Count, Fraction, Inside
from rewardft.types import Batch, Rollout, micro_slices

from .detectors import Counts, DetectorSource, load_detector
from .images import pixels_of, to_bytes

if TYPE_CHECKING:
    from PIL import Image


class ObjectCount(nn.Module):
    """The objects in a sample against those in its row of the data set, `(b,)`, in [0, 1].

    NaN (not applicable) where no object is wanted. There is no gradient.

    Args:
        weights: folder or hub id of a detector of transformers: one of fixed classes, whose names
            rows must use (DETR, RT-DETR, YOLOS, ...), or OWL-ViT or OWLv2, which take any name.
        revision: branch, tag or commit of a hub id.
        column: of the batch: {"dog": 2, "cat": 1}, [{"class": "dog", "count": 2}, ...] as GenEval's
            `include`, or the JSON text of either, as a .csv has. null or empty: no object wanted.
        form: `relative` or `exact`, see above.
        at_least: more objects than are wanted count as many as wanted.
        threshold: least score of an object; null: 0.5, or 0.1 for OWL-ViT and OWLv2.
        overlap: boxes of one class whose intersection over union is larger are one object.
        batch: pictures that the detector sees at a time.
    """

    provides: frozenset[str] = frozenset()
    space: str = "pixels"
    range = (0.0, 1.0)

    def __init__(
        self,
        weights: Weights,
        revision: str | None = None,
        column: str = "objects",
        form: Literal["relative", "exact"] = "relative",
        at_least: bool = False,
        threshold: Inside | None = None,
        overlap: Fraction = 0.5,
        batch: Count = 8,
    ) -> None:
        super().__init__()
        self.column, self.form, self.at_least, self.batch = column, form, at_least, batch
        self.detector = load_detector(DetectorSource(weights, revision, threshold, overlap))

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        pixels = pixels_of(rollout, "object_count").detach()
        wanted = wanted_of(batch, self.column)
        scores = torch.full((len(pixels),), float("nan"), device=pixels.device)
        # A picture in which nothing is wanted need not be looked at.
        rows = [i for i, counts in enumerate(wanted) if counts]
        for part in micro_slices(len(rows), self.batch):
            pictures = [picture(pixels[i]) for i in rows[part]]
            found = self.detector.counts(pictures, [tuple(wanted[i]) for i in rows[part]])
            for i, counts in zip(rows[part], found):
                scores[i] = self.score(wanted[i], counts)
        return scores

    def score(self, wanted: Counts, found: Counts) -> float:
        """Of one sample, see the head of the file."""
        if self.at_least:
            found = {name: min(found[name], count) for name, count in wanted.items()}
        if self.form == "exact":
            return float(all(found[name] == count for name, count in wanted.items()))
        terms = [max(0.0, 1 - abs(found[name] - n) / max(n, 1)) for name, n in wanted.items()]
        return sum(terms) / len(terms)


def picture(sample: Tensor) -> Image.Image:
    """A sample `(3, h, w)` as detectors' processors take it."""
    from PIL import Image

    return Image.fromarray(to_bytes(sample))


def wanted_of(batch: Batch, column: str) -> list[Counts]:
    """How many objects of which class each sample should show; {} for none. Raises RewardError."""
    if column not in batch:
        raise RewardError(
            f"object_count: the data set has no column {column!r} with the objects to show."
            f"{did_you_mean(column, batch.columns)} The option `columns` of `prompts` names those "
            "that it gives."
        )
    return [
        read_counts(value, f"object_count: {column!r} of {id_!r}")
        for id_, value in zip(batch.ids, batch[column])
    ]


def read_counts(value: Any, where: str) -> Counts:
    """{class: count} of one row; see `ObjectCount.column`."""
    if isinstance(value, str) and value.strip():
        try:
            value = parse(value)
        except (ValueError, RecursionError) as error:
            raise RewardError(f"{where}: not valid JSON ({error})") from error
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        # Parquet gives every row the names of all rows, and null where a row had none.
        pairs = [(name, count) for name, count in value.items() if count is not None]
    elif isinstance(value, (list, tuple)):
        pairs = [entry_of(entry, where) for entry in value]
    elif value is not None and value != "":
        raise RewardError(f'{where}: expected {{"dog": 2}} or the like, got {value!r:.60}')
    for name, count in pairs:
        if not isinstance(name, str) or not name.strip() or type(count) is not int or count < 0:
            raise RewardError(
                f"{where}: expected a class and a whole number >= 0, got {name!r:.60}: "
                f"{count!r:.60}"
            )
    counts = {name.strip(): count for name, count in pairs}
    if len({name.casefold() for name in counts}) < len(pairs):
        raise RewardError(f"{where}: a class is named twice, in {value!r:.200}")
    return counts


def entry_of(entry: Any, where: str) -> tuple[Any, Any]:
    """Class and count of {"class": "dog", "count": 2}."""
    given = {k for k, v in entry.items() if v is not None} if isinstance(entry, Mapping) else {}
    # Others, such as GenEval's colour, would be asked for and not judged.
    if given != {"class", "count"}:
        raise RewardError(
            f'{where}: expected {{"class": "dog", "count": 2}} and no other keys, got '
            f"{entry!r:.200}"
        )
    return entry["class"], entry["count"]
