"""Samples of a session's model as tensors, as texts and as something to look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rewardft.engine.session import Session
from rewardft.errors import ComponentError
from rewardft.policy.answers import titled
from rewardft.policy.batches import make_batch
from rewardft.policy.untouched import described
from rewardft.types import Batch, Plan


def batch_of(session: Session, dataset: Any, rows: Sequence[int]) -> Batch:
    """These rows of the held-out data, on the session's device."""
    # Pass 0, as in evaluations: the noise is then theirs.
    batch = make_batch([dataset[i] for i in rows], [0] * len(rows))
    return batch.to(session.context.device)


@dataclass(frozen=True)
class Samples:
    """What one model draws: tensors and texts by name, and samples as it shows them, None where it
    cannot; decoded samples that are pictures need no showing."""

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
    return Samples(joined, texts, joined_pictures(shown) if shown else None)


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """Batches one after the other; samples of several lengths are filled up with zeros."""
    return filled_up(parts, 0.0)  # answers and videos may have other lengths in every batch


def joined_pictures(parts: Sequence[Tensor]) -> Tensor:
    """Pictures or videos of several batches, `(n, c, h, w)` or `(n, v, c, h, w)`, as one tensor;
    smaller ones are laid upon white. Raises ComponentError for kinds that do not go together."""
    if len({(part.ndim, part.shape[-3:-2]) for part in parts}) > 1:
        shapes = " and ".join(sorted({str(tuple(part.shape[1:])) for part in parts}))
        raise ComponentError(
            f"samples of several batches cannot be shown together: they are of shapes {shapes}. "
            "Expected pictures (c, h, w), or videos or views (v, c, h, w), with the same c in all."
        )
    return filled_up(parts, 1.0)


def filled_up(parts: Sequence[Tensor], value: float) -> Tensor:
    """Tensors `(n, ...)` one after the other, the smaller ones with `value` behind their ends."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts))]
    filled = [part.new_full((len(part), *largest), value) for part in parts]
    for whole, part in zip(filled, parts):
        whole[(slice(None), *map(slice, part.shape[1:]))] = part
    return torch.cat(filled)


def named_texts(name: str, value: Any) -> dict[str, list[str]]:
    """A list of texts under `name`, or those of a mapping under `name.KEY`."""
    return named(
        name, value, lambda v: isinstance(v, list) and all(isinstance(item, str) for item in v)
    )


def show(model: Any, decoded: Any, batch: Batch) -> Tensor | None:
    """Decoded samples as something to look at: the model's `show`, or themselves if a tensor."""
    if hasattr(model, "show"):
        shown: Any = model.show(decoded, batch)
        if shown is not None and not isinstance(shown, Tensor):
            raise ComponentError(
                f"{titled(model)}: show(decoded, batch) must return pictures as a tensor, or None "
                f"where there are none; got {described(shown)}."
            )
        return shown
    return decoded if isinstance(decoded, Tensor) else None


def named_tensors(name: str, value: Any) -> dict[str, Tensor]:
    """A tensor under `name`, or those of a mapping under `name.KEY`."""
    return named(name, value, lambda v: isinstance(v, Tensor))


def named(name: str, value: Any, is_wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """A value under `name` if it is wanted, or those of a mapping under `name.KEY`."""
    if is_wanted(value):
        return {name: value}
    if not isinstance(value, Mapping):
        return {}
    parts = [named(f"{name}.{key}", item, is_wanted) for key, item in value.items()]
    return {key: found for part in parts for key, found in part.items()}
