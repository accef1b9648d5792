"""The smallest complete plugin: a reward and a stopping rule, on the tiny CPU model.

Read it to see what a plugin looks like; its recipes (`toy_draft`, `toy_drtune`, ...) run in
seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl
from rewardft.testing.tiny import TinyBlobs, TinyModel

if TYPE_CHECKING:
    from torch import Tensor

    from rewardft import Batch, Rollout

Factories = Mapping[str, Callable[..., Any]]


def brightness(rollout: Rollout, batch: Batch, *, target: float = 0.9) -> Tensor:
    """Minus the squared distance of an image's mean pixel to `target`: in [-1, 0],
    higher is better.

    Args:
        target: the brightness that is wanted, from 0 to 1.
    """
    # Squared, so that the gradient fades as the target comes near.
    return -((rollout.decoded.flatten(1).mean(1) - target) ** 2)


@hookimpl
def register_models() -> Factories:
    return {"toy": TinyModel}


@hookimpl
def register_datasets() -> Factories:
    return {"toy_blobs": TinyBlobs}


@hookimpl
def register_rewards() -> Factories:
    return {"brightness": brightness}


@hookimpl
def stop_run(metrics: Mapping[str, float]) -> str | None:
    """Brightness cannot exceed 0; a run that is there has nothing left to learn."""
    # Where the metric is missing, -1 keeps the run going.
    return (
        "brightness reached its maximum" if metrics.get("reward/brightness", -1.0) > -1e-7 else None
    )
