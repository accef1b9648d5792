"""DPOK: policy gradients with a KL penalty (Fan et al. 2023, 2305.16381).

    loss = E[ -w_r * A * clip(rho_k, 1 - e, 1 + e) ]
           + w_kl * KL( p(x_{k+1} | x_k) || p_ref(x_{k+1} | x_k) )

The ratio is clamped alone, without PPO's maximum with the unclipped term, as in the authors' code:
outside the clip range the gradient is zero, whatever the sign of the advantage. A = r - V(x_k, c,
k) with a value head learned by regression on the final reward, or r minus the batch's mean. The KL
term is the recipe's regularizer: `{use: kl, form: gaussian, weight: w_kl}` is the divergence of the
transition densities. The authors' code probably takes the squared difference of the predictions
instead, which is `form: epsilon_mse` (not confirmed).

Defaults of the authors' code for a single prompt: w_r 10, w_kl 0.01, e 1e-4, 5 policy steps per
batch, value head lr 1e-4, LoRA rank 4, lr 1e-5, gradient norm 0.1. It draws single steps from a
buffer of 1000; here each inner epoch visits the whole batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rewardft import Batch, Context, Loss
from rewardft.algorithms.advantages import moments
from rewardft.algorithms.policy_gradient import Schedule, learn, roll_out
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Positive, Share

from .value import ValueHead


class DPOK:
    """Policy gradients with a plainly clamped ratio; the KL comes from the recipe's regularizers.

    Args:
        reward_weight: w_r.
        clip: e, the half-width of the clamp of the ratio.
        value_head: subtract a learned value of the state instead of the batch's mean reward.
        value_lr, value_steps: learning rate of the value head, and its gradient steps per batch.
        updates: optimizer steps per pass over the batch.
        inner_epochs: passes over each batch.
        timestep_fraction: fraction of the steps that learn, drawn at random for every update.
    """

    needs = frozenset({"log_prob"})

    def __init__(
        self,
        reward_weight: Positive = 10.0,
        clip: Positive = 1e-4,
        value_head: bool = False,
        value_lr: Positive = 1e-4,
        value_steps: Count = 5,
        updates: Count = 1,
        inner_epochs: Count = 5,
        timestep_fraction: Share = 1.0,
    ) -> None:
        if clip <= 0 or reward_weight <= 0:
            raise ComponentError(
                f"expected clip > 0 and reward_weight > 0, got {clip} and {reward_weight}"
            )
        self.schedule = Schedule(updates, inner_epochs, timestep_fraction)
        self.reward_weight, self.clip = reward_weight, clip
        self.value = ValueHead(value_lr, value_steps) if value_head else None

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # The value head reads every state, so with one the states are kept and replayed.
        experience = roll_out(ctx, batch, self.schedule, one_pass=self.value is None)
        scores = ctx.score(experience.rollout, batch)
        # A sample to which no reward applies is NaN in `rewards` and a number in `total`.
        rewards, kept = scores.rewards, scores.applies
        if self.value is None:
            # Over all processes: with each slice's own mean, two processes would not equal one.
            mean = moments(ctx.gather(rewards)[None])[0].flatten()
            # A NaN would survive the weight of 0 that `learn` gives to samples that are not kept.
            advantage = torch.where(kept, rewards - mean, 0.0)
        else:
            # (b, T), as the value differs from state to state.
            advantage = self.value.advantage(ctx, experience.rollout, scores.total, kept)
        yield from learn(ctx, experience, advantage, self.surrogate, self.schedule, kept)

    def surrogate(self, log_prob: Tensor, old: Tensor, advantage: Tensor) -> Tensor:
        """-w_r A clip(rho, 1 - e, 1 + e)."""
        ratio = (log_prob - old).exp()
        # Outside the range the clamp is flat, so the step learns nothing, even where it leads back.
        return -self.reward_weight * advantage * ratio.clamp(1 - self.clip, 1 + self.clip)
