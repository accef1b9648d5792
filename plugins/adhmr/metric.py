"""`hmr_errors`: how far hypotheses are from the truth, one by one, together, at best and by
choice."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from rewardft_plugins.adhmr.body import mesh_of
from rewardft_plugins.adhmr.scorer import HMRScorer
from rewardft_plugins.adhmr.space import Pose, unpack
from rewardft_plugins.humans.poses.errors import aligned_distance, mean_distance, spread
from torch import Tensor

from rewardft.files.paths import PathOrShipped
from rewardft.types import Batch, Rollout

CPU = torch.device("cpu")


class HMRErrors:
    """Per-item values `(n,)` in millimetres, lower is better, from `evaluate.samples_per_item`
    hypotheses.

    `mpjpe`, `pa_mpjpe`, `pve`: mean over the hypotheses. `..._mean`: of their mean pose.
    `..._best`: of the hypothesis that is best by that error. `..._chosen`: of the one that the
    scorer ranks first.
    `spread`: how far the hypotheses lie apart. `pair_right`: 1 where the scorer's best hypothesis
    has a lower MPJPE than its worst. Batches need the truth as the column `pose`.

    Args:
        mesh: also the errors of the mesh's vertices (`pve`), all of them.
        scorer: weights of `hmr_scorer`, `shipped` or a path; null: nothing is chosen.
    """

    higher_is_better = {
        f"{name}{of}": False
        for name in ("mpjpe", "pa_mpjpe", "pve")
        for of in ("", "_mean", "_best", "_chosen")
    } | {"pair_right": True}

    def __init__(self, mesh: bool = True, scorer: PathOrShipped | None = "shipped") -> None:
        self.mesh = mesh
        self.scorer = None if scorer is None else HMRScorer(scorer)
        self.reset()

    def reset(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def update(self, rollout: Rollout, batch: Batch) -> None:
        """Judge `batch.copies` hypotheses of each item."""
        copies = batch.copies
        # (n, m, 27, 3) and (n, m, 20, 2).
        found: Pose = {
            "joints": rollout.decoded["joints"].float().cpu().unflatten(0, (-1, copies)),
            "twists": rollout.decoded["twists"].float().cpu().unflatten(0, (-1, copies)),
        }
        # Copies of an item are in a row and share its truth. One value per item: hypotheses of one
        # picture are not independent, and as rows they would make intervals too narrow.
        truth = unpack(batch["pose"][::copies].float().cpu())
        values = {"spread": spread(found["joints"])}
        errors = self.errors(found, truth)
        chosen = None
        if self.scorer is not None:
            score = self.scorer.network(rollout.x0.cpu(), batch.to(CPU)).unflatten(0, (-1, copies))
            chosen, worst = score.argmax(1, keepdim=True), score.argmin(1, keepdim=True)
            # (n, m): of each hypothesis.
            each = errors["mpjpe"][0]
            values["pair_right"] = (each.gather(1, chosen) < each.gather(1, worst))[:, 0].float()
        for name, (each, mean) in errors.items():
            values |= {name: each.mean(1), f"{name}_mean": mean, f"{name}_best": each.amin(1)}
            if chosen is not None:
                values[f"{name}_chosen"] = each.gather(1, chosen)[:, 0]
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def errors(self, found: Pose, truth: Pose) -> dict[str, tuple[Tensor, Tensor]]:
        """By name: of each hypothesis `(n, m)`, and of their mean pose `(n,)`."""
        middle = mean_pose(found)
        each, true, mean = (pose["joints"] for pose in (found, truth, middle))
        errors = {
            "mpjpe": (mean_distance(each, true[:, None]), mean_distance(mean, true)),
            "pa_mpjpe": (aligned_distance(each, true[:, None]), aligned_distance(mean, true)),
        }
        if self.mesh:
            each, true, mean = (mesh_of(pose) for pose in (found, truth, middle))
            errors["pve"] = (mean_distance(each, true[:, None]), mean_distance(mean, true))
        return errors

    def compute(self) -> Mapping[str, Tensor]:
        return {name: torch.cat(values) for name, values in self._values.items()}


def mean_pose(found: Pose) -> Pose:
    """The mean of hypotheses `(n, m, ...)` over m; of the twists the mean direction."""
    # Directions, whose mean is shorter than 1; their angle is what counts.
    twists = torch.nn.functional.normalize(found["twists"].mean(1), dim=-1, eps=1e-6)
    return {"joints": found["joints"].mean(1), "twists": twists}
