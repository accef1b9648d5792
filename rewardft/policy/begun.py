"""Rewards that are computed elsewhere, begun before they are waited for.

A reward that asks another process may have a method `begin_scoring(rollout, batch)`, which sends
its questions and returns at once what waits for the answers. Those of a batch are asked side by
side, and an evaluation rolls out its next batch meanwhile. Nothing else moves: values are taken,
and failures raised, in the order of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.policy.finite import check_samples, checked
from rewardft.policy.untouched import Untouched, described
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.types import Batch, Rollout


class Pending(Protocol):
    """Answers on their way."""

    def result(self) -> Tensor:
        """Wait for the values `(b,)`; raises what the reward would have raised."""

    def cancel(self) -> None:
        """Ask for nothing more. Does nothing after `result`.

        Nothing runs any longer when it returns, but the call of a `concurrent.futures.Future`,
        which is waited for. One with a method `halt()` is told by it to send nothing more before
        any is waited for.
        """


@dataclass(frozen=True)
class Failed:
    """A reward that could not even be begun."""

    error: Exception

    def result(self) -> Tensor:
        raise self.error

    def cancel(self) -> None:
        pass


@dataclass
class Begun:
    """A batch that is being scored.

    x0: the samples; a leaf if their gradient is wanted.
    view: the rollout as the rewards see it.
    guard: tells which of them changed what is not theirs.
    pending: by name, of the rewards that have been begun.
    """

    x0: Any
    view: Rollout
    guard: Untouched
    pending: dict[str, Pending] = field(default_factory=dict)

    def cancel(self) -> None:
        """Ask for nothing more, and leave nothing running."""
        if not self.pending:
            return
        # All of them first: while one is waited for, the next would go on sending.
        for pending in self.pending.values():
            getattr(pending, "halt", lambda: None)()
        with ExitStack() as stack:  # one that fails keeps none of the others from it
            while self.pending:
                stack.callback(end, self.pending.popitem()[1])


def end(pending: Any) -> None:
    """Cancel one; the call of a future that has begun cannot be ended, and is waited for."""
    pending.cancel()
    if isinstance(pending, Future):
        wait([pending])


def is_elsewhere(reward: WeightedReward) -> bool:
    """Whether a reward can be begun before it is waited for."""
    return hasattr(reward.reward, "begin_scoring")


def begin(
    rewards: Sequence[WeightedReward],
    rollout: Rollout,
    batch: Batch,
    gradient: bool = False,
    first: bool = False,
) -> Begun:
    """Ask the rewards that are computed elsewhere; with `gradient` none, for their values would
    come without it.

    first: keep copies, by which `Untouched` sees more.
    Raises NonFiniteError for samples that are not finite.
    """
    # Before any reward: one that divides by the samples would be blamed for their NaN.
    check_samples(rollout, batch)
    # A leaf of its own: the gradient ends here, and no denoiser graph is held meanwhile.
    x0 = rollout.x0.detach().requires_grad_(True) if gradient else rollout.x0
    with torch.set_grad_enabled(gradient):
        own = rollout.with_x0(x0)
        guard = Untouched(own, batch, whole=first)
        begun = Begun(x0, checked(own, batch, guard), guard)
        try:
            for reward in () if gradient else filter(is_elsewhere, rewards):
                begun.pending[reward.name] = begin_one(reward, begun.view, batch)
                # Now, while it is known which of them it was.
                guard.check(f"reward {reward.name!r}")
        except BaseException:
            begun.cancel()
            raise
    return begun


def begin_one(reward: WeightedReward, view: Rollout, batch: Batch) -> Pending:
    """One reward; an error waits for its turn. Raises ComponentError for what cannot be waited
    for."""
    try:
        pending: Pending = reward.reward.begin_scoring(view, batch)  # type: ignore[attr-defined]
    except Exception as error:
        return Failed(error)
    if not all(callable(getattr(pending, name, None)) for name in ("result", "cancel")):
        raise ComponentError(
            f"reward {reward.name!r}: begin_scoring must return what waits for the values, an "
            f"object with result() and cancel(); got {described(pending)}"
        )
    return pending
