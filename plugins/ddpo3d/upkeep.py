"""Between optimizer steps: which Gaussians are moved, doubled and pruned, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from rewardft_plugins.ddpo3d.density import Densification, densify
from rewardft_plugins.ddpo3d.relocation import relocate
from rewardft_plugins.ddpo3d.table import Forget, SceneTable, keep
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.noise import keyed_generator


@dataclass
class Upkeep:
    """Of a table of scenes.

    relocate_every: steps after which faint Gaussians are moved; 0: never. densification: None for
    none. faint: opacity. tended: the last step after which anything was done.
    """

    relocate_every: int
    densification: Densification | None
    faint: float
    seed: int
    tended: int = 0

    def __post_init__(self) -> None:
        """Raises ComponentError for both at once: what is free would be moved to where others are,
        and nothing would be left for what is doubled."""
        if self.relocate_every and self.densification is not None:
            raise ComponentError(
                "gaussian_scene: densify and relocate_every do not go together; leave one of them "
                "out"
            )

    def tend(
        self,
        table: SceneTable,
        step: int,
        gather: Callable[[Tensor], Tensor] = lambda x: x,
        forget: Forget = keep,
    ) -> None:
        """Before the pictures of an optimizer step are taken: what is due.

        gather: the tensors `(1, ...)` of all processes. forget: makes the optimizer begin anew for
        entries of a parameter.
        """
        # A step may take several batches: once for all of them.
        if step == self.tended:
            return
        self.tended = step
        # From the step and the seed alone: a resumed run moves the same ones.
        if self.relocate_every and step % self.relocate_every == 0:
            relocate(table, self.faint, self.generator("relocate", step), forget)
        rule = self.densification
        if rule is not None and step % rule.every == 0:
            self.share(table, gather)
            densify(table, rule, self.faint, self.generator("densify", step), forget)

    def generator(self, name: str, step: int) -> torch.Generator:
        return keyed_generator(name, self.seed, step)

    @staticmethod
    def share(table: SceneTable, gather: Callable[[Tensor], Tensor]) -> None:
        """All processes double the same Gaussians: each has noted its own pictures alone."""
        assert table.pull is not None
        for noted in (table.pull.total, table.pull.pictures):
            noted.copy_(gather(noted[None]).sum(0))
