"""Named sets of the adapter's weights that follow the policy: old, sampler, average.

Each is a copy of the adapter's tensors in `Context.memory`, so that checkpoints keep it.
"""

from __future__ import annotations

from typing import Literal

from rewardft import Context
from rewardft.policy.snapshots import Snapshot, blend, take_snapshot

Schedule = Literal["slow", "fast"]


def followed(ctx: Context, name: str, decay: float) -> Snapshot:
    """The set `name`, moved towards the policy once per optimizer step; it starts as the policy.

    decay: the fraction of itself that it keeps, in [0, 1]; 0 makes it the policy at the start of
        the step.
    """
    memory, at = ctx.memory, f"{name}/step"
    if name not in memory:
        memory[name], memory[at] = take_snapshot(ctx.adapter), ctx.step
    # By the step's number: with `accumulate` several batches share an optimizer step.
    if memory[at] != ctx.step:
        blend(memory[name], ctx.adapter, decay)
        memory[at] = ctx.step
    found: Snapshot = memory[name]
    return found


def nft_decay(schedule: Schedule, step: int) -> float:
    """The decay of DiffusionNFT's old policy, types 1 (slow) and 2 (fast) of the released code."""
    if schedule == "slow":
        return min(0.001 * step, 0.5)
    return min(max(0.0075 * (step - 75), 0.0), 0.999)
