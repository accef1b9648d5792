"""What the scoring of the first step shows about the rewards, for the start-up audit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rewardft.policy.weighted_reward import WeightedReward
from rewardft.types import Batch, Rollout


class RewardFacts:
    """Collects until it is closed. The first step may be scored in parts: what is kept are the
    minimum, the maximum, the mean and the count over all of them.

    values: by the names in `audit.json`; tensors stay on the device until they are read.
    """

    def __init__(self) -> None:
        self.is_open = True
        self.values: dict[str, Any] = {}

    def close(self) -> None:
        """The first step has been taken."""
        self.is_open = False

    def note_batch(
        self,
        rewards: Sequence[WeightedReward],
        view: Rollout,
        batch: Batch,
        by_name: Mapping[str, Tensor],
        skipped: Mapping[str, str],
        x0: Tensor | None,
    ) -> None:
        """All that a batch shows. skipped: the error of each reward that failed on it. x0: see
        `note_slopes`; None: without them."""
        self.note_scores(view, by_name)
        self.note_failures(rewards, skipped)
        self.note_averages(rewards, view, batch, by_name)
        if x0 is not None:
            self.note_slopes(rewards, by_name, x0)

    def note_scores(self, view: Rollout, by_name: Mapping[str, Tensor]) -> None:
        """Pixel range, clamped fraction, and how many samples each reward applies to."""
        if isinstance(view._decoded, Tensor):
            self._note_pixels(view._decoded.detach())
        # Kept as tensors: a read from the device here would wait for every micro-batch.
        applies = self.values.setdefault("samples_that_rewards_apply_to", {})
        for name, value in by_name.items():
            applies[name] = applies.get(name, 0) + (~value.isnan()).sum()

    def note_slopes(
        self, rewards: Sequence[WeightedReward], by_name: Mapping[str, Tensor], x0: Tensor
    ) -> None:
        """The gradient norm at the samples `x0` of each reward with a weight: one more backward
        pass for each, which keeps the graph."""
        for reward in rewards:
            value = by_name[reward.name]
            applicable = value[~value.isnan()]
            # Else there is nothing to say about it.
            if len(applicable) and reward.weight != 0:
                self.note_norm(reward.name, slope_norm(applicable, x0))

    def note_total(self, reward: WeightedReward, value: Tensor, slope: Tensor) -> None:
        """The same of the only reward with a weight, from the gradient of the total, `slope`, which
        is weight times as much."""
        if not value.isnan().all():
            self.note_norm(reward.name, slope.norm() / abs(reward.weight))

    def note_norm(self, name: str, norm: Tensor | None) -> None:
        """The norm of a reward's gradient at the samples; None where none arrives."""
        norms = self.values.setdefault("reward_gradient_norm", {})
        before = norms.get(name)
        if norm is not None and before is not None:
            # The largest of all micro-batches: a gradient in one proves that there is one.
            norm = torch.maximum(norm, before)
        norms[name] = norm

    def note_failures(self, rewards: Sequence[WeightedReward], skipped: Mapping[str, str]) -> None:
        """Count, for each reward with `on_error: skip`, the batches and those that it failed on.

        skipped: the error of each reward that failed on this batch.
        """
        for name in (r.name for r in rewards if r.on_error == "skip"):
            # Listed also without a failure, so that the audit can tell "some" from "all".
            counts = self.values.setdefault("skipped", {})
            facts = counts.setdefault(name, {"batches": 0, "failed": 0})
            facts["batches"] += 1
            if name in skipped:
                facts["failed"] += 1
                facts["error"] = skipped[name]

    def note_averages(
        self, rewards: Sequence[WeightedReward], view: Rollout, batch: Batch, by_name: Any
    ) -> None:
        """Name rewards that hand every sample the mean of the batch: all values are equal, and
        others for half of it."""
        for reward in rewards:
            value = by_name[reward.name].detach()
            if averages_over_the_batch(reward.reward, value, view, batch):
                named = self.values.setdefault("averages_over_the_batch", {})
                named[reward.name] = float(value[0])

    def _note_pixels(self, pixels: Tensor) -> None:
        values = self.values
        low, high = pixels.min(), pixels.max()
        # A hard clamp passes no gradient at its ends, see the audit.
        clamped = ((pixels <= 0) | (pixels >= 1)).float().mean()
        before = values.get("decoded_values", 0)
        count = before + pixels.numel()
        if before:
            low = torch.minimum(low, values["decoded_min"])
            high = torch.maximum(high, values["decoded_max"])
            clamped = (values["decoded_clamped"] * before + clamped * pixels.numel()) / count
        values.update(
            decoded_min=low, decoded_max=high, decoded_clamped=clamped, decoded_values=count
        )


def averages_over_the_batch(
    reward: Callable[[Rollout, Batch], Tensor], value: Tensor, view: Rollout, batch: Batch
) -> bool:
    """Whether the samples of a batch share one value, and those of its first half another."""
    # Equal values are the cheap sign; only then is the reward called once more.
    if len(batch) < 2 or not bool((value == value[0]).all()):
        return False
    half = slice(0, len(batch) // 2)
    with torch.no_grad():
        again = reward(view.select(half), batch.select(half))
    # Not exactly equal: kernels round differently for other batch sizes.
    return not torch.allclose(again, value[half], rtol=1e-4, atol=1e-7)


def slope_norm(values: Tensor, x0: Tensor) -> Tensor | None:
    """Norm of d(sum of values)/d(x0); None when no gradient arrives there."""
    if not values.requires_grad:
        return None
    # Samples do not mix, so the gradient of the sum holds each sample's own. The graph is kept: the
    # weighted sum of the rewards is differentiated after this.
    (slope,) = torch.autograd.grad(values.sum(), x0, retain_graph=True, allow_unused=True)
    return None if slope is None else slope.norm()
