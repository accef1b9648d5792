"""The optimizer and the learning-rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn, optim

from rewardft.errors import ComponentError
from rewardft.recipe.recipe import Recipe


def build_optimizer(
    recipe: Recipe, plugins: Any, parameters: list[nn.Parameter]
) -> optim.Optimizer:
    """Ask the plugins, the core last. Raises ComponentError when nobody knows the optimizer."""
    options = recipe.optimizer.as_options()
    optimizer = plugins.call("create_optimizer", parameters=parameters, options=options)
    if optimizer is None:
        raise ComponentError(
            f"optimizer.use: nobody knows {options['use']!r}. The core has 'adamw'; a plugin adds "
            "others with the hook `create_optimizer`."
        )
    return optimizer


def build_schedule(recipe: Recipe, optimizer: optim.Optimizer) -> optim.lr_scheduler.LambdaLR:
    """The learning-rate schedule of the recipe, one step per optimizer step."""
    factor = learning_rate_factor(
        recipe.optimizer.schedule, recipe.optimizer.warmup, recipe.train.steps
    )
    return optim.lr_scheduler.LambdaLR(optimizer, factor)


def learning_rate_factor(schedule: str, warmup: int, steps: int) -> Callable[[int], float]:
    """Linear warm-up over `warmup` steps, then constant, linear to 0 or half a cosine to 0 at the
    last step."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min((step - warmup) / max(steps - warmup, 1), 1.0)
        decay: Mapping[str, float] = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }
        return decay[schedule]

    return factor
