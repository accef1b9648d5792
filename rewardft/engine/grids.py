"""Grids of held-out samples along a run: always the same samples and the same noise, so that what
changes from one to the next is the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rewardft.contracts.run import Run
from rewardft.engine.drawing import batch_of, joined_pictures, show
from rewardft.engine.ema import Ema
from rewardft.engine.moments import passes
from rewardft.engine.processes import main_decides
from rewardft.engine.session import Session
from rewardft.engine.state import TrainState
from rewardft.errors import ComponentError
from rewardft.evaluation.pictures import save_tiles
from rewardft.evaluation.videos import as_strips
from rewardft.files.atomic import make_folder
from rewardft.policy.batches import check_some
from rewardft.types import Batch, Plan


class Grids:
    """Draws `samples/grid-STEP.png` as the section `samples` of the recipe says. Every process
    draws, as a sharded base needs all of them; the main one writes.

    ema: the averaged weights, where they are what is evaluated.
    state: the step, and the one before the last batch.
    """

    def __init__(
        self,
        session: Session,
        run: Run,
        plugins: Any,
        accelerator: Any,
        ema: Ema,
        state: TrainState,
    ) -> None:
        self.session, self.run, self.plugins = session, run, plugins
        self.accelerator, self.spec = accelerator, session.recipe.samples
        self.ema = ema if session.recipe.evaluate.weights == "ema" else None
        self.batches: list[Batch] = []
        self.state = state

    def begin(self, step: int) -> None:
        """What the run starts from; also `step` where the run ended between its checkpoint and its
        grid."""
        if self.pass_step():
            self._draw_missing(step)

    def pass_step(self) -> bool:
        """Whether the last batch has passed a multiple of `every`."""
        return passes(self.spec.every, self.state.before, self.state.step)

    def end(self, step: int) -> None:
        """What the run ends with."""
        if self.spec.every:
            self._draw_missing(step)

    def _draw_missing(self, step: int) -> None:
        if not main_decides(self.accelerator, lambda: grid_path(self.run.folder, step).is_file()):
            self.draw(step)

    def draw(self, step: int) -> None:
        """Draw the samples of now, and tell the observers. Raises ComponentError where there is
        nothing to look at."""
        # At step 0 the average is a copy of the weights. The training does not notice any of it:
        # noise is keyed to samples, and torch's own generator is seeded anew by each batch.
        with nullcontext() if self.ema is None or step == 0 else self.ema.applied():
            shown = self._shown()
        if self.accelerator.is_main_process:
            path = self._save(step, shown)
            self.plugins.call("on_samples_drawn", run=self.run, step=step, path=path)

    def _shown(self) -> Tensor | None:
        """All samples as the model shows them, of videos some frames, on the CPU; None where it
        cannot."""
        ctx = self.session.evaluation_context(scored=False)
        parts = []
        for batch in self.batches or self._build_batches():
            rollout = ctx.rollout(batch, Plan(stop=ctx.sampler.steps))
            with torch.no_grad():  # the decoder would build a graph
                shown = show(self.session.model, rollout.decoded, batch)
            # Strips before all are joined: videos of several lengths would not fit together.
            parts.append(None if shown is None else as_strips(shown).detach().cpu())
        pictures = [part for part in parts if part is not None]
        return joined_pictures(pictures) if len(pictures) == len(parts) else None

    def _build_batches(self) -> Sequence[Batch]:
        """The first held-out samples, as evaluations take them, which is known to fit."""
        recipe, dataset = self.session.recipe, self.session.resolved.eval_dataset.build()
        check_some(dataset, " of the evaluation")
        size = recipe.evaluate.batch_size or recipe.data.batch_size
        rows = list(range(min(self.spec.count, len(dataset))))
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        self.batches = [batch_of(self.session, dataset, part) for part in parts]
        return self.batches

    def _save(self, step: int, shown: Tensor | None) -> Path:
        path = grid_path(self.run.folder, step)
        make_folder(path.parent)
        labels = [label for batch in self.batches for label in labels_of(batch)]
        if save_tiles(shown, labels, path) is None:
            shape = "no tensor" if shown is None else f"of shape {tuple(shown.shape[1:])}"
            model = self.session.recipe.model.use
            raise ComponentError(
                f"samples.every: the samples of the model {model!r} cannot be looked at: expected "
                "pictures (c, h, w) or (v, c, h, w) with c = 1 or 3, decoded or from its method "
                f"`show`; they are {shape}. Set samples.every to 0."
            )
        return path


def grid_path(out: Path, step: int) -> Path:
    """The picture of one step."""
    return out / "samples" / f"grid-{step:08d}.png"


def labels_of(batch: Batch) -> list[str]:
    """'ID (GROUP)' of each sample, or its id."""
    if "group" not in batch:
        return list(batch.ids)
    return [f"{id_} ({group})" for id_, group in zip(batch.ids, batch["group"])]
