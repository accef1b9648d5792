"""`check_sampler`: the contract of a sampler as assertions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rewardft.policy.context import Context
from rewardft.testing.conformance import tiny_batch, tiny_context
from rewardft.types import Batch, Plan, Rollout, Transition


def check_sampler(sampler: Any, model: Any = None, batch: Batch | None = None) -> None:
    """Check that a sampler's chain is the one that it replays, and that samples are independent.

    Checked: the chain is the same when it is repeated; a sample's chain does not depend on its
    batch; replaying a step leads where the rollout went, with the same log-probability; that is the
    Gaussian's of the step's mean and deviation, at the state that was kept; `transition` gives the
    replayed step; a gradient reaches the state when it is asked for; the tags that it declares are
    those that it earns.
    """
    batch = batch or tiny_batch()
    context = tiny_context(sampler, model=model)
    plan = Plan(stop=sampler.steps, keep=frozenset(range(sampler.steps)))
    chain = context.rollout(batch, plan)
    again = context.rollout(batch, plan)
    assert torch.equal(chain.x0, again.x0), "the same noise gives another chain"
    # To rounding only: kernels differ with the batch size.
    alone = context.rollout(batch.select(slice(0, 1)), plan)
    close = torch.allclose(alone.x0, chain.x0[:1], atol=1e-6)
    assert close, "a sample's chain depends on the batch it is in"
    for k in range(sampler.steps):
        check_step(context, chain, k)
    check_tags(sampler, has_density=bool(chain.log_probs))


def check_tags(sampler: Any, has_density: bool) -> None:
    """What a sampler declares in `provides` and `tags` is what it does: algorithms are matched with
    it by these alone."""
    declared = frozenset(getattr(sampler, "provides", ()))
    dynamic = getattr(sampler, "tags", None)
    if dynamic is not None:
        wanted = inspect.signature(dynamic).parameters
        options = {name: getattr(sampler, name) for name in wanted if hasattr(sampler, name)}
        # An option that the sampler keeps under another name is not known here.
        if any(parameter.name not in options for parameter in named(wanted)):
            return
        declared |= frozenset(dynamic(**options))
    earned = {
        "log_prob": has_density,
        "differentiable_sampler": hasattr(sampler, "transition"),
        "renoise": hasattr(sampler, "renoise"),
    }
    for tag, has in earned.items():
        assert has or tag not in declared, f"the tag {tag!r} is declared and not earned"
        assert tag in declared or not has, f"the tag {tag!r} is earned and not declared"


def named(parameters: Mapping[str, inspect.Parameter]) -> list[inspect.Parameter]:
    """The parameters that are no `**rest`."""
    return [p for p in parameters.values() if p.kind is not p.VAR_KEYWORD]


def check_step(context: Context, chain: Rollout, k: int) -> None:
    """Replay step k, and compare it with what the rollout kept."""
    step = context.replay(chain, k, input_gradient=True)
    after = chain.states.get(k + 1, chain.x0)
    close = torch.allclose(step.next, after, atol=1e-6)
    assert close, f"replaying step {k} leads elsewhere than the rollout did"
    (slope,) = torch.autograd.grad(step.next.sum(), step.state)
    assert slope.any(), f"step {k}: no gradient reaches the state"
    if step.log_prob is not None:
        assert torch.allclose(step.log_prob, chain.log_probs[k], atol=1e-5), (
            f"step {k} has another log-probability when it is replayed"
        )
        assert_density(step, after, f"step {k}: log_prob is not the Gaussian's of its mean and std")
        check_taken(context, chain, k)


def check_taken(context: Context, chain: Rollout, k: int) -> None:
    """Replay step k as if the rollout had gone elsewhere from the same state."""
    # A policy that has changed since would draw another state; the density is of the kept one.
    after = chain.states.get(k + 1, chain.x0) + 0.1
    last = k + 1 == chain.plan.stop
    states = chain.states if last else chain.states | {k + 1: after}
    moved = replace(chain, states=states, x0=after)
    steps = {"replay": context.replay(moved, k)}
    if hasattr(context.sampler, "transition"):
        kept = (chain.states[k], chain.outputs[k], chain.noise)
        steps["transition"] = context.sampler.transition(k, *kept, taken=after)
    for name, step in steps.items():
        assert_density(
            step,
            after,
            f"step {k}: `{name}` gives the log-probability of another state than `taken`",
        )


def assert_density(step: Transition, after: Tensor, message: str) -> None:
    """The step's log-probability is torch's density at `after`, of the same mean and deviation."""
    assert step.mean is not None and step.std is not None and step.log_prob is not None
    density = torch.distributions.Normal(step.mean, step.std).log_prob(after).flatten(1).mean(1)
    assert torch.allclose(step.log_prob.double(), density, atol=1e-5), message
