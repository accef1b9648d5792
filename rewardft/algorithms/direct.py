"""Direct reward fine-tuning: follow the reward's gradient through the sampler.

One algorithm, a point in a small space. With T sampling steps, step 0 the noisiest, each optimizer
step draws a `Path` for all of its samples: how many steps are executed, which of them learn, and
whether the chain ends in a one-step estimate of x0. `direct_presets` names the published points.

The loss is mean_i shape(r_i) + sum over trained steps of the regularizers. Its gradient is taken by
walking back over the kept states, one denoiser graph at a time. With x' = step(x, f(x)) for the
sampler's arithmetic `step` and the network f, and c' = dL/dx':

    trained, input through:  backward on <c', step(x, f(x))>,     c = x.grad   (exact)
    trained, input stopped:  backward on <c', step(x, f(sg x))>,  c = (d step/dx at fixed f)^T c'
    not trained:             no network call,                     c = (d step/dx at fixed f)^T c'

Cost per optimizer step and trajectory of n executed steps, K trained, first trained step s: a last
step that learns is run live, so denoiser forwards = n + K - [last step learns] (+ K under the
reference when there are regularizers) and backwards = K. DRaFT-1: T forwards, 1 backward. DRaFT-LV:
T + n forwards, n backwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from rewardft.algorithms.loss_shapes import Shape, shape_loss, shape_slope
from rewardft.errors import ComponentError
from rewardft.policy.context import Context
from rewardft.recipe.bounds import Count, CountOrZero
from rewardft.types import Batch, Loss, Plan, Rollout, Transition, micro_slices


@dataclass(frozen=True)
class Path:
    """Steps 0 .. length-1 are executed, `train` of them learn (sorted);
    `estimate`: end in the x0 estimate."""

    length: int
    train: tuple[int, ...]
    estimate: bool

    @property
    def live(self) -> bool:
        """The last executed step learns, so it is run once, with its graph, instead of rolled out
        and replayed."""
        return self.train[-1] == self.length - 1


@dataclass(frozen=True)
class Direct:
    """The direct-reward family.

    Args:
        select: which steps learn: the `last` K, K equally `spaced` ones with a random offset, or
            all after a random truncation point (`truncated`).
        train_steps: K, how many steps learn; None means all.
        input_gradient: back-propagate through the denoiser's input (exact) or stop there (DRTune).
        early_stop: m > 0 ends the chain at one of its last m steps, drawn once per optimizer step,
            with the x0 estimate.
        resamples: n > 0: noise the finished sample n times to the last step and learn from each
            (DRaFT-LV).
        truncation: `gaussian` (AlignProp's code: mean 0.84 T, standard deviation 0.1 T) or
            `uniform`.
        shape: the loss as a function of the reward r: -r, 1 - r, relu(target - r) or |target - r|.
        target, scale: of that function; the loss is scale * shape(r).
    """

    select: Literal["last", "spaced", "truncated"] = "last"
    train_steps: Count | None = None
    input_gradient: bool = True
    early_stop: CountOrZero = 0
    resamples: CountOrZero = 0
    truncation: Literal["gaussian", "uniform"] = "gaussian"
    shape: Shape = "negative"
    target: float = 0.0
    scale: float = 1.0

    needs = frozenset({"differentiable_sampler", "reward_gradient"})

    def __post_init__(self) -> None:
        if self.train_steps is not None and self.train_steps < 1:
            raise ComponentError(f"train_steps must be at least 1, got {self.train_steps}")
        if self.early_stop < 0 or self.resamples < 0:
            raise ComponentError(
                f"expected early_stop and resamples >= 0: {self.early_stop}, {self.resamples}"
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        # From the step's generator: accumulated batches and all processes train the same steps.
        path = self.draw_path(ctx.sampler.steps, ctx.rng)
        if self.resamples:
            yield from self.resampled_losses(ctx, batch)
            return
        last = path.length - 1
        # Steps before the first trained one pass nothing on, so their states are not kept.
        keep = frozenset(range(path.train[0], path.length))
        stop = last if path.live else path.length
        # Not exact: the gradient at states that differ by rounding differs by rounding.
        rollout = ctx.rollout(batch, Plan(stop, keep, path.estimate, exact=False))
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            part, samples = rollout.select(rows), batch.select(rows)
            yield from self.walk_back(ctx, part, samples, path, len(batch), rows == parts[-1])

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """(forwards, backwards) of one trajectory with these choices, by the formula above; for
        exact budgets."""
        length, trained, live = steps, self.resamples, False
        if not self.resamples:
            # The same draw as in `losses`, from a generator in the same state.
            path = self.draw_path(steps, rng)
            length, trained, live = path.length, len(path.train), path.live
        return length + trained - live + trained * reference, trained

    def step_problems(self, steps: int) -> Iterator[tuple[str, str]]:
        """What a sampler of `steps` steps makes impossible in the worst draw, as (option,
        sentence)."""
        more = "or give the sampler more steps"
        # The length where the draw ends the chain earliest.
        shortest = steps - max(self.early_stop, 1) + 1
        if self.early_stop > steps:
            text = f"early_stop {self.early_stop} is more than the sampler's {steps} steps."
            yield "early_stop", f"{text} Lower early_stop, {more}."
        elif (self.train_steps or 1) > steps:
            text = f"train_steps {self.train_steps} is more than the sampler's {steps} steps."
            yield "train_steps", f"{text} Lower train_steps, {more}."
        elif (self.train_steps or 1) > shortest:
            text = (
                f"train_steps is {self.train_steps}, but with early_stop {self.early_stop} the "
                f"chain may end after {shortest} of {steps} steps."
            )
            yield "train_steps", f"{text} Lower train_steps or early_stop, {more}."

    def draw_path(self, steps: int, rng: random.Random) -> Path:
        """Drawn once per optimizer step, never per sampling step;
        raises ComponentError if any draw would be impossible."""
        for _, problem in self.step_problems(steps):
            raise ComponentError(problem)
        length = steps
        if self.early_stop:
            # DRTune, algorithm 1: the chain ends at step T - t_min, t_min ~ U{1..m}.
            length = steps - rng.randint(1, self.early_stop) + 1
        count = length if self.train_steps is None else self.train_steps
        return Path(length, self.choose_steps(count, length, rng), estimate=self.early_stop > 0)

    def choose_steps(self, count: int, length: int, rng: random.Random) -> tuple[int, ...]:
        """The trained steps, ascending, all before `length`."""
        if self.select == "truncated":
            return tuple(range(self.draw_truncation(length, rng), length))
        if self.select == "last":
            return tuple(range(length - count, length))
        # DRTune: equally spaced with a random offset, all before the early stop. Drawn over all T
        # steps, some would fall behind the end of the chain and learn nothing.
        interval = length // count
        offset = rng.randint(0, length - (count - 1) * interval - 1)
        return tuple(offset + i * interval for i in range(count))

    def draw_truncation(self, length: int, rng: random.Random) -> int:
        """AlignProp's tau: steps tau .. T-1 learn."""
        if length == 1:
            return 0
        if self.truncation == "uniform":
            return rng.randrange(length)
        # Drawn again where it falls outside: clamping would pile draws up at both ends.
        while True:
            tau = int(rng.gauss(0.84 * length, 0.1 * length))
            if 1 <= tau < length:
                return tau

    def walk_back(
        self, ctx: Context, rollout: Rollout, batch: Batch, path: Path, total: int, closes: bool
    ) -> Iterator[Loss]:
        """One micro-batch: score the samples, then visit the steps from the last to the first
        trained one."""
        last = path.length - 1
        step = live = ctx.replay(rollout, last, self.needs_input(path, last)) if path.live else None
        if step is not None:
            # The reward is differentiated with respect to x0 alone; the step's graph waits for the
            # cotangent.
            rollout = rollout.with_x0(finish(step, path).detach())
        cotangent, applies = self.reward_cotangent(ctx, rollout, batch)
        # The loss is a mean over the whole batch, of which this is one micro-batch.
        cotangent = cotangent / total
        for k in reversed(range(path.train[0], path.length)):
            if k not in path.train:
                cotangent = self.pass_by(ctx, rollout, k, cotangent, path)
                continue
            step = (
                live
                if k == last and live is not None
                else ctx.replay(rollout, k, self.needs_input(path, k))
            )
            # <c', step(x, f(x))>: its gradient is that of the reward by the chain rule.
            loss = (finish(step, path, k) * cotangent).sum()
            if ctx.regularizers:
                penalty = torch.where(applies, ctx.penalty(step, rollout, k), 0.0)
                loss = loss + penalty.sum() / total
            live = None  # the graph of a step is dropped before the next one is built
            yield Loss(loss, step=closes and k == path.train[0])
            if k > path.train[0] and self.input_gradient:
                cotangent = step.state.grad
            elif k > path.train[0]:
                cotangent = self.pass_by(ctx, rollout, k, cotangent, path, step)

    def needs_input(self, path: Path, k: int) -> bool:
        """Whether an earlier trained step needs the gradient at the input of step k."""
        return self.input_gradient and k > path.train[0]

    def pass_by(
        self,
        ctx: Context,
        rollout: Rollout,
        k: int,
        cotangent: Tensor,
        path: Path,
        step: Transition | None = None,
    ) -> Tensor:
        """c = (d step/dx at fixed network output)^T c': the sampler's own arithmetic,
        no network call."""
        output = rollout.outputs[k] if step is None else step.output
        assert output is not None
        with torch.enable_grad():
            # The output is a constant: only the sampler's coefficients carry c' on.
            state = rollout.states[k].detach().requires_grad_(True)
            after = finish(
                ctx.sampler.transition(k, state, output.detach(), rollout.noise), path, k
            )
            # The x0 estimate of a network that predicts x0 does not depend on x_k.
            if not after.requires_grad:
                return torch.zeros_like(state)
            (before,) = torch.autograd.grad(after, state, cotangent)
        return before

    def reward_cotangent(
        self, ctx: Context, rollout: Rollout, batch: Batch
    ) -> tuple[Tensor, Tensor]:
        """d(scale * shape(r_i)) / d(x0_i), with nothing else in memory, and which samples have a
        reward `(b,)`: the others take no part."""
        cuts = micro_slices(len(batch), ctx.score_batch)
        parts = [self.slope(ctx, rollout.select(rows), batch.select(rows)) for rows in cuts]
        if len(parts) == 1:
            return parts[0]
        cotangents, applies = zip(*parts)
        return torch.cat(cotangents), torch.cat(applies)

    def slope(self, ctx: Context, rollout: Rollout, batch: Batch) -> tuple[Tensor, Tensor]:
        """The same of samples that are decoded together."""
        scores = ctx.score(rollout, batch, gradient=True)
        reward, applies = scores.total, scores.applies
        loss = self.scale * shape_loss(reward, self.shape, self.target)
        # A sample without a reward has the loss of reward 0, which is not 0 for every shape.
        ctx.record("loss", torch.where(applies, loss, 0.0))
        slope = self.scale * shape_slope(reward, self.shape, self.target)
        assert scores.gradient is not None
        return scores.gradient * slope.view(-1, *[1] * (scores.gradient.ndim - 1)), applies

    def resampled_losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        """DRaFT-LV (section 4.1): average the gradient over n fresh noisings of the same sample
        at the last step."""
        last = ctx.sampler.steps - 1
        path = Path(length=last + 1, train=(last,), estimate=False)
        rollout = ctx.rollout(batch, Plan(stop=last + 1, exact=False))
        parts = list(micro_slices(len(batch), ctx.micro_batch))
        for rows in parts:
            part, samples = rollout.select(rows), batch.select(rows)
            # The last step is nearly free of the chain before it, so one rollout serves n of them.
            for i in range(self.resamples):
                noise = part.noise.draw(f"resample{i}", part.x0.shape[1:])
                # Only the state that enters the last step: nothing before it is visited again.
                states = {last: ctx.sampler.renoise(part.x0, last, noise)}
                again = replace(part, states=states, x0=None, _decoded=None)
                closes = rows == parts[-1] and i == self.resamples - 1
                yield from self.walk_back(
                    ctx, again, samples, path, len(batch) * self.resamples, closes
                )


def finish(step: Transition, path: Path, k: int | None = None) -> Tensor:
    """What step k passes on: the next state, or at an early stop the estimate of x0."""
    result: Any = step.x0 if path.estimate and k in (None, path.length - 1) else step.next
    return result
