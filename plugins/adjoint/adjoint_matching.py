"""Adjoint matching (Domingo-Enrich et al. 2024, 2409.08861): reward fine-tuning as stochastic
optimal control.

With memoryless noise (DDIM with eta 1) the tuned model's samples follow p_base(x) exp(lambda r(x))
at the optimum of

    min over theta of  E[ sum_k ||m_theta(x_k) - m_base(x_k)||^2 / (2 sigma_k^2)  -  lambda r(x_T) ]

where x_{k+1} = m_theta(x_k) + sigma_k noise. Steps are numbered as sampled: x_0 is noise, x_T the
finished sample. The lean adjoint is the costate of this problem under the frozen base,

    a_T = -lambda grad r(x_T)
    a_k = a_{k+1} + grad_x < m_base(x_k) - x_k , a_{k+1} > = (d m_base / dx)^T a_{k+1}

and the policy is regressed on it, along trajectories of the current policy, a held constant:

    loss = sum_k || (m_theta(x_k) - m_base(x_k)) / sigma_k + sigma_k a_{k+1} ||^2

The costate is taken after the step, a_{k+1}, which is exact for the discrete chain: it is where
the derivative of the objective above with respect to m_theta(x_k) vanishes. Texts that write a_k
differ by the length of one step.

Norms are means over the dimensions. `train_steps` steps are drawn per optimizer step, half of them
from the first 60 %. With `mask_quantile` samples whose loss lies above a running mean (0.9 of the
old value) of that quantile are left out, the first batch excepted. Steps without noise carry the
adjoint but do not learn. Defaults, of a re-implementation on SD 1.5: 50 steps, 4 trained, lambda
100, mask at the 0.9 quantile, learning rate 3e-6 with betas (0.9, 0.95), fp32.

Guidance inside the adjoint makes it blow up, so it is used for sampling only, as there: the base's
and the policy's steps are taken without it. With a sampler whose noise is not memoryless the
objective above still falls, but its optimum is no longer the tilted distribution; DDIM with another
eta is refused.

Cost per sample: T forwards, one reward gradient, T reference forwards and backwards (a
vector-Jacobian product each, one graph in memory), K forwards and backwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, Inside, Positive
from rewardft.types import Batch, Loss, Plan, Rollout, micro_slices


@dataclass(frozen=True)
class AdjointMatching:
    """Regress the policy on the reward's gradient, carried back through the base model.

    Args:
        reward_scale: lambda > 0.
        train_steps: K, steps that learn per optimizer step; null: all that draw noise.
        mask_quantile: leave out samples whose loss is above the running mean of this quantile;
            null: none.
    """

    reward_scale: Positive = 100.0
    train_steps: Count | None = 4
    mask_quantile: Inside | None = 0.9

    needs = frozenset({"differentiable_sampler", "log_prob", "reward_gradient"})
    needs_reference = True

    def __post_init__(self) -> None:
        if not self.reward_scale > 0:
            raise ComponentError(f"reward_scale must be above 0, got {self.reward_scale}")
        if self.mask_quantile is not None and not 0 < self.mask_quantile < 1:
            raise ComponentError(
                f"mask_quantile must be within (0, 1) or null, got {self.mask_quantile}"
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        steps = ctx.sampler.steps
        rollout = ctx.rollout(batch, Plan(stop=steps, keep=frozenset(range(steps))))
        chosen = self.choose_steps(sorted(rollout.log_probs), steps, ctx.rng)
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        seen: list[Tensor] = []
        for rows in parts:
            part = rollout.select(rows)
            scores = ctx.score(part, batch.select(rows), gradient=True)
            assert scores.gradient is not None
            # With guidance the adjoint grows from step to step until it overflows.
            with ctx.policy.unguided():
                targets = lean_adjoint(ctx, part, -self.reward_scale * scores.gradient, chosen)
            for k in chosen:
                closes = rows == parts[-1] and k == chosen[-1]
                loss = matching_loss(ctx, part, k, *targets[k])
                ctx.record("loss", loss)
                seen.append(loss.detach())
                # Judged by the threshold of earlier batches, so micro-batches of one batch are
                # treated alike.
                kept = self.kept(ctx, loss.detach()) * scores.applies
                if closes:
                    self.update_threshold(ctx, torch.cat(seen))
                yield Loss((loss * kept).sum() / len(batch), step=closes)

    def choose_steps(self, able: list[int], steps: int, rng: random.Random) -> list[int]:
        """K of the steps that draw noise, half of them (rounded down)
        from the first 60 % of the chain."""
        count = len(able) if self.train_steps is None else self.train_steps
        if not 1 <= count <= len(able):
            raise ComponentError(
                f"train_steps must be within 1 and the {len(able)} steps that draw noise, got "
                f"{count}"
            )
        # As in the re-implementation that the defaults come from.
        early = [k for k in able if k < 0.6 * steps]
        first = rng.sample(early, min(count // 2, len(early)))
        return sorted(first + rng.sample([k for k in able if k not in first], count - len(first)))

    def kept(self, ctx: Context, loss: Tensor) -> Tensor:
        """1 for samples that learn, 0 for those above the threshold, `(b,)`."""
        threshold = ctx.memory.get("adjoint/threshold")
        if self.mask_quantile is None or threshold is None:
            return torch.ones_like(loss)
        ctx.record("masked", (loss > threshold).float())
        return (loss <= threshold).to(loss)

    def update_threshold(self, ctx: Context, losses: Tensor) -> None:
        """One update per batch, over all processes."""
        if self.mask_quantile is None:
            return
        # quantile does not take half precision.
        value = torch.quantile(ctx.gather(losses).float(), self.mask_quantile)
        old = ctx.memory.get("adjoint/threshold")
        ctx.memory["adjoint/threshold"] = value if old is None else 0.9 * old + 0.1 * value


def lean_adjoint(
    ctx: Context, rollout: Rollout, terminal: Tensor, chosen: list[int]
) -> dict[int, tuple[Tensor, Tensor]]:
    """(m_base(x_k), a_{k+1}) for the chosen steps k, each `(b, ...)`;
    walks back from a_T = `terminal`."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    adjoint = terminal
    for k in reversed(range(chosen[0], ctx.sampler.steps)):
        if k == chosen[0]:
            # Nothing before the first chosen step asks for the adjoint: a forward is enough.
            mean = ctx.reference(rollout, k).mean
            assert mean is not None
            return found | {k: (mean, adjoint)}
        mean, before = base_step(ctx, rollout, k, adjoint)
        if k in chosen:
            found[k] = (mean, adjoint)
        adjoint = before
    raise ComponentError("adjoint_matching: no step of the sampler was chosen to learn")


