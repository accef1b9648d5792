"""How far the trained model has left the reference: as a penalty at visited steps,
and along whole trajectories."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, kl_divergence

from rewardft.errors import ComponentError
from rewardft.policy.context import Context
from rewardft.samplers.steps import taken_step
from rewardft.types import Rollout, Transition

Form = Literal["epsilon_mse", "gaussian", "categorical"]


class KL:
    """Distance of the tuned model's step from the reference's, `(b,)`.

    Forms:
        epsilon_mse: mean squared difference of the noise predictions (DrPose, 2603.02619); any
            sampler.
        gaussian: the exact KL divergence of the transition densities N(mean, std^2 I) per
            dimension, mean((mean - mean_ref)^2) / (2 std^2) (Fan et al. 2023, 2305.16381);
            stochastic samplers. Of a step with a `density` of its own (a deviation for each
            dimension, a covariance) the divergence of these, over the number of dimensions.
        categorical: the divergence of the distributions of tokens, a mean over those drawn.

    Of the last two each is 0 at a step of the other kind: a policy with both takes both, by name.

    Args:
        form: `epsilon_mse`, `gaussian` or `categorical`, see above.
    """

    provides = frozenset({"kl"})

    def __init__(self, form: Form = "epsilon_mse") -> None:
        self.form = form

    @staticmethod
    def needs_for(form: str = "epsilon_mse", **_: Any) -> frozenset[str]:
        # A deterministic step has no density to compare.
        return frozenset() if form == "epsilon_mse" else frozenset({"log_prob"})

    def __call__(self, new: Transition, reference: Transition) -> Tensor:
        if self.form == "epsilon_mse":
            if new.epsilon is None or reference.epsilon is None:
                raise ComponentError(
                    "kl (epsilon_mse) needs a sampler whose steps have a noise prediction"
                )
            return (new.epsilon - reference.epsilon).square().flatten(1).mean(1)
        if new.density is not None and reference.density is not None:
            # First: `mean` and `std` below assume one deviation for all dimensions.
            return divergence(self.form, new, reference)
        if self.form == "categorical":
            raise ComponentError(
                "kl (categorical) needs a policy that draws tokens, and this step has no "
                "distribution of them. Use `form: gaussian` or `form: epsilon_mse`."
            )
        if new.mean is None or reference.mean is None or new.log_prob is None or new.std is None:
            raise ComponentError(
                "kl (gaussian): this step is deterministic, so the divergence of its densities is "
                "infinite. Use `form: epsilon_mse`, or train only steps that draw noise (eta > 0; "
                "DDIM's and DDPM's last step may have none, depending on the model's "
                "`set_alpha_to_one`)."
            )
        # Both have the sampler's deviation, so the terms of log std and of the trace vanish.
        return (new.mean - reference.mean).square().flatten(1).mean(1) / (2 * new.std**2)


def kind_of(density: Distribution) -> str:
    """`categorical` or `gaussian`."""
    return "categorical" if isinstance(density, Categorical) else "gaussian"


def divergence(form: str, new: Transition, reference: Transition) -> Tensor:
    """KL(new || reference) of the densities of a step, per dimension or token drawn, `(b,)`; 0
    where the step is of another kind than `form`."""
    assert new.density is not None and reference.density is not None
    value = kl_divergence(new.density, reference.density)
    # 0 and no error: a policy with both kinds lists both forms.
    if form != kind_of(new.density):
        return torch.zeros_like(value if value.ndim == 1 else value[:, 0])
    if value.ndim == 1:
        # Per dimension, so that a weight means the same at every size of the sample.
        return value / new.density.event_shape.numel()
    mask = torch.ones_like(value) if new.mask is None else new.mask.to(value)
    # At least 1: an answer may have no token that was drawn.
    return (value * mask).sum(1) / mask.sum(1).clamp(min=1)


@torch.no_grad()
def trajectory_kl(ctx: Context, rollout: Rollout) -> dict[str, Tensor]:
    """The distance from the reference along trajectories whose steps were all kept: values `(b,)`
    by form.

    gaussian: where some steps draw noise: the sum over them of the exact KL divergence, in nats per
        dimension. By the chain rule its mean is the divergence of the two models' trajectories.
    epsilon_mse: where no step does: mean over steps of the squared difference of noise predictions.
    output_mse: the same of the networks' outputs, for a sampler that names no noise.

    Costs one reference call per step; a sampler without `transition` repeats its own call too.
    """
    # A chain may mix forms: its last step often draws no noise.
    terms: dict[str, list[Tensor]] = {}
    for k in range(rollout.plan.stop):
        form, value = step_distance(tuned_step(ctx, rollout, k), ctx.reference(rollout, k))
        terms.setdefault(form, []).append(value)
    drawn = {form: values for form, values in terms.items() if form in ("gaussian", "categorical")}
    if drawn:
        # Divergences add up along a chain; squared differences have no such rule and are averaged.
        return {form: torch.stack(values).sum(0) for form, values in drawn.items()}
    return {form: torch.stack(values).mean(0) for form, values in terms.items()}


def tuned_step(ctx: Context, rollout: Rollout, k: int) -> Transition:
    """Step k of the tuned model: from its stored output where the sampler's step is arithmetic on
    it, else by a call."""
    if k in rollout.outputs and hasattr(ctx.sampler, "transition"):
        return taken_step(ctx.sampler, rollout, k)
    return ctx.replay(rollout, k)


def step_distance(new: Transition, reference: Transition) -> tuple[str, Tensor]:
    """The form that this step allows, and its value `(b,)`.

    Raises ComponentError for a step without an output.
    """
    if new.density is not None:
        form = kind_of(new.density)
        return form, divergence(form, new, reference)
    if new.log_prob is not None:
        return "gaussian", KL("gaussian")(new, reference)
    if new.epsilon is not None and reference.epsilon is not None:
        return "epsilon_mse", KL("epsilon_mse")(new, reference)
    if new.output is None or reference.output is None:
        raise ComponentError(
            "evaluate.kl needs a sampler whose steps have a density, a noise prediction or a "
            "network output, and this one's have none. Leave evaluate.kl out, or name another "
            "sampler in evaluate.sampler."
        )
    return "output_mse", (new.output - reference.output).square().flatten(1).mean(1)
