"""`diversity`: how far the samples of a set are from each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Batch, Rollout

if TYPE_CHECKING:
    from .features import FeatureExtractor

Distances = Callable[[Tensor, Tensor], Tensor]
CHUNK = 256  # rows of a block of distances: 256 x 256 numbers are in memory at a time


class Diversity:
    """Mean distance between two different samples: over all pairs, and over the pairs that share a
    condition.

    Values: `SPACE` over all pairs, and `SPACE_within_group`: the mean over groups of at least two
        samples of the mean within the group. Both are unbiased for two independent draws, whatever
        the number of samples, and do not depend on the order of the batches.

    Spaces:
        latents: x0, root mean squared difference (the Euclidean distance over the root of the
            dimension).
        pixels: the same of decoded samples, whatever their shape.
        features: cosine distance, in [0, 2], of a vision model's features; for pictures.

    Memory: every sample as a vector, on the CPU, and one block of distances.

    Args:
        spaces: which of latents and pixels; null: both.
        features: folder of a transformers vision model with its `preprocessor_config.json`; adds
            the space `features`.
        group_by: the batch's column of conditions; null: `group`, else `prompt`, else no groups.
    """

    higher_is_better = None  # neither: alarms watch for a collapse

    def __init__(
        self,
        spaces: list[Literal["latents", "pixels"]] | None = None,
        features: Path | None = None,
        group_by: str | None = None,
    ) -> None:
        named: list[str] = ["latents", "pixels"] if spaces is None else [*spaces]
        self.spaces = list(dict.fromkeys(named))
        self.group_by = group_by
        self.extractor: FeatureExtractor | None = None
        if features is not None:
            from .features import FeatureExtractor

            self.extractor = FeatureExtractor(features)
            # Beside the others, as features see what pixels do not.
            self.spaces.append("features")
        if not self.spaces:
            raise ComponentError(
                "diversity has nothing to measure: name a space, or a folder in `features`"
            )
        self.reset()

    def reset(self) -> None:
        # Single vectors and not running sums: pairs span batches.
        self._vectors: dict[str, list[Tensor]] = {space: [] for space in self.spaces}
        self._groups: list[Any] = []

    @torch.no_grad()
    def update(self, rollout: Rollout, batch: Batch) -> None:
        for space, parts in self._vectors.items():
            parts.append(self._read(space, rollout).flatten(1).float().cpu())
        self._groups += groups_of(batch, self.group_by)

    def compute(self) -> Mapping[str, float]:
        rows = by_group(self._groups)
        result: dict[str, float] = {}
        for space, parts in self._vectors.items():
            vectors = torch.cat(parts) if parts else torch.zeros(0, 1)
            distances = cosine_distances if space == "features" else rms_distances
            result[space] = mean_distance(vectors, distances)
            # Each group weighs the same, so a prompt with many samples does not decide the mean.
            within = [mean_distance(vectors[index], distances) for index in rows if len(index) > 1]
            if within:
                result[f"{space}_within_group"] = sum(within) / len(within)
        return result

    def _read(self, space: str, rollout: Rollout) -> Tensor:
        if space == "features":
            assert self.extractor is not None
            return self.extractor(rollout.decoded)
        value = rollout.x0 if space == "latents" else rollout.decoded
        if not isinstance(value, Tensor):
            what = "finished samples" if space == "latents" else "decoded samples"
            raise ComponentError(
                f"diversity: the space {space!r} needs {what} that are tensors, got "
                f"{type(value).__name__}. Leave it out with the option `spaces`."
            )
        return value


def groups_of(batch: Batch, column: str | None) -> list[Any]:
    """The condition of each sample; None for all where the batch has no column of conditions.

    Raises ComponentError when a column is named that the batch does not have.
    """
    if column is not None and column not in batch:
        raise ComponentError(
            f"diversity: group_by names the column {column!r}, and the data set gives only: "
            f"{', '.join(batch.columns)}"
        )
    # `group` first: prompts of one group may differ in a word.
    name = column or next((name for name in ("group", "prompt") if name in batch), None)
    if name is None:
        # No condition is not one common condition: nobody shares a group.
        return [None] * len(batch)
    values = batch[name]
    return [str(v) for v in (values.tolist() if isinstance(values, Tensor) else values)]


def by_group(groups: Sequence[Any]) -> list[list[int]]:
    """The row numbers of each group; samples without a condition are in none."""
    rows: dict[Any, list[int]] = {}
    for i, group in enumerate(groups):
        if group is not None:
            rows.setdefault(group, []).append(i)
    return list(rows.values())


def mean_distance(vectors: Tensor, distances: Distances) -> float:
    """Mean over the pairs i < j of `(n, d)` vectors, summed in float64;
    NaN for fewer than two vectors."""
    count = len(vectors)
    if count < 2:
        return float("nan")
    # Each pair once. float64: float32 would lose digits in a sum over millions of pairs.
    total = sum(
        float(distances(a, b).double().triu(diagonal).sum()) for a, b, diagonal in blocks(vectors)
    )
    return total / (count * (count - 1) / 2)


def blocks(vectors: Tensor) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Blocks of rows that together hold each pair once, and from which diagonal on they do."""
    parts = vectors.split(CHUNK)
    for i, first in enumerate(parts):
        yield first, first, 1
        for second in parts[i + 1 :]:
            # From this diagonal on the block is whole.
            yield first, second, 1 - len(first)


def rms_distances(a: Tensor, b: Tensor) -> Tensor:
    """`(n, d)`, `(m, d)` -> `(n, m)`.

    By differences: torchmetrics expands the square, and is NaN for some twins.
    """
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") / a.shape[1] ** 0.5


def cosine_distances(a: Tensor, b: Tensor) -> Tensor:
    """`(n, d)`, `(m, d)` -> `(n, m)` in [0, 2].

    Raises ComponentError when torchmetrics is not installed.
    """
    try:
        from torchmetrics.functional.pairwise import pairwise_cosine_similarity
    except ImportError as error:
        raise ComponentError(
            "diversity: the space 'features' needs torchmetrics, which is not installed: "
            "pip install 'rewardft[metrics]'"
        ) from error
    # float64, and clamped: equal vectors may come out a rounding below 0.
    return (1 - pairwise_cosine_similarity(a.double(), b.double(), zero_diagonal=False)).clamp_min(
        0
    )
