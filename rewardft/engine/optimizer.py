"""The optimizer and the learning-rate schedule of a run, and the update that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from rewardft.engine.ema import Ema
from rewardft.errors import ComponentError
from rewardft.recipe.recipe import Recipe


def build_optimizer(
    recipe: Recipe, plugins: Any, parameters: list[nn.Parameter]
) -> optim.Optimizer:
    """Ask the plugins, the core last. Raises ComponentError for an unknown optimizer."""
    options = recipe.optimizer.as_options()
    optimizer = plugins.call("create_optimizer", parameters=parameters, options=options)
    if optimizer is None:
        raise ComponentError(
            f"optimizer.use: unknown optimizer {options['use']!r}. The core has 'adamw'; a plugin "
            "adds others with the hook `create_optimizer`."
        )
    if not isinstance(optimizer, optim.Optimizer):
        raise ComponentError(
            f"optimizer.use: hook 'create_optimizer' returned {optimizer!r:.60} "
            f"({type(optimizer).__name__}) for {options['use']!r}; expected a torch optimizer, or "
            "None to leave it to others. Plugins with this hook: "
            f"{plugins.places('create_optimizer')}."
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
            # Not step / warmup: the first update would have rate 0 and be wasted.
            return (step + 1) / warmup
        # Past the last step the factor stays where it ended.
        done = min((step - warmup) / max(steps - warmup, 1), 1.0)
        decay: Mapping[str, float] = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
        }
        return decay[schedule]

    return factor


class Updater:
    """Takes optimizer steps: clips, updates, moves the schedule and the average on.

    is_whole: False only inside an update, where weights, optimizer and schedule are of different
        steps.
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        optimizer: optim.Optimizer,
        schedule: optim.lr_scheduler.LambdaLR,
        ema: Ema,
        clip_norm: float | None,
    ) -> None:
        self.parameters, self.optimizer, self.schedule = parameters, optimizer, schedule
        self.ema = ema
        self.limit = math.inf if clip_norm is None else clip_norm
        self.is_whole = True

    def clip(self) -> Tensor | None:
        """The norm of the gradient before it was clipped; None where it is NaN or infinite, and
        nothing was clipped."""
        clip = torch.nn.utils.clip_grad_norm_
        try:
            # Without the flag an infinite norm would scale all gradients to 0, or to NaN.
            return clip(self.parameters, self.limit, error_if_nonfinite=True)
        except RuntimeError as error:
            if "non-finite" not in str(error):
                raise
            return None

    def update(self, step: int) -> float:
        """Change the weights by the gradients, which are used up; returns the learning rate that
        did it.

        step: the number of this update, counted from 1.
        """
        # Before the schedule moves on: this is the rate that the update is made with.
        (rate, *_) = self.schedule.get_last_lr()
        # A failure between these lines leaves weights and optimizer of different steps, which no
        # checkpoint may hold.
        self.is_whole = False
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(step)
        self.is_whole = True
        # None and not zeros: no memory is held, and the next audit tells a missing gradient from 0.
        self.optimizer.zero_grad(set_to_none=True)
        return float(rate)

    @property
    def is_good(self) -> bool:
        """Whether the weights are of one step, and all of them are numbers."""
        return self.is_whole and all(bool(torch.isfinite(p).all()) for p in self.parameters)
