"""The order in which samples are drawn: a pure function of the seed, so that resuming needs only
a position."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.files.json_text import is_whole
from rewardft.noise import keyed_generator
from rewardft.policy.sampling_weights import most_copies, read_weights, weighted_pass
from rewardft.types import Batch


class Stream:
    """An endless stream of samples, shuffled anew in every pass over the data.

    A data set with `sampling_weights` has each item in a pass as often as its weight says; one
    without has it once.

    position: samples drawn so far, over all processes; batches follow each other without a gap at
        the end of a pass.
    """

    def __init__(self, dataset: Any, seed: int, position: int = 0) -> None:
        check_some(dataset)
        self.dataset, self.seed, self.position = dataset, seed, position
        self._weights = read_weights(dataset)
        # Epochs of a pass: one for each time that an item may come in it.
        self._most = 1 if self._weights is None else most_copies(self._weights)
        # The items of the pass, and which copy of the item each is.
        self._pass, self._order, self._copies = -1, np.empty(0), np.empty(0)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]

    def next_batch(self, size: int, rank: int = 0, processes: int = 1) -> Batch:
        """The next `size` samples of this process;
        the processes take consecutive slices of one global batch."""
        # n processes with batch b see what one process with batch n * b sees.
        start = self.position + rank * size
        self.position += size * processes
        return self._gather(range(start, start + size))

    def _gather(self, positions: range) -> Batch:
        places = [self._place(*divmod(p, len(self.dataset))) for p in positions]
        items = [self.dataset[index] for index, _ in places]
        return make_batch(items, [epoch for _, epoch in places])

    def _place(self, number: int, offset: int) -> tuple[int, int]:
        """The item at an offset of a pass, and its epoch, by which its noise is drawn."""
        # Only the order of one pass is kept: positions ascend, so it changes once a pass.
        if number != self._pass:
            # As arrays, whose items take less time to read than a tensor's.
            self._order, self._copies = (drawn.numpy() for drawn in self._draw(number))
            self._pass = number
        # An item that comes twice in a pass has an epoch, and so noise, of its own each time.
        return int(self._order[offset]), number * self._most + int(self._copies[offset])

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        generator = keyed_generator(self.seed, "order", number)
        if self._weights is not None:
            return weighted_pass(self._weights, generator)
        count = len(self.dataset)
        try:
            order = torch.randperm(count, generator=generator)
            return order, torch.zeros_like(order)
        except (RuntimeError, MemoryError) as error:
            raise DataError(
                f"the data set {type(self.dataset).__name__} has {count:,} items, whose order does "
                "not fit into memory"
            ) from error


def check_some(dataset: Any, of: str = "") -> None:
    """Raises DataError for a data set without items. of: what it is for, in the message."""
    if len(dataset) == 0:
        raise DataError(f"the data set {type(dataset).__name__}{of} is empty")


def make_batch(items: list[Any], epochs: list[int]) -> Batch:
    """Collate items; raises DataError for one without an `id` of its own, or with that of another
    in the same pass, and for columns that do not fit together."""
    check_mappings(items)
    missing = [i for i, item in enumerate(items) if not isinstance(item.get("id"), str)]
    if missing:
        raise DataError(
            f"every item of a data set needs an `id` (a string, unique): its noise is drawn by it. "
            f"Item {missing[0]} of this batch has {items[missing[0]].get('id')!r}."
        )
    ids = tuple(item["id"] for item in items)
    check_unique(ids, epochs)
    for name in ("id", "group"):
        check_names(name, items)
    return Batch(ids, tuple(epochs), columns_of(items))


def check_mappings(items: Sequence[Any]) -> None:
    """Raises DataError for an item that has no columns, or others than the first of the batch."""
    for item in items:
        if not isinstance(item, Mapping):
            raise DataError(
                "an item of a data set is a mapping with an `id` and its columns; got a "
                f"{type(item).__name__}."
            )
        # A column has a value for every sample, or it could not be cut into micro-batches.
        if item.keys() != items[0].keys():
            odd = sorted(map(str, item.keys() ^ items[0].keys()))
            raise DataError(
                f"the items {items[0].get('id')!r} and {item.get('id')!r} of the data set have not "
                f"the same columns: only one of them has {', '.join(odd)}."
            )


def check_names(name: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Raises DataError where a column of names, which stand in metrics and files, holds anything
    else than text that can be written."""
    for item in items if name in items[0] else ():
        value = item[name]
        if not isinstance(value, str) or not is_whole(value):
            got = f"{value!r:.60} ({type(value).__name__})"
            raise DataError(
                f"{name!r} is a name, in UTF-8, in every item of a data set: metrics and files are "
                f"named by it. The item {item['id']!r} has {got}."
            )


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stack the items' tensors and arrays along a new leading dimension;
    numbers become tensors, the rest lists."""
    columns: dict[str, Any] = {}
    for name in items[0]:
        values = [item[name] for item in items]
        if isinstance(values[0], Tensor):
            columns[name] = torch.stack(values)
        elif isinstance(values[0], (bool, int, float)):
            columns[name] = torch.tensor(values)
        elif isinstance(values[0], (np.ndarray, np.number, np.bool_)):
            columns[name] = torch.from_numpy(np.stack(values))
        else:
            columns[name] = values
    return columns


def columns_of(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The items' columns; raises DataError for one whose values cannot be stacked."""
    try:
        return collate(items)
    # Of tensors and arrays of several shapes or types.
    except (RuntimeError, TypeError, ValueError) as error:
        ids = ", ".join(repr(item["id"]) for item in items[:3])
        raise DataError(
            f"the items {ids} ... of the data set make no batch: {error}. A column has one shape "
            "and one type in all items."
        ) from error


def check_unique(ids: Sequence[str], epochs: Sequence[int]) -> None:
    """Raises DataError when an id comes twice in one pass over the data: both samples would get
    the same noise."""
    # Across the end of a pass an id may come twice: its noise differs by pass.
    pairs = list(zip(ids, epochs))
    if len(set(pairs)) < len(pairs):
        raise repeated(sorted({id_ for (id_, _), count in Counter(pairs).items() if count > 1}))


def repeated(ids: Sequence[str]) -> DataError:
    """Says which ids come again."""
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return DataError(
        "several items of the data set have the same `id` "
        f"({', '.join(map(repr, ids[:3]))}{more}): their noise is drawn by it, so they would give "
        "the same samples. Give every item an id of its own."
    )


def evaluation_batches(dataset: Any, samples: int, size: int) -> Iterator[Batch]:
    """The first `samples` items in order, as batches of `size`;
    raises DataError when there are none, or two of them share an id."""
    check_some(dataset, " of the evaluation")
    count = min(samples, len(dataset))
    seen: set[str] = set()
    for start in range(0, count, size):
        items = [dataset[i] for i in range(start, min(start + size, count))]
        batch = make_batch(items, [0] * len(items))
        # Over all batches: two samples with the same noise in different ones would be as wrong.
        if again := sorted(seen.intersection(batch.ids)):
            raise repeated(again)
        seen.update(batch.ids)
        yield batch
