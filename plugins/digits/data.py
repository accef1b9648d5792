"""scikit-learn's handwritten digits (UCI, Alpaydin & Kaynak 1998): 1,797 grey images of 8x8 pixels,
17 levels.

Every image has a place in its class, drawn once. Places decide the splits: every fifth image is
held out of the base's pre-training; odd places train the reward's classifier and even places the
judge's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from rewardft.errors import DataError
from rewardft.noise import keyed_generator
from rewardft.recipe.bounds import Count

SIZE = 8
CLASSES = 10
Split = Literal["train", "val"]


@lru_cache(maxsize=1)
def load_images() -> tuple[Tensor, ...]:
    """The images of each class, `(n, 1, 8, 8)` in [0, 1], in the order of their places.

    Raises DataError when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits come with scikit-learn, which is not installed: pip install "
            "'rewardft[digits]'"
        ) from error
    # 17 levels, 0 to 16.
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] / 16
    labels = torch.from_numpy(bunch.target)
    return tuple(shuffled(images[labels == digit], digit) for digit in range(CLASSES))


def shuffled(images: Tensor, digit: int) -> Tensor:
    """The same images in a random order that depends on the digit alone."""
    # The file's order follows its writers, so places are drawn.
    return images[torch.randperm(len(images), generator=keyed_generator("digits", "places", digit))]


def half(odd: bool) -> tuple[Tensor, Tensor]:
    """Images `(n, 1, 8, 8)` and labels `(n,)` at the odd or even places of every class."""
    # By class, so that both halves have every digit equally often.
    parts = [images[int(odd) :: 2] for images in load_images()]
    labels = [torch.full((len(part),), digit) for digit, part in enumerate(parts)]
    return torch.cat(parts), torch.cat(labels)


@lru_cache(maxsize=2)
def split_images(split: Split) -> tuple[Tensor, ...]:
    """The images of each class in a split, equally many of each: `(n, 1, 8, 8)`."""
    # By place, which is independent of the halves that the classifiers learn from.
    held_out = [torch.arange(len(images)) % 5 == 0 for images in load_images()]
    parts = [
        images[held if split == "val" else ~held] for images, held in zip(load_images(), held_out)
    ]
    # Equally many of each: items take the classes in turn.
    count = min(map(len, parts))
    return tuple(part[:count] for part in parts)


def class_item(index: int, size: int, split: str) -> dict[str, Any]:
    """Item `index`: its id, label and group.

    Classes take turns; raises IndexError outside the data set.
    """
    if not 0 <= index < size:
        raise IndexError(index)
    label = index % CLASSES
    return {"id": f"{split}/{index}", "label": label, "group": f"digit{label}"}


def check_split(split: str, size: int) -> None:
    """Raises DataError for an unknown split or an empty data set."""
    if split not in ("train", "val") or size < 1:
        raise DataError(
            f"expected the split train or val and at least one item, got {split!r} and {size}"
        )


class DigitClasses:
    """Digits to ask for, without images. Items: id, label in 0..9, group.

    Args:
        size: number of items; their ids, and so their noise, differ between the splits.
        split: train or val.
    """

    def __init__(self, size: Count = 4096, split: Split = "train") -> None:
        check_split(split, size)
        self.size, self.split = size, split

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return class_item(index, self.size, self.split)


class DigitImages:
    """The real images, classes in turn. Items: id, image `(1, 8, 8)` in [0, 1], label in 0..9,
    group.

    Args:
        split: train (four fifths of the images) or val.
    """

    provides = frozenset({"training_targets"})

    def __init__(self, split: Split = "train") -> None:
        check_split(split, 1)
        self.split, self.images = split, split_images(split)

    def __len__(self) -> int:
        return CLASSES * len(self.images[0])

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        item = class_item(index, len(self), self.split)
        return {**item, "image": self.images[item["label"]][index // CLASSES]}
