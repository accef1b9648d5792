"""Samples of the base and of the tuned model with the same conditions and the same noise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from rewardft.engine.drawing import batch_of, draw
from rewardft.errors import DataError, did_you_mean
from rewardft.evaluation.pictures import save_grid, save_pictures
from rewardft.evaluation.videos import as_strips, save_videos
from rewardft.files.atomic import make_folder, replacing, write_folder, write_text
from rewardft.files.surroundings import put_back
from rewardft.policy.batches import check_some
from rewardft.runs.open import load_trained, open_run, recipe_of_run


@dataclass(frozen=True)
class Drawn:
    """The same samples of both models, as tensors by name, see `draw`. base_shown, tuned_shown: as
    the model shows them, None where it cannot; decoded samples that are pictures need no showing.

    frame_rate: of samples that are videos, else None.
    base_texts, tuned_texts: what is decoded to texts, by name.
    averaged: whether the tuned weights are the moving average `train.ema`.
    """

    ids: list[str]
    groups: list[str]
    step: int
    base: dict[str, Tensor]
    tuned: dict[str, Tensor]
    base_shown: Tensor | None = None
    tuned_shown: Tensor | None = None
    averaged: bool = False
    frame_rate: float | None = None
    base_texts: dict[str, list[str]] = field(default_factory=dict)
    tuned_texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Which weights are the tuned ones."""
        return f"step {self.step}{', average' if self.averaged else ''}"

    @property
    def labels(self) -> list[str]:
        """'id (group)' of each sample, or its id."""
        if not self.groups:
            return self.ids
        return [f"{id_} ({group})" for id_, group in zip(self.ids, self.groups)]


@dataclass(frozen=True)
class PicturePair:
    """One sample as two pictures.

    `group`: its condition, where the data set has a column of that name.
    """

    sample: str
    group: str | None
    base: Path
    tuned: Path


@put_back()
def sample_run(
    folder: Path,
    count: int = 8,
    ids: Sequence[str] = (),
    scale: float = 1.0,
    out: Path | None = None,
    overrides: Sequence[str] = (),
) -> tuple[Drawn, list[Path]]:
    """Draw samples as the run's evaluations do and write them; returns them with the files.

    `base.safetensors`, `tuned.safetensors`; for pictures also `grid.png`, base on the left, and the
    folder `pictures`; for texts also `texts.json`.

    Args:
        count: the first so many held-out samples; not used when there are `ids`.
        scale: strength of the adapter, 1 as trained.
        out: folder for the files; default: `samples` in the run's.

    Raises:
        DataError: an id is not in the held-out data, or `scale` is not finite. ComponentError: the
            samples are no tensors, or the run trained all weights and `scale` is not 1.
    """
    if not math.isfinite(scale):
        raise DataError(f"the adapter's scale must be a finite number, got {scale:g}")
    # Absolute: a component may change the current folder before the files are written.
    folder, out = folder.absolute(), (out or folder / "samples").absolute()
    # First: what is no run gets no folder, and what cannot be written need not be drawn.
    recipe_of_run(folder)
    make_folder(out)
    drawn = draw_both(folder, count, ids, scale, overrides)
    files = list(save_drawn(drawn, scale, out))
    strength = "" if scale == 1.0 else f", scale {scale:g}"
    # Titles say which weights and which strength: the file outlives the command.
    columns = {
        "base": as_strips(drawn.base_shown),
        f"{drawn.name}{strength}": as_strips(drawn.tuned_shown),
    }
    grid = save_grid(columns, drawn.labels, out / "grid.png")
    if grid is not None:
        # Replaced as a whole: pictures of an earlier, longer call must not stay among these.
        def fill(pictures: Path) -> None:
            save_both(drawn, pictures)

        write_folder(out / "pictures", fill)
        files += [grid, out / "pictures"]
    return drawn, files


