"""The start-up audit: after the first backward, before the first weight changes, prove that this
run can learn.

Every failure here is one that ran to "completed successfully" elsewhere: gradients cut by a detach,
by a no-grad prefix under autocast, by a clamp; rewards that return numbers without a gradient; an
adapter on layers never called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.errors import AuditError

NOT_REPORTED = {"ignored_regularizers"}  # it would be empty
CLAMPED_LIMIT = 0.98  # of the decoded values at or beyond the ends of [0, 1]


def audit_first_step(
    named: Mapping[str, nn.Parameter], facts: Mapping[str, Any], may_be_flat: bool = False
) -> dict[str, Any]:
    """Check gradients, decoded range and reward gradients; returns the figures for `audit.json`.

    may_be_flat: gradients that are all zero are no failure, for a policy gradient has none where
        rewards do not differ. They prove nothing either: audit the next step as well.

    Raises AuditError with every failure and what usually causes it.
    """
    # A skipped reward is NaN everywhere, so "it applies nowhere" would only repeat that it failed.
    failures = failure_problems(facts) or nothing_applies_problems(facts)
    # All problems at once: the next attempt may wait hours in a queue.
    of_rewards = reward_problems(facts)
    explained = bool(failures or of_rewards)
    problems = (
        failures
        + gradient_problems(named, explained, may_be_flat)
        + pixel_problems(facts)
        + of_rewards
        + regularizer_problems(facts)
    )
    if problems:
        shown = "\n".join(f"  - {p}" for p in problems)
        raise AuditError(f"the start-up audit stopped the run; nothing was trained\n{shown}")
    report = {key: to_number(value) for key, value in facts.items() if key not in NOT_REPORTED}
    # Stacked: two reads from the device in all, not one for each tensor.
    norms = torch.stack([p.grad.norm() for p in named.values() if p.grad is not None])
    report.update(
        trainable_tensors=len(named),
        trainable_parameters=sum(p.numel() for p in named.values()),
        # The norm of the norms is the norm of all gradients as one vector.
        gradient_norm=float(norms.norm()),
        tensors_with_zero_gradient=int((norms == 0).sum()),
    )
    return report


def regularizer_problems(facts: Mapping[str, Any]) -> list[str]:
    """Regularizers that the recipe lists and the algorithm did not apply."""
    ignored = facts.get("ignored_regularizers")
    if not ignored:
        return []
    return [
        f"the recipe lists regularizers ({', '.join(ignored)}), and the algorithm took its first "
        "step without applying them (`ctx.penalty`). Leave `regularizers` out, or take an "
        "algorithm that applies them."
    ]


def failure_problems(facts: Mapping[str, Any]) -> list[str]:
    """Rewards with `on_error: skip` that failed on every batch of the first step."""
    return [
        f"reward {name!r} failed on all of the first step: {counts['error']}. `on_error: skip` is "
        "for batches that fail now and then; fix the reward or remove it."
        for name, counts in facts.get("skipped", {}).items()
        if counts["failed"] == counts["batches"]
    ]


def nothing_applies_problems(facts: Mapping[str, Any]) -> list[str]:
    """Rewards that are NaN, which is how they say that they do not apply, on every sample of the
    first step."""
    counts = facts.get("samples_that_rewards_apply_to", {})
    if not counts or any(int(count) for count in counts.values()):
        return []
    return [
        f"no reward applies to any sample of the first step: {', '.join(counts)} returned NaN for "
        "all of them. If that is not meant, look for a division such as 0 / 0 in the reward; if it "
        "is, take a larger batch, with samples that it applies to."
    ]


def gradient_problems(
    named: Mapping[str, nn.Parameter], explained: bool = False, may_be_flat: bool = False
) -> list[str]:
    """Trainable tensors without a gradient, with one that is not finite, or with nothing but zeros.

    explained: rewards that fail or have a bad gradient are reason enough for zeros and NaN, which
    are then not reported.
    """
    if not named:
        return ["nothing is trainable: the adapter matched no layer"]
    # No gradient and a gradient of zero differ: only the first proves that the graph is cut.
    missing = [n for n, p in named.items() if p.grad is None]
    present = {n: p.grad for n, p in named.items() if p.grad is not None}
    infinite = [n for n, g in present.items() if not torch.isfinite(g).all()]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(named)} trainable tensors got no gradient at all "
            f"({shorten(missing)}). Either the model never calls these layers (narrow "
            "`adapter.targets`), or a detach or no_grad cuts the graph."
        )
    if infinite and not explained:
        problems.append(
            f"{len(infinite)} trainable tensors have NaN or infinite gradients "
            f"({shorten(infinite)}). Try `train.precision: fp32`, fewer trained steps or "
            "`input_gradient` stopped (drtune)."
        )
    # All of them, not some: while a new LoRA's B is zero, so is the gradient of its A.
    zeros = bool(present) and all(not g.any() for g in present.values())
    if zeros and not (infinite or explained or may_be_flat):
        problems.append(
            "every gradient is exactly zero: the optimizer would change nothing. The reward is "
            "flat at these samples (a hinge beyond its target, a clamped image), compares them "
            "with their own mean, or its gradient is cut before the samples."
        )
    return problems


def pixel_problems(facts: Mapping[str, Any]) -> list[str]:
    """Decoded pictures outside [0, 1], or nearly all of them at its ends."""
    # Decoded samples that are no pictures (poses, meshes) have no range to keep to.
    if "decoded_min" not in facts or not facts.get("pictures", True):
        return []
    low, high, clamped = (float(facts[f"decoded_{name}"]) for name in ("min", "max", "clamped"))
    problems = []
    # The margin is for rounding in x / 2 + 0.5; a wrong mapping misses by far more.
    if low < -1e-4 or high > 1 + 1e-4:
        problems.append(
            f"decoded samples range over [{low:.3g}, {high:.3g}] instead of [0, 1]: `decode` must "
            "map the decoder's output (usually x / 2 + 0.5) before rewards see it."
        )
    if clamped > CLAMPED_LIMIT:
        problems.append(
            f"{clamped:.0%} of the decoded values sit at or beyond the ends of [0, 1]: a hard "
            "clamp there passes no gradient. Check the mapping to [0, 1], or use a soft clamp."
        )
    return problems


def reward_problems(facts: Mapping[str, Any]) -> list[str]:
    """Rewards without a gradient at the samples, or with one that is not finite."""
    problems = []
    for name, norm in facts.get("reward_gradient_norm", {}).items():
        if norm is None:
            problems.append(f"reward {name!r} has no gradient at the samples: it detaches them")
        elif not torch.isfinite(norm):
            problems.append(
                f"reward {name!r} has a NaN or infinite gradient at the samples. Look in it for a "
                "root, logarithm, norm or division at 0, and keep its operand away from 0, such "
                "as by (x + 1e-6).sqrt()."
            )
    return problems + [
        f"reward {name!r} gives all samples of a batch one value, and another one to half of them: "
        "it averages over the batch. Reduce all dimensions but the first, such as by "
        "x.flatten(1).mean(1)."
        for name in facts.get("averages_over_the_batch", {})
    ]


def shorten(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def to_number(value: Any) -> Any:
    """Tensors inside dictionaries as plain numbers, for JSON."""
    if isinstance(value, Tensor):
        return float(value)
    if isinstance(value, Mapping):
        return {key: to_number(item) for key, item in value.items()}
    return value
