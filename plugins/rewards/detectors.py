"""Object detectors of transformers: how many objects of given classes are in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rewardft.errors import RewardError, did_you_mean
from rewardft.files.shapes import is_shapes_only

from .weights import fetched

if TYPE_CHECKING:
    from PIL import Image

ASKED_BY_TEXT = ("owlvit", "owlv2")  # model types that find what a text names
Counts = dict[str, int]


@dataclass(frozen=True)
class DetectorSource:
    """Where a detector comes from and what counts as an object.

    weights:   folder or hub id with safetensors weights and their image processor.
    revision:  branch, tag or commit of a hub id.
    threshold: least score of an object, in (0, 1); None: 0.5, or 0.1 for a detector that is asked
        by text, whose scores are lower.
    overlap:   boxes of one class whose intersection over union is larger are one object.
    """

    weights: str
    revision: str | None = None
    threshold: float | None = None
    overlap: float = 0.5


class Detector(nn.Module):
    """A frozen detector with its processor. See `load_detector`."""

    default_threshold = 0.5

    def __init__(self, source: DetectorSource, model: nn.Module, processor: Any) -> None:
        super().__init__()
        self.source, self.processor = source, processor
        self.model: Any = model.eval().requires_grad_(False)
        given = source.threshold
        self.threshold = self.default_threshold if given is None else given

    @torch.no_grad()
    def counts(
        self, pictures: Sequence[Image.Image], wanted: Sequence[tuple[str, ...]]
    ) -> list[Counts]:
        """How many objects of each class that is wanted in it are in each picture."""
        device = next(self.model.parameters()).device
        # The detector's precision is its own; autocast of the training must not change a count.
        with torch.autocast(device.type, enabled=False):
            found = self.find(list(pictures), list(wanted), device)
        return [self.count(one, names) for one, names in zip(found, wanted)]

    def find(
        self, pictures: list[Image.Image], wanted: list[tuple[str, ...]], device: torch.device
    ) -> list[dict[str, Any]]:
        """`scores` `(n,)`, `boxes` `(n, 4)` and `names` (n texts) in each picture."""
        unknown = [name for names in wanted for name in names if name.casefold() not in self.names]
        if unknown:
            raise RewardError(
                f"object_count: {self.source.weights} has no class {unknown[0]!r}."
                f"{did_you_mean(unknown[0], self.names)}"
            )
        inputs = self.processor(images=pictures, return_tensors="pt").to(device)
        found = self.boxes(self.processor, self.model(**inputs), pictures)
        labels = self.model.config.id2label
        return [one | {"names": [labels[i].casefold() for i in one["labels"]]} for one in found]

    @property
    def names(self) -> list[str]:
        """The classes that it was trained on."""
        return [name.casefold() for name in self.model.config.id2label.values()]

    def boxes(
        self, processor: Any, outputs: Any, pictures: list[Image.Image]
    ) -> list[dict[str, Any]]:
        """What scores above the threshold, in pixels of each picture."""
        sizes = [(picture.height, picture.width) for picture in pictures]
        found = processor.post_process_object_detection(
            outputs, threshold=self.threshold, target_sizes=sizes
        )
        return [one | {"labels": one["labels"].tolist()} for one in found]

    def count(self, found: dict[str, Any], names: tuple[str, ...]) -> Counts:
        """Objects of each class in a picture, each once."""
        counts = {}
        for name in names:
            of_class = torch.tensor(
                [n == name.casefold() for n in found["names"]], dtype=torch.bool
            )
            of_class = of_class.to(found["boxes"].device)
            boxes, scores = found["boxes"][of_class], found["scores"][of_class]
            counts[name] = count_apart(boxes[scores.argsort(descending=True)], self.source.overlap)
        return counts


class TextDetector(Detector):
    """OWL-ViT and OWLv2: a query for each class, of whatever name."""

    default_threshold = 0.1

    def find(
        self, pictures: list[Image.Image], wanted: list[tuple[str, ...]], device: torch.device
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = [{}] * len(pictures)
        # Together only under the same queries: the processor fills up shorter lists with blank
        # queries, which would win boxes, and a count would depend on the batch.
        for names in dict.fromkeys(wanted):
            rows = [i for i, other in enumerate(wanted) if other == names]
            queries = [[f"a photo of a {name}" for name in names]] * len(rows)
            chosen = [pictures[i] for i in rows]
            inputs = self.processor(text=queries, images=chosen, return_tensors="pt").to(device)
            boxes = self.boxes(self.processor.image_processor, self.model(**inputs), chosen)
            for row, one in zip(rows, boxes):
                found[row] = one | {"names": [names[i].casefold() for i in one["labels"]]}
        return found


def load_detector(source: DetectorSource) -> Detector:
    """A detector of a fixed list of classes (DETR and its kin), or one that is asked by text.

    Raises ComponentError for weights that are not there or that no detector has.
    """
    import transformers

    def load(what: str, loader: Any, **options: Any) -> Any:
        pinned = {} if source.revision is None else {"revision": source.revision}
        return fetched(
            lambda: loader.from_pretrained(source.weights, **pinned, **options),
            f"object_count: the {what} of",
            source.weights,
            source.revision,
        )

    config = load("settings", transformers.AutoConfig)
    by_text = config.model_type in ASKED_BY_TEXT
    kind = "AutoModelForZeroShotObjectDetection" if by_text else "AutoModelForObjectDetection"
    family = getattr(transformers, kind)
    if is_shapes_only():
        with torch.device("meta"):
            model = family.from_config(config)
    else:
        model = load("weights", family, use_safetensors=True)
    # Texts need a tokenizer beside the image processor.
    reads = transformers.AutoProcessor if by_text else transformers.AutoImageProcessor
    processor = load("processor", reads)
    return (TextDetector if by_text else Detector)(source, model, processor)


def count_apart(boxes: Tensor, overlap: float) -> int:
    """How many of boxes `(n, 4)`, the best first, are left if each that overlaps a better one that
    is left by more than `overlap` is dropped (non-maximum suppression)."""
    left: list[Tensor] = []
    for box in boxes:
        if all(intersection_over_union(box, other) <= overlap for other in left):
            left.append(box)
    return len(left)


def intersection_over_union(one: Tensor, other: Tensor) -> float:
    """Of two boxes (left, top, right, bottom); 0 for boxes without area."""
    lengths = torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])
    shared = float(lengths.clamp(min=0).prod())
    union = float((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod()) - shared
    return shared / union if union > 0 else 0.0
