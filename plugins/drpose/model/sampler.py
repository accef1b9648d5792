"""`multiview_ddim`: DDIM over sets of views, and the arrangement of a set's rows.

A sample is `(2 v, c, h, w)`: v views of the normal map, then v of the colour. All rows of a sample
share the timestep; noise is independent per row, as in PSHuman. PSHuman's released sampler draws
noise (eta 1.0, 40 steps); DrPose fine-tunes with 20 steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative
from rewardft.samplers.ddim import DDIM

if TYPE_CHECKING:
    from rewardft.noise import Noise
    from rewardft.types import Plan, Rollout, Transition


class MultiviewDDIM:
    """DDIM for multi-view models.

    Args:
        steps: number of sampling steps T >= 1.
        eta: noise scale >= 0; 0 is deterministic.
    """

    provides = frozenset({"differentiable_sampler", "renoise"})
    needs = frozenset({"denoiser", "multiview"})
    tags = staticmethod(DDIM.tags)

    def __init__(self, steps: Count = 20, eta: NotNegative = 0.0) -> None:
        self._ddim, self.steps = DDIM(steps, eta), steps

    def setup(self, model: Any) -> None:
        self._ddim.setup(model)

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        # Checked before the first call: a model of single pictures would fail inside the network.
        shape = model.sample_shape(cond)
        if len(shape) != 4 or shape[0] not in (DOMAINS * BODY_VIEWS, DOMAINS * (BODY_VIEWS + 1)):
            raise ComponentError(
                "multiview_ddim needs samples (rows, c, h, w) of 12 rows, or 14 with face crops, "
                f"got {shape}"
            )
        return self._ddim.rollout(model, cond, plan, noise)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        return self._ddim.replay(model, rollout, k, input_gradient=input_gradient)

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        return self._ddim.transition(k, state, output, noise, taken)

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        return self._ddim.renoise(x0, k, noise)


def split_domains(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`(b, 2 v, ...)` -> normals and colours `(b, 6, ...)`; face rows are left out."""
    normals, colours = rows.unflatten(1, (DOMAINS, -1)).unbind(1)
    return normals[:, :BODY_VIEWS], colours[:, :BODY_VIEWS]
