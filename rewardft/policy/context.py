"""What an algorithm may use: roll out, score, replay, compare with the reference."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.errors import ComponentError, NonFiniteError
from rewardft.noise import Noise
from rewardft.policy.answers import check_rollout, check_transition
from rewardft.policy.begun import Begun
from rewardft.policy.facts import RewardFacts
from rewardft.policy.finite import bad_base
from rewardft.policy.full import FullFineTuning
from rewardft.policy.memory import Memory
from rewardft.policy.policy import Policy
from rewardft.policy.records import sums_of
from rewardft.policy.reward_gradients import Combine, agreement
from rewardft.policy.rewards import evaluate_rewards, warn_of_skips
from rewardft.policy.untouched import described
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.types import Batch, Plan, Rollout, Scores, Transition


@dataclass(frozen=True)
class WeightedRegularizer:
    """A regularizer with its name in the logs and its weight in the loss."""

    name: str
    penalty: Callable[[Transition, Transition], Tensor]
    weight: float


@dataclass
class Context:
    """Handed to `Algorithm.losses`.

    rng:        choices that a whole optimizer step shares (which steps to train); the same on every
        process.
    step:       optimizer steps taken so far; the same for every batch that is accumulated into a
        step.
    memory:     tensors and numbers that an algorithm needs to survive a checkpoint.
    gather:     the tensors `(b, ...)` of all processes, in the order of their ranks.
    facts:      what the first step shows about the rewards, for the start-up audit.
    on_reward_error: is told of a reward that fails, with what it was given.
    last_rollout: what observers are shown with the next step, see `show`.
    reward_evaluations: samples that have been scored so far.
    penalized: whether the algorithm has applied the regularizers, see `penalty`.
    micro_batch: how many samples replays and decoding take at a time (None: the whole batch).
    score_batch: how many decoding takes where its gradient is asked for, if fewer.
    forget:     makes the optimizer and the average begin anew for entries of a trained tensor.
    gathered:   around a rollout, for a base that is spread over processes, see `sharding.py`.
    reward_gradients: what becomes of the gradients of several rewards, see `reward_gradients.py`.
    """

    policy: Policy
    sampler: Any
    adapter: Any
    rewards: Sequence[WeightedReward] = ()
    regularizers: Sequence[WeightedRegularizer] = ()
    seed: int = 0
    step: int = 0
    micro_batch: int | None = None
    score_batch: int | None = None
    reward_gradients: Combine = "sum"
    dtype: torch.dtype = torch.float32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    memory: Memory = field(default_factory=Memory)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    gather: Callable[[Tensor], Tensor] = lambda x: x
    forget: Callable[[nn.Parameter, Tensor], None] = lambda parameter, where: None
    gathered: Callable[[], AbstractContextManager[None]] = nullcontext
    facts: RewardFacts | None = None
    on_reward_error: Callable[[str, Exception, Rollout, Batch], None] | None = None
    last_rollout: Rollout | None = None
    reward_evaluations: int = 0
    penalized: bool = False
    _records: dict[str, list[Tensor]] = field(default_factory=dict)
    _warned: set[str] = field(default_factory=set)

    def start_step(self, step: int) -> None:
        """Every micro-batch of one optimizer step makes the same choices: accumulation changes
        nothing."""
        self.step, self.rng = step, self.rng_of(step)

    def rng_of(self, step: int) -> random.Random:
        """The choices of an optimizer step."""
        # Text is seeded by SHA-512; Python's `hash` is salted and differs between processes.
        return random.Random(f"{self.seed}/{step}")

    def noise(self, batch: Batch) -> Noise:
        return Noise(self.seed, batch.ids, batch.epochs, self.device, self.dtype)

    def encode(self, batch: Batch) -> Any:
        with torch.no_grad():
            # Encoders are frozen: a graph through them would only hold memory.
            return self.policy.encode(batch)

    def rollout(self, batch: Batch, plan: Plan, noise: Noise | None = None) -> Rollout:
        """Run the sampler without autograd; `noise` replaces the samples' own."""
        # Deterministic per sample, so that the same rollout can be made again from its ids.
        noise = self.noise(batch) if noise is None else noise
        quicker = self.adapter.for_rollout(self.policy.precision, plan.exact)
        with torch.no_grad(), self.policy.rounding(plan), quicker, self.gathered():
            rollout = self.sampler.rollout(self.policy, self.encode(batch), plan, noise)
        check_rollout(self.sampler, rollout)
        return self.show(rollout)

    def show(self, rollout: Rollout) -> Rollout:
        """Hand `rollout` to the observers of the next optimizer step, as those of `rollout` are."""
        # Kept whole: observers draw it after the step, when the algorithm is done with it.
        self.last_rollout = rollout
        return rollout

    def score(
        self,
        rollout: Rollout,
        batch: Batch,
        gradient: bool = False,
        record: bool = True,
        begun: Begun | None = None,
    ) -> Scores:
        """Evaluate all rewards; with `gradient`, also d(total)/d(x0), with no denoiser graph in
        memory.

        record: log the values as the run's rewards; off for what is not a finished sample.
        begun: of the same batch, where its scoring has begun, see `begun.py`.
        """
        if not isinstance(rollout, Rollout):
            raise ComponentError(
                f"ctx.score takes a Rollout, got {type(rollout).__name__}. For other samples than "
                "those of a rollout: rollout.with_x0(x0)."
            )
        with self.judging_the_base():
            scores = evaluate_rewards(
                self.rewards,
                rollout,
                batch,
                gradient,
                self.facts,
                self.on_reward_error,
                self.reward_gradients,
                begun,
            )
        # Counted in samples, whatever the micro-batch, so that budgets do not depend on it.
        self.reward_evaluations += len(batch)
        warn_of_skips(scores, self._warned)
        if not record:
            return scores
        for name in (r.name for r in self.rewards if r.on_error == "skip"):
            share = float(name in scores.skipped)
            self.record(f"skipped/{name}", torch.full((len(batch),), share, device=self.device))
        for name, value in scores.by_name.items():
            self.record(f"reward/{name}", value)
        self.record("reward", scores.rewards)
        for name, value in agreement(scores.slopes):
            self.record(name, value)
        return scores

    @contextmanager
    def judging_the_base(self) -> Iterator[None]:
        """A NonFiniteError from inside is one of the base model where its own weights are not
        finite: then nothing else is to blame."""
        try:
            yield
        except NonFiniteError as error:
            if (found := self.bad_base()) is not None:
                raise NonFiniteError(found) from error
            raise

    def bad_base(self) -> str | None:
        """A sentence on weights of the base model that are not finite; see
        `rewardft.policy.finite`."""
        # Before the first step what full fine-tuning trains is still the base's.
        is_base = isinstance(self.adapter, FullFineTuning) and self.step == 0
        return bad_base(self.policy.model, () if is_base else self.adapter.parameters)

    def replay(self, rollout: Rollout, k: int, input_gradient: bool = False) -> Transition:
        """Visit step k again, in the caller's gradient mode."""
        # Dropout belongs to the pass that learns. A rollout, or a replay without autograd, is of
        # the policy as it is evaluated.
        self.adapter.train_mode(torch.is_grad_enabled())
        try:
            step: Transition = self.sampler.replay(
                self.policy, rollout, k, input_gradient=input_gradient
            )
        finally:
            self.adapter.train_mode(False)
        check_transition(self.sampler, step, len(rollout.noise))
        return step

    def reference(self, rollout: Rollout, k: int) -> Transition:
        """The same visit under the reference model: the adapter switched off, no autograd."""
        with torch.no_grad(), self.adapter.disabled():
            return self.sampler.replay(self.policy, rollout, k, input_gradient=False)

    def replay_all(self, rollout: Rollout) -> list[Transition]:
        """Visit all steps in one call, for samplers that have `replay_all`: policies whose steps
        are read off one pass over what was drawn."""
        self.adapter.train_mode(torch.is_grad_enabled())
        try:
            steps: list[Transition] = self.sampler.replay_all(self.policy, rollout)
            return steps
        finally:
            self.adapter.train_mode(False)

    def reference_all(self, rollout: Rollout) -> list[Transition]:
        """The same visit of all steps under the reference model, without autograd."""
        with torch.no_grad(), self.adapter.disabled():
            steps: list[Transition] = self.sampler.replay_all(self.policy, rollout)
            return steps

    def penalty(
        self, new: Transition, rollout: Rollout, k: int, reference: Transition | None = None
    ) -> Tensor:
        """Weighted sum of the regularizers at a visited step, `(b,)`; costs a reference call only
        if there are any, and none where the same visit under the reference is given."""
        # Also without regularizers: callers add it without asking.
        total = torch.zeros(len(rollout.noise), dtype=self.dtype, device=self.device)
        if not self.regularizers:
            return total
        # The audit reports regularizers that an algorithm never applied.
        self.penalized = True
        reference = self.reference(rollout, k) if reference is None else reference
        for term in self.regularizers:
            value = term.penalty(new, reference)
            # A shape such as (b, 1) would broadcast to (b, b) and train on wrong sums.
            if not isinstance(value, Tensor) or value.shape != total.shape or value.is_complex():
                raise ComponentError(
                    f"regularizer {term.name!r} must return one number per sample, shape "
                    f"{tuple(total.shape)}; got {described(value)}"
                )
            self.record(f"penalty/{term.name}", value)
            total = total + term.weight * value
        return total

    def record(self, name: str, value: Tensor | float) -> None:
        """Note a value of each sample `(b,)`, or one number; the mean over the optimizer step is
        logged. Nothing is read back here. Raises ComponentError for what is no number."""
        got: Any = value  # an algorithm may have given anything
        if not isinstance(got, Tensor) and isinstance(got, Real):
            # Filled in there: a copy to the device would make the host wait at every call, and so
            # would reading a number back.
            got = torch.full((1,), float(got), device=self.device)
        if not isinstance(got, Tensor) or got.is_complex():
            raise ComponentError(
                f"the value {name!r} is to be logged, and must be a number or a tensor of numbers; "
                f"got {described(value)}"
            )
        self._records.setdefault(name, []).append(got.detach().reshape(-1))

    @property
    def cost(self) -> dict[str, int]:
        """What has been called so far, by the names in the logs."""
        return self.policy.cost | {"reward_evaluations": self.reward_evaluations}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        # Other samples at a time would round otherwise: a run that was resumed would not be equal.
        return {
            "memory": self.memory.state_dict(),
            "cost": self.cost,
            "micro_batch": self.micro_batch,
            "score_batch": self.score_batch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory, the counters and the micro-batch of a checkpoint."""
        self.micro_batch = state.get("micro_batch", self.micro_batch)
        self.score_batch = state.get("score_batch")
        self.memory.load_state_dict(state["memory"])
        # Budgets and curves over calls go on from what the run has spent in all.
        self.policy.set_cost(state["cost"])
        self.reward_evaluations = state["cost"]["reward_evaluations"]

    def take_records(self) -> dict[str, Tensor]:
        """(sum, count) `(2,)` since the last call, still on the device; NaN (not applicable) is
        left out of both."""
        joined = {n: torch.cat(v) if len(v) > 1 else v[0] for n, v in self._records.items()}
        self._records.clear()
        return sums_of(joined)
