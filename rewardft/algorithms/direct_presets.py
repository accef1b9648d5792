"""The published members of the direct-reward family, as settings of `Direct`.

    preset     select     train_steps  input_gradient  early_stop  resamples
    draft      last       all          through         -           0
    draft_k    last       K            through         -           0
    draft_lv   last       1            through         -           n
    alignprop  truncated  T - tau      through         -           0
    refl       last       1            stopped         m           0
    drtune     spaced     K            stopped         m           0

DRaFT, DRaFT-K and DRaFT-LV: Clark et al. 2023, 2309.17400. AlignProp: Prabhudesai et al. 2023,
2310.03739. ReFL: Xu et al. 2023, 2304.05977. DRTune: Wu et al. 2024, 2405.00760, as DrPose uses it.
"""

from __future__ import annotations

from typing import Literal

from rewardft.algorithms.direct import Direct
from rewardft.algorithms.loss_shapes import Shape
from rewardft.recipe.bounds import Count, CountOrZero


def draft(shape: Shape = "negative", target: float = 0.0, scale: float = 1.0) -> Direct:
    """DRaFT (2309.17400): back-propagate through the whole sampling chain."""
    return Direct("last", None, True, shape=shape, target=target, scale=scale)


def draft_k(
    train_steps: Count = 1, shape: Shape = "negative", target: float = 0.0, scale: float = 1.0
) -> Direct:
    """DRaFT-K (2309.17400): back-propagate through the last K sampling steps."""
    return Direct("last", train_steps, True, shape=shape, target=target, scale=scale)


def draft_lv(
    resamples: Count = 2, shape: Shape = "negative", target: float = 0.0, scale: float = 1.0
) -> Direct:
    """DRaFT-LV (2309.17400): the last step only, its gradient averaged over n noisings of the
    finished sample."""
    return Direct("last", 1, True, resamples=resamples, shape=shape, target=target, scale=scale)


def alignprop(
    truncation: Literal["gaussian", "uniform"] = "gaussian",
    shape: Shape = "negative",
    target: float = 0.0,
    scale: float = 1.0,
) -> Direct:
    """AlignProp (2310.03739): back-propagate from the end to a truncation point drawn once per
    optimizer step."""
    return Direct(
        "truncated", None, True, truncation=truncation, shape=shape, target=target, scale=scale
    )


def refl(
    early_stop: Count = 10, shape: Shape = "hinge", target: float = 2.0, scale: float = 1e-3
) -> Direct:
    """ReFL (2304.05977): one random late step and its one-step estimate of x0; loss
    1e-3 * relu(2 - r) as released."""
    return Direct("last", 1, False, early_stop=early_stop, shape=shape, target=target, scale=scale)


def drtune(
    train_steps: Count = 2,
    early_stop: CountOrZero = 8,
    shape: Shape = "one_minus",
    target: float = 0.0,
    scale: float = 1.0,
) -> Direct:
    """DRTune (2405.00760): K spaced steps, gradient stopped at the denoiser's input, early stop in
    the last m (DrPose: 2 and 8)."""
    return Direct("spaced", train_steps, False, early_stop, shape=shape, target=target, scale=scale)


# What a preset needs is read off the factory, before anything is built.
for _preset in (draft, draft_k, draft_lv, alignprop, refl, drtune):
    _preset.needs = Direct.needs  # type: ignore[union-attr]
draft_lv.needs = Direct.needs | {"renoise"}  # type: ignore[attr-defined]
