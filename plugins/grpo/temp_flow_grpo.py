"""TempFlow-GRPO (2508.04324): one step of noise at a time, so that a reward is that step's own.

From each of several initial noises runs the ODE. At each step k that is forked, `branches` samples
leave it by one step of the SDE and go on to the end by the ODE; what they differ in is the noise of
step k. With s_k the deviation sigma_t sqrt(|dt|) of that step:

    A_k    = (r - mean) / (std + 1e-4)             over the branches of one state
    w_k    = s_k / mean of s over the steps that may be forked
    loss_k = w_k max(-A_k rho_k, -A_k clip(rho_k, 1 - c, 1 + c))

The paper normalises the weights w_k to mean 1, as here; the released code for Stable Diffusion 3.5
multiplies s_k by 2.25. Its other defaults: 4 initial noises and 6 branches per prompt, 10 steps of
`flow_sde` at 0.7, guidance 4.5, forks at every step but the last, c 1e-4, advantages clipped to
+-5, KL 1e-3 (PickScore) or 4e-3 (GenEval), lr 3e-4, and statistics by prompt and process, which are
those of the branches of one noise wherever a prompt is drawn once. It runs the network for each
branch of a state in training; here once for all of them. It takes optimizer steps in between; here
there is one.

That is 216 rewards for each prompt. `forks` draws fewer steps for every batch.

Cost per prompt and initial noise of F forks at steps k, T steps: max k + 1 forwards for the chain,
T - 1 - k for each branch, and F forwards and backwards to learn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from rewardft import Batch, Context, Loss, Plan, Rollout
from rewardft.algorithms.advantages import group_advantages
from rewardft.algorithms.forks import Fork, JudgedFork, fork, learn_from_forks, walk
from rewardft.algorithms.surrogates import clipped_ratio_loss
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, CountOrZero, Pair, Positive


class TempFlowGRPO:
    """GRPO on the branches of single steps.

    Args:
        noises: initial noises per prompt, >= 1.
        branches: samples that leave a forked state, >= 2.
        forks: steps that are forked, drawn for every batch; null: all that may be.
        weigh: weigh the steps by their noise.
        skip_last: steps at the end of the chain that are never forked.
        clip, advantage_clip, inner_epochs, floor: as in `grpo`.
    """

    # The tag of samplers whose steps can be ODE steps: those of `stochastic_flow`.
    needs = frozenset({"log_prob", "sde_window"})

    def __init__(
        self,
        noises: Count = 4,
        branches: Pair = 6,
        forks: Count | None = None,
        weigh: bool = True,
        skip_last: CountOrZero = 1,
        clip: Positive = 1e-4,
        advantage_clip: Positive = 5.0,
        inner_epochs: Count = 1,
        floor: Positive = 1e-4,
    ) -> None:
        if noises < 1 or branches < 2 or (forks is not None and forks < 1) or skip_last < 0:
            raise ComponentError(
                "expected noises >= 1, branches >= 2, forks >= 1 and skip_last >= 0, got "
                f"{noises}, {branches}, {forks} and {skip_last}"
            )
        if clip <= 0 or advantage_clip <= 0 or inner_epochs < 1 or floor <= 0:
            raise ComponentError(
                "expected clip > 0, advantage_clip > 0, inner_epochs >= 1 and floor > 0, got "
                f"{clip}, {advantage_clip}, {inner_epochs} and {floor}"
            )
        self.noises, self.branches, self.forks = noises, branches, forks
        self.weigh, self.skip_last = weigh, skip_last
        self.advantage_clip, self.inner_epochs, self.floor = advantage_clip, inner_epochs, floor
        self.surrogate = partial(clipped_ratio_loss, clip=clip)

    def draw_steps(self, steps: int, rng: random.Random) -> list[int]:
        """The steps that are forked, ascending. Raises ComponentError for too few."""
        candidates = range(max(steps - self.skip_last, 0))
        count = len(candidates) if self.forks is None else self.forks
        if not 1 <= count <= len(candidates):
            raise ComponentError(
                f"{max(count, 1)} of the sampler's {steps} steps cannot be forked when the last "
                f"{self.skip_last} never are. Give the sampler more steps."
            )
        return sorted(rng.sample(candidates, count))

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        steps = self.draw_steps(ctx.sampler.steps, ctx.rng)
        samples = batch.repeat(self.noises * self.branches)
        try:
            # No step at all: only the conditions and the initial noise.
            whole = ctx.rollout(samples, Plan(stop=0, keep=frozenset({0})))
            made = self.roll_out(ctx, whole, steps)
            judged = [self.judge(ctx, one, rollout, samples) for one, rollout in made]
            ctx.sampler.window = frozenset(steps)
            for _ in range(self.inner_epochs):
                yield from learn_from_forks(ctx, judged, self.surrogate)
        finally:
            # Evaluations draw noise at every step, before, during and after training.
            ctx.sampler.window = None

    def roll_out(
        self, ctx: Context, whole: Rollout, steps: list[int]
    ) -> list[tuple[Fork, Rollout]]:
        """Each fork and its finished samples."""
        ctx.sampler.window = frozenset()
        # Branches of a state are named in a row, and the first one names the state.
        states = whole.select(slice(None, None, self.branches))
        states = walk(ctx, states, 0, steps[-1] + 1, keep=steps)
        made = []
        for k in steps:
            ctx.sampler.window = frozenset({k})
            one = fork(ctx, states, k, whole.noise)
            branches = replace(whole, states={k + 1: one.taken})
            made.append((one, walk(ctx, branches, k + 1, ctx.sampler.steps)))
        return made

    def judge(self, ctx: Context, made: Fork, rollout: Rollout, samples: Batch) -> JudgedFork:
        rewards = ctx.score(ctx.show(rollout), samples).rewards
        advantage, kept = group_advantages(
            ctx, rewards, self.branches, std="group", epsilon=self.floor
        )
        weight = self.weights(ctx)[made.k] if self.weigh else 1.0
        limit = self.advantage_clip
        # w max(-A rho, ...) is the loss of the advantage w A, as w > 0.
        return JudgedFork(made, weight * advantage.clamp(-limit, limit), kept)

    def weights(self, ctx: Context) -> list[float]:
        """w_k of the steps that may be forked."""
        nothing: Tensor = torch.zeros((), dtype=torch.float64)
        # A step's deviation does not depend on the state.
        spreads = [
            ctx.sampler.step(k, nothing, nothing, nothing)[1]
            for k in range(ctx.sampler.steps - self.skip_last)
        ]
        return [spread * len(spreads) / sum(spreads) for spread in spreads]

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """(forwards, backwards) per prompt."""
        forked = self.draw_steps(steps, rng)
        ends = sum(steps - 1 - k for k in forked)
        learned = self.inner_epochs * len(forked)
        each = forked[-1] + 1 + self.branches * ends + learned * (1 + reference)
        return self.noises * each, self.noises * learned
