"""The optimizer and the learning-rate schedule of a run, and the update that they make."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn, optim

from rewardft.engine.ema import Ema
from rewardft.errors import ComponentError, did_you_mean
from rewardft.recipe.recipe import Recipe


def rates_of(model: Any) -> dict[str, float]:
    """Factors of the learning rate for parts of a model that names some, as `parameter_groups`."""
    rates: dict[str, float] = getattr(model, "parameter_groups", dict)()
    return rates


def build_optimizer(
    recipe: Recipe, plugins: Any, named: Mapping[str, nn.Parameter], rates: Mapping[str, float]
) -> optim.Optimizer:
    """Ask the plugins, the core last. Raises ComponentError for an unknown optimizer.

    rates: of the model's parameter groups, see `grouped`.
    """
    options = recipe.optimizer.as_options()
    parameters = grouped(named, rates, recipe.optimizer.lr) if rates else list(named.values())
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


def grouped(
    named: Mapping[str, nn.Parameter], rates: Mapping[str, float], lr: float
) -> list[dict[str, Any]]:
    """torch's parameter groups; what no name of `rates` stands for is in one called `rest`.

    rates: learning rates by the name of a parameter or of a module that holds some, in units of
        `lr`. Raises ComponentError for a name that is of nothing trained, and for a rate that is
        not positive.
    """
    groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
    for name, parameter in named.items():
        owners = [key for key in rates if name == key or name.startswith(f"{key}.")]
        # The longest: `head.bias` has a rate of its own beside `head`.
        groups.setdefault(max(owners, key=len, default="rest"), []).append(parameter)
    for name, found in groups.items():
        if not found or rates.get(name, 1.0) <= 0:
            known = sorted({key.partition(".")[0] for key in named})
            raise ComponentError(
                f"the model gives the parameter group {name!r} the learning rate "
                f"{rates.get(name, 1.0):g} times the recipe's. Expected a factor > 0 for something "
                f"that is trained: {', '.join(known)}.{did_you_mean(name, known)}"
            )
    return [
        {"name": name, "params": found, "lr": lr * rates.get(name, 1.0)}
        for name, found in groups.items()
    ]


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

    def update(self, step: int) -> dict[str, float]:
        """Change the weights by the gradients, which are used up; returns the learning rates that
        did it: the first group's as `learning_rate`, and that of each with a name.

        step: the number of this update, counted from 1.
        """
        # Before the schedule moves on: these are the rates that the update is made with.
        rates = self.rates()
        # A failure between these lines leaves weights and optimizer of different steps, which no
        # checkpoint may hold.
        self.is_whole = False
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(step)
        self.is_whole = True
        # None and not zeros: no memory is held, and the next audit tells a missing gradient from 0.
        self.optimizer.zero_grad(set_to_none=True)
        return rates

    def forget(self, parameter: nn.Parameter, where: Tensor) -> None:
        """Begin anew for the entries of `parameter` that the mask `where` names, `(n, ...)` along
        its first dimensions: what the optimizer remembers of them becomes 0, and their average what
        they are now."""
        self.ema.forget(parameter, where)
        for value in self.optimizer.state.get(parameter, {}).values():
            # The count of steps is one for the whole tensor and stays.
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[where] = 0

    def rates(self) -> dict[str, float]:
        """Learning rates as they are now, by the names in the logs."""
        now = [float(rate) for rate in self.schedule.get_last_lr()]
        groups = zip(self.optimizer.param_groups, now)
        named = {f"learning_rate/{g['name']}": rate for g, rate in groups if "name" in g}
        return {"learning_rate": now[0], **named}

    @property
    def is_good(self) -> bool:
        """Whether the weights are of one step, and all of them are numbers."""
        return self.is_whole and all(bool(torch.isfinite(p).all()) for p in self.parameters)
