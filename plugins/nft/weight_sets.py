"""Named sets of the adapter's weights that follow the policy: old, sampler, average.

Each is a copy of the adapter's tensors in `Context.memory`, so that checkpoints keep it.
"""

from __future__ import annotations

from rewardft import Context
from rewardft.policy.snapshots import Snapshot, blend, take_snapshot


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
