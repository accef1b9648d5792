"""Samples of the base and of the tuned model with the same conditions and the same noise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rewardft.engine.session import Session
from rewardft.errors import ComponentError, DataError, did_you_mean
from rewardft.evaluation.pictures import save_grid, save_pictures
from rewardft.evaluation.videos import as_strips, save_videos
from rewardft.files.atomic import make_folder, replacing, write_folder, write_text
from rewardft.files.surroundings import put_back
from rewardft.policy.batches import make_batch
from rewardft.runs.open import load_trained, open_run
from rewardft.types import Batch, Plan


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
        DataError: an id is not in the held-out data. ComponentError: the samples are no tensors, or
            the run trained all weights and `scale` is not 1.
    """
    # Absolute: a component may change the current folder before the files are written.
    folder, out = folder.absolute(), (out or folder / "samples").absolute()
    # First: what cannot be written need not be drawn.
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


def held_out_pictures(
    run: Path, count: int, folder: Path, prefix: str = "", scale: float = 1.0
) -> list[PicturePair]:
    """The first `count` held-out samples of a run as pictures in `folder`;
    empty where samples are no pictures."""
    return save_both(draw_both(run, count, (), scale), folder, prefix)


def save_both(drawn: Drawn, folder: Path, prefix: str = "") -> list[PicturePair]:
    """`PREFIXbase-ID.png` and `PREFIXtuned-ID.png` of every sample; of videos as `.gif`."""
    base = save_shown(drawn, drawn.base_shown, folder, f"{prefix}base-")
    tuned = save_shown(drawn, drawn.tuned_shown, folder, f"{prefix}tuned-")
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


def batch_of(session: Session, dataset: Any, rows: Sequence[int]) -> Batch:
    """These rows of the held-out data, on the session's device."""
    # Pass 0, as in evaluations: the noise is then theirs.
    batch = make_batch([dataset[i] for i in rows], [0] * len(rows))
    return batch.to(session.context.device)


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


@dataclass(frozen=True)
class Samples:
    """What one model draws, see `Drawn`."""

    tensors: dict[str, Tensor]
    texts: dict[str, list[str]]
    shown: Tensor | None


def draw(session: Session, batches: Sequence[Batch]) -> Samples:
    """`x0` and `decoded` as tensors by name, on the CPU; texts; and pictures of them.

    Of a mapping its tensors and texts are taken, as `x0.NAME` and `decoded.NAME`. Raises
    ComponentError where x0 holds no tensor.
    """
    ctx = session.evaluation_context(scored=False)
    parts: dict[str, list[Tensor]] = {}
    texts: dict[str, list[str]] = {}
    shown: list[Tensor] = []
    for batch in batches:
        rollout = ctx.rollout(batch, Plan(stop=ctx.sampler.steps))
        # Decoding and drawing too: `rollout` has no graph, but the decoder would build one.
        with torch.no_grad():
            decoded = rollout.decoded
            picture = show(session.model, decoded, batch)
        tensors = named_tensors("x0", rollout.x0)
        if not tensors:
            kind = type(rollout.x0).__name__
            raise ComponentError(
                f"samples are written as tensors, and this model's are of type {kind}"
            )
        for name, value in (tensors | named_tensors("decoded", decoded)).items():
            # Off the device at once: all samples of both models together may not fit on it.
            parts.setdefault(name, []).append(value.detach().cpu())
        for name, lines in named_texts("decoded", decoded).items():
            texts.setdefault(name, []).extend(lines)
        if picture is not None:
            shown.append(picture.detach().cpu())
    joined = {name: joined_rows(values) for name, values in parts.items()}
    return Samples(joined, texts, torch.cat(shown) if shown else None)


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """Batches one after the other; samples of several lengths are filled up with zeros."""
    # Answers and videos may have other lengths in every batch.
    longest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts))]
    filled = [part.new_zeros(len(part), *longest) for part in parts]
    for whole, part in zip(filled, parts):
        whole[(slice(None), *map(slice, part.shape[1:]))] = part
    return torch.cat(filled)


def named_texts(name: str, value: Any) -> dict[str, list[str]]:
    """A list of texts under `name`, or those of a mapping under `name.KEY`."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {name: value}
    if not isinstance(value, Mapping):
        return {}
    parts = [named_texts(f"{name}.{key}", item) for key, item in value.items()]
    return {key: lines for part in parts for key, lines in part.items()}


def show(model: Any, decoded: Any, batch: Batch) -> Tensor | None:
    """Decoded samples as something to look at: the model's `show`, or themselves if a tensor."""
    if hasattr(model, "show"):
        shown: Tensor = model.show(decoded, batch)
        return shown
    return decoded if isinstance(decoded, Tensor) else None


def named_tensors(name: str, value: Any) -> dict[str, Tensor]:
    """A tensor under `name`, or those of a mapping under `name.KEY`."""
    if isinstance(value, Tensor):
        return {name: value}
    if not isinstance(value, Mapping):
        return {}
    parts = [named_tensors(f"{name}.{key}", item) for key, item in value.items()]
    return {key: tensor for part in parts for key, tensor in part.items()}


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> Path:
    """A safetensors file, complete or absent."""
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=facts)
    return path
