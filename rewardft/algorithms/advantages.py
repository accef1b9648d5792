"""Advantages: what a reward is worth against its group, its prompt, or its batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from rewardft.errors import ComponentError, did_you_mean
from rewardft.noise import keyed_seed
from rewardft.policy.context import Context
from rewardft.types import Batch


def group_advantages(
    ctx: Context,
    rewards: Tensor,
    size: int,
    std: Literal["global", "group"] = "global",
    epsilon: float = 1e-4,
    unbiased: bool = False,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(reward - group mean) / (std + epsilon), and which samples belong to a group whose rewards
    differ.

    Args:
        rewards: `(b,)`, the members of a group in a row, `size` of them; NaN: takes no part.
        std: `global`: standard deviation of all rewards of the batch, over all processes; `group`:
            of the own group.
        unbiased: divide by n - 1 in the standard deviation instead of n.
        valid: `(b,)` bool: the V <= G members of a group that take part; None: all.
    """
    # NaN is how a sample takes no part, in whatever follows.
    rewards = rewards if valid is None else rewards.masked_fill(~valid, torch.nan)
    # (groups, members); members of a group stand in a row, so no index is needed.
    groups = rewards.reshape(-1, size)
    centre, own = moments(groups, unbiased)
    centred = groups - centre
    # Over all processes: the same batch cut over more of them must give the same advantages.
    spread = own if std == "group" else moments(ctx.gather(rewards)[None], unbiased)[1]
    # Compared by maximum and minimum: a standard deviation of equal rewards may round to above 0.
    absent = groups.isnan()
    high, low = groups.masked_fill(absent, -torch.inf), groups.masked_fill(absent, torch.inf)
    kept = (high.amax(1) > low.amin(1)).repeat_interleave(size) & ~rewards.isnan()
    # Such groups teach nothing; many of them mean that the reward is too easy or too hard.
    ctx.record("groups_without_variance", 1 - kept.float())
    # With `std: group` the advantage of GRPO (Shao et al. 2024, 2402.03300).
    return torch.where(kept, (centred / (spread + epsilon)).reshape(-1), 0.0), kept


def whitened(ctx: Context, values: Tensor, kept: Tensor, epsilon: float = 1e-4) -> Tensor:
    """(value - mean) / (std + epsilon) over the kept samples of all processes; 0 for the others.

    values, kept: `(b,)`.
    """
    # Masked and not cut out: the collective needs as many values from every process.
    known = ctx.gather(torch.where(kept, values, torch.nan))
    mean, std = (m.flatten() for m in moments(known[None]))
    return torch.where(kept, (values - mean) / (std + epsilon), 0.0)


def moments(rows: Tensor, unbiased: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each row, `(n, 1)` each, over the values that are not NaN."""
    known = ~rows.isnan()
    count = known.sum(1, keepdim=True)
    mean = torch.where(known, rows, 0.0).sum(1, keepdim=True) / count
    squares = torch.where(known, rows - mean, 0.0).square().sum(1, keepdim=True)
    std = (squares / (count - int(unbiased))).sqrt()
    whole = known.all(1, keepdim=True)  # then as torch computes them, to the same bits
    own = rows.mean(1, keepdim=True), rows.std(1, unbiased=unbiased, keepdim=True)
    return torch.where(whole, own[0], mean), torch.where(whole, own[1], std)


def prompt_advantages(
    ctx: Context,
    rewards: Tensor,
    keys: Tensor | None,
    buffer: int,
    min_count: int,
    epsilon: float = 1e-6,
) -> Tensor:
    """(reward - mean) / (std + epsilon) with running statistics per prompt (Black et al. 2023,
    2305.13301, section 5).

    The last `buffer` rewards of each prompt, over all processes, live in `ctx.memory`. A prompt
    with fewer than `min_count` of them takes the statistics of the whole batch, and so does
    everything when `keys` is None.

    Args:
        rewards, keys: `(b,)`; keys are whole numbers, one for each prompt, see `prompt_keys`. A
            reward that is NaN takes no part, and has the advantage 0.
    """
    # (b,) of this process, and the same of all processes one after the other.
    everyone = ctx.gather(rewards)
    mean, std = (m.flatten().expand_as(rewards) for m in moments(everyone[None]))
    if keys is not None:
        # On the host, after few reads: a mask for each prompt would wait for the device each time.
        statistics = torch.stack([mean, std]).cpu()
        fill_by_prompt(ctx, statistics, everyone.cpu(), keys, buffer, min_count)
        mean, std = statistics.to(rewards.device)
    return torch.where(rewards.isnan(), 0.0, (rewards - mean) / (std + epsilon))


def fill_by_prompt(
    ctx: Context,
    statistics: Tensor,
    everyone: Tensor,
    keys: Tensor,
    buffer: int,
    min_count: int,
) -> None:
    """Put the mean and the deviation of their prompt into the rows that have enough rewards.

    statistics: `(2, b)`, of this process; everyone: the rewards of all; both on the CPU.
    """
    # In the memory, so that a resumed run goes on with the same statistics.
    history = ctx.memory.setdefault("policy_gradient/prompt_rewards", {})
    (mean, std), own, all_keys = statistics, keys.cpu(), ctx.gather(keys).cpu()
    for key in all_keys.unique().tolist():
        fresh = everyone[(all_keys == key) & ~everyone.isnan()]
        # A checkpoint may have been loaded onto the device.
        seen = torch.cat([history[str(key)].cpu(), fresh]) if str(key) in history else fresh
        # A clone: a view would keep all older rewards, in memory and in checkpoints.
        history[str(key)] = seen = seen[-buffer:].clone()
        if len(seen) >= min_count:
            # Only rows of this process; `all_keys` may hold keys that none of them has.
            mean[own == key], std[own == key] = seen.mean(), seen.std(unbiased=False)


def prompt_keys(batch: Batch, column: str | None, device: torch.device) -> Tensor | None:
    """A number for each value of a batch column `(b,)`,
    the same on every process; None without a column."""
    if column is None:
        return None
    if column not in batch:
        raise ComponentError(
            f"group_by: the data set has no column {column!r}.{did_you_mean(column, batch.columns)}"
        )
    values = batch[column]
    values = values.tolist() if isinstance(values, Tensor) else values
    # Hashes, because a position in the data or Python's `hash` would differ between processes.
    return torch.tensor([keyed_seed(value) for value in values], device=device)