def base_step(ctx: Context, rollout: Rollout, k: int, after: Tensor) -> tuple[Tensor, Tensor]:
    """m_base(x_k), and (d m_base / dx)^T a_{k+1}: one vector-Jacobian product through the frozen
    base."""
    with torch.enable_grad(), ctx.adapter.disabled():
        # Not `ctx.reference`, which has no graph: the gradient by the state is what is wanted here.
        step = ctx.sampler.replay(ctx.policy, rollout, k, input_gradient=True)
        # (b, ...): the Jacobian itself, (b, n, n), is never built.
        (before,) = torch.autograd.grad(step.mean, step.state, after)
    return step.mean.detach(), before


def matching_loss(ctx: Context, rollout: Rollout, k: int, base: Tensor, adjoint: Tensor) -> Tensor:
    """|| (m_theta - m_base) / sigma_k + sigma_k a_{k+1} ||^2, mean over the dimensions, `(b,)`."""
    with ctx.policy.unguided():
        new = ctx.replay(rollout, k)
    assert new.mean is not None and new.std is not None
    # Both means are taken at the same x_k, so sigma_k is the deviation of either.
    control = (new.mean - base) / new.std
    ctx.record("control", control.square().flatten(1).mean(1))
    return (control + new.std * adjoint).square().flatten(1).mean(1)
