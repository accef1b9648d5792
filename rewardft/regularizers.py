"""Penalties for leaving the reference model, at the visited steps."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.types import Transition


class KL:
    """Distance of the tuned model's step from the reference's, `(b,)`.

    Forms:
        epsilon_mse: mean squared difference of the noise predictions (DrPose, 2603.02619); any sampler.
        gaussian: the exact KL divergence of the transition densities N(mean, std^2 I) per dimension,
            mean((mean - mean_ref)^2) / (2 std^2) (Fan et al. 2023, 2305.16381); stochastic samplers.
    """

    provides = frozenset({"kl"})

    def __init__(self, form: Literal["epsilon_mse", "gaussian"] = "epsilon_mse") -> None:
        self.form = form

    @staticmethod
    def needs_for(form: str = "epsilon_mse", **_: Any) -> frozenset[str]:
        return frozenset({"log_prob"}) if form == "gaussian" else frozenset()

    def __call__(self, new: Transition, reference: Transition) -> Tensor:
        if self.form == "epsilon_mse":
            if new.epsilon is None or reference.epsilon is None:
                raise ComponentError("kl (epsilon_mse) needs a sampler whose steps have a noise prediction")
            return (new.epsilon - reference.epsilon).square().flatten(1).mean(1)
        if new.mean is None or reference.mean is None or new.log_prob is None or new.std is None:
            raise ComponentError(
                "kl (gaussian): this step is deterministic, so the divergence of its densities is infinite. Use "
                "`form: epsilon_mse`, or train only steps that draw noise (eta > 0; DDIM's and DDPM's last step may "
                "have none, depending on the model's `set_alpha_to_one`)."
            )
        return (new.mean - reference.mean).square().flatten(1).mean(1) / (2 * new.std**2)