def save_drawn(drawn: Drawn, scale: float, out: Path) -> Iterator[Path]:
    """The samples themselves, before and after, with what they are of in the file's header."""
    # Headers of safetensors hold text alone.
    facts = {
        "ids": json.dumps(drawn.ids),
        "step": str(drawn.step),
        "adapter_scale": f"{scale:g}",
    }
    for name, tensors in (("base", drawn.base), ("tuned", drawn.tuned)):
        yield save_tensors(out / f"{name}.safetensors", tensors, facts | {"model": name})
    if drawn.base_texts:
        texts = {"ids": drawn.ids, "base": drawn.base_texts, "tuned": drawn.tuned_texts}
        write_text(out / "texts.json", json.dumps(texts, indent=2, ensure_ascii=False) + "\n")
        yield out / "texts.json"


def held_out_pictures(run: Path, count: int, folder: Path) -> list[PicturePair]:
    """The first `count` held-out samples of a run as pictures in `folder`; empty where samples are
    no pictures."""
    return save_both(draw_both(run, count, (), 1.0), folder)


def save_both(drawn: Drawn, folder: Path) -> list[PicturePair]:
    """`base-ID.png` and `tuned-ID.png` of every sample; of videos as `.gif`."""
    base = save_shown(drawn, drawn.base_shown, folder, "base-")
    tuned = save_shown(drawn, drawn.tuned_shown, folder, "tuned-")
    # A data set without groups has none, which must not shorten the `zip`.
    groups: Sequence[str | None] = drawn.groups or [None] * len(drawn.ids)
    return [PicturePair(*row) for row in zip(drawn.ids, groups, base, tuned)]


def save_shown(drawn: Drawn, shown: Tensor | None, folder: Path, prefix: str) -> list[Path]:
    """The samples of one model as files, still or moving."""
    if drawn.frame_rate is None:
        return save_pictures(shown, drawn.ids, folder, prefix)
    return save_videos(shown, drawn.ids, folder, drawn.frame_rate, prefix)


def draw_both(
    folder: Path, count: int, ids: Sequence[str], scale: float, overrides: Sequence[str] = ()
) -> Drawn:
    """Base first, then the newest weights of the run. The noise is that of its evaluations."""
    session = open_run(folder, overrides)
    # Before anything is loaded: a new adapter has no effect at any strength, so the base stays the
    # base.
    session.adapter.scale(scale)
    dataset = session.resolved.eval_dataset.build()
    check_some(dataset, " of the evaluation")
    rows = rows_of(dataset, ids) if ids else list(range(min(count, len(dataset))))
    # As evaluations take them, which is known to fit into memory.
    size = session.recipe.evaluate.batch_size or session.recipe.data.batch_size
    batches = [batch_of(session, dataset, rows[i : i + size]) for i in range(0, len(rows), size)]
    # The base before the weights are loaded, see `evaluate_run`.
    base = draw(session, batches)
    step = load_trained(session, folder)
    tuned = draw(session, batches)
    return Drawn(
        ids=[id_ for batch in batches for id_ in batch.ids],
        groups=[group for batch in batches if "group" in batch for group in batch["group"]],
        step=step,
        base=base.tensors,
        tuned=tuned.tensors,
        base_shown=base.shown,
        tuned_shown=tuned.shown,
        averaged=session.recipe.evaluate.weights == "ema",
        frame_rate=getattr(session.model, "frame_rate", None),
        base_texts=base.texts,
        tuned_texts=tuned.texts,
    )


def rows_of(dataset: Any, ids: Sequence[str]) -> list[int]:
    """Where the ids are in the data set. Raises DataError for those that are not."""
    places = {dataset[i]["id"]: i for i in range(len(dataset))}
    missing = [id_ for id_ in ids if id_ not in places]
    if missing:
        raise DataError(
            f"there is no held-out sample {missing[0]!r}.{did_you_mean(missing[0], places)}"
        )
    # An id given twice is drawn once: both would have the same noise.
    return [places[id_] for id_ in dict.fromkeys(ids)]


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> Path:
    """A safetensors file, complete or absent."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=facts)
    return path
