"""A gradient that is not finite, traced to where it arose.

The batch is repeated, and every loss, every call of the denoiser and every gradient that comes back
to one is looked at, which a run that goes well has no time for. Nothing is changed by it but the
gradients, and the algorithm's memory is a copy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.policy.context import Context
from rewardft.policy.finite import finite_rows, ids_at
from rewardft.policy.policy import Policy
from rewardft.types import Batch, Rollout, Transition, select_rows

MOST_NAMES = 3  # of tensors in a message


@dataclass
class Call:
    """One call of the denoiser whose output a gradient may come back to.

    samples: their ids, in order.
    again: the call for some of its rows; None where it cannot be cut.
    gradient: what came back to the output, `(b, ...)`.
    """

    samples: Sequence[str]
    output: Tensor
    again: Callable[[slice], Tensor] | None = None
    gradient: Tensor | None = None

    def receive(self, gradient: Tensor) -> None:
        """The hook of the output."""
        self.gradient = gradient

    def at(self, bad: Tensor) -> str:
        """The samples that the mask `(b,)` selects, in words."""
        rows = bad.nonzero().flatten().tolist()
        return "the samples " + ", ".join(self.samples[row] for row in rows)


class WatchedPolicy(Policy):
    """Keeps the calls that gradients may come back to. samples: the ids of a call's rows, where
    they are known."""

    def __init__(self, policy: Policy, samples: Sequence[str]) -> None:
        super().__init__(*policy.settings)
        self.samples = samples
        self.calls: list[Call] = []

    def denoise(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        output = super().denoise(x, t, cond)
        # Detached: the repetition is of this call alone, not of the chain that led to it.
        state, denoise = x.detach(), super().denoise

        def again(rows: slice) -> Tensor:
            return denoise(state[rows], t[rows], select_rows(cond, rows))

        self._keep(output, len(x), again)
        return output

    def call(self, method: str, count: int, *args: Any) -> tuple[Tensor, ...]:
        outputs = super().call(method, count, *args)
        self._keep(outputs[0], len(outputs[0]), None)
        return outputs

    def _keep(self, output: Tensor, count: int, again: Callable[[slice], Tensor] | None) -> None:
        if not output.requires_grad:
            return
        # Guidance or a repeated batch may give a call other rows than the batch has.
        known = len(self.samples) == count
        names = self.samples if known else [f"in row {row} of {count}" for row in range(count)]
        kept = Call(names, output.detach(), again)
        output.register_hook(kept.receive)
        self.calls.append(kept)


@dataclass
class WatchedContext(Context):
    """Names the samples of each visited step.

    said: sentences on regularizers whose values or gradients were not finite, since the last loss.
    """

    policy: WatchedPolicy
    said: list[str] = field(default_factory=list)

    def replay(self, rollout: Rollout, k: int, input_gradient: bool = False) -> Transition:
        # The noise has the ids of a micro-batch, in the order of its rows.
        batch, self.policy.samples = self.policy.samples, rollout.noise.ids
        try:
            return super().replay(rollout, k, input_gradient)
        finally:
            self.policy.samples = batch

    def penalty(
        self, new: Transition, rollout: Rollout, k: int, reference: Transition | None = None
    ) -> Tensor:
        """The same sum; each regularizer is looked at alone before."""
        if not self.regularizers:
            return super().penalty(new, rollout, k, reference)
        # Once for all terms, and handed on below, as the run itself does it.
        known = self.reference(rollout, k) if reference is None else reference
        for term in self.regularizers:
            value = term.penalty(new, known)
            bad = ~torch.isfinite(value.detach()) | bad_slope(value, new.output)
            if bad.any():
                at = ids_at(rollout.noise, bad)
                shown = ", ".join(f"{v:.4g}" for v in value[bad].tolist())
                self.said.append(
                    f"The value or the gradient of regularizer {term.name!r} is NaN or infinite at "
                    f"the samples {at}, where its value is {shown}."
                )
        return super().penalty(new, rollout, k, known)


def bad_slope(value: Tensor, output: Tensor | None) -> Tensor:
    """Where d value / d output is not finite, `(b,)` bool."""
    slope = None
    if value.requires_grad and output is not None and output.requires_grad:
        # The graph is kept for the backward pass of the loss.
        (slope,) = torch.autograd.grad(value.sum(), output, retain_graph=True, allow_unused=True)
    return torch.zeros_like(value, dtype=torch.bool) if slope is None else bad_rows(slope)


def trace_gradient(
    context: Context,
    algorithm: Any,
    batches: Sequence[tuple[int, Batch]],
    named: Mapping[str, nn.Parameter],
) -> str | None:
    """A sentence that says where the gradients of `named` became NaN or infinite; None where they
    are finite when the batch is repeated.

    batches: of the optimizer step, each with the seed of the global generator before it.
    """
    # First, on the gradients as they are: what follows clears them.
    if (overflow := of_the_norm(named)) is not None:
        return overflow
    found: list[str] = []
    for seed, batch in batches:
        torch.manual_seed(seed)  # dropout draws the same masks
        watched = watch(context, batch)
        # To its end, also when the place is found: other processes wait in its exchanges.
        for loss in algorithm.losses(watched, batch):
            # Each loss alone, so that a bad gradient is of this one.
            clear(named)
            loss.backward()
            if not found:
                found += look(watched, loss.value, named)
            watched.policy.calls.clear()
            watched.said.clear()
    clear(named)
    return found[0] if found else None


def of_the_norm(named: Mapping[str, nn.Parameter]) -> str | None:
    """Gradients that are finite and whose squares are not; None where one of them is bad itself."""
    largest = {name: float(p.grad.abs().max()) for name, p in named.items() if p.grad is not None}
    # Of a NaN, `max` may or may not be one.
    if bad_tensors(named) or not largest:
        return None
    name = max(largest, key=lambda one: largest[one])
    return (
        f"Every gradient is finite, but their norm is not: the largest is {largest[name]:.3g}, in "
        f"{name}."
    )


def watch(context: Context, batch: Batch) -> WatchedContext:
    """The same context with a policy that keeps its calls, and a memory of its own."""
    own = {one.name: getattr(context, one.name) for one in fields(Context)}
    own |= {"policy": WatchedPolicy(context.policy, batch.ids), "facts": None, "_records": {}}
    # No failures are written: the samples of this batch are on the disk if they are bad.
    own |= {"memory": copy.deepcopy(context.memory), "on_reward_error": None}
    watched = WatchedContext(**own)
    watched.start_step(context.step)
    return watched


def clear(named: Mapping[str, nn.Parameter]) -> None:
    """No gradients."""
    for parameter in named.values():
        parameter.grad = None


def bad_tensors(named: Mapping[str, nn.Parameter]) -> list[str]:
    """The tensors whose gradient is not finite."""
    return [n for n, p in named.items() if p.grad is not None and not torch.isfinite(p.grad).all()]


def look(context: WatchedContext, loss: Tensor, named: Mapping[str, nn.Parameter]) -> Iterator[str]:
    """After the backward pass of one loss: where the gradient became bad, the earliest place
    first; nothing where it is good."""
    if not (tensors := bad_tensors(named)):
        return
    calls = context.policy.calls
    for call in calls:
        if (bad := bad_rows(call.output)).any():
            yield f"The denoiser's own output is NaN or infinite at {call.at(bad)}."
    yield from context.said
    for call in calls:
        if call.gradient is not None and (bad := bad_rows(call.gradient)).any():
            yield (
                f"It is bad before it reaches the denoiser, at {call.at(bad)}: it comes out of the "
                f"algorithm's loss, whose value is {float(loss.detach()):.4g}, or of the sampler's "
                "arithmetic. Look there for a root, logarithm or division at 0, or an exponential "
                "that overflows."
            )
    names = ", ".join(tensors[:MOST_NAMES]) + " ..." * (len(tensors) > MOST_NAMES)
    for call in calls:
        if call.gradient is not None and (bad := bad_alone(call, named)).any():
            yield (
                f"It turns bad in the denoiser's own backward pass, at {call.at(bad)} ({names}): "
                "what goes into the pass is finite."
            )
    yield f"It is bad in the tensors {names}, and finite everywhere else that was checked."


def bad_rows(value: Tensor) -> Tensor:
    """Which of the samples are not finite, `(b,)` bool."""
    rows = finite_rows(value, len(value))
    return torch.zeros(len(value), dtype=torch.bool) if rows is None else ~rows


def bad_alone(call: Call, named: Mapping[str, nn.Parameter]) -> Tensor:
    """Of which samples alone the denoiser's backward pass is not finite, `(b,)` bool."""
    bad = torch.zeros(len(call.samples), dtype=torch.bool)
    if call.again is None or call.gradient is None:
        return bad
    for row in range(len(bad)):
        clear(named)
        rows = slice(row, row + 1)
        with torch.enable_grad():
            # With the gradient that came back in the run: only the denoiser's own pass is repeated.
            call.again(rows).backward(call.gradient[rows])
        bad[row] = bool(bad_tensors(named))
    return bad
