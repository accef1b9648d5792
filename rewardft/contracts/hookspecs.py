"""Every hook that a plugin can implement. This file is the reference; `docs/hooks.md` explains it.

Registration hooks return `{name: factory}` and are called once, before training. Questions are
asked before training (`check_recipe`) or once per optimizer step (`stop_run`). Observers return
nothing and may change nothing. No hook runs inside autograd, per denoising step or in checkpointed
code. Hooks fire on every process (`run.is_main` tells which).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn, optim

    from rewardft.contracts.alarm import Alarm
    from rewardft.contracts.records import ComparisonRecord, Section
    from rewardft.contracts.run import Run
    from rewardft.recipe.recipe import Recipe
    from rewardft.types import Rollout

# Specifications are never called; their bodies raise, as a None would look like an answer.
hookspec = pluggy.HookspecMarker("rewardft")
hookimpl = pluggy.HookimplMarker("rewardft")

# Called once, when the recipe's components are looked up; the factories run later.
Factories = Mapping[str, Callable[..., Any]]


@hookspec
def register_models() -> Factories:
    """Model families: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Model`."""
    raise NotImplementedError


@hookspec
def register_samplers() -> Factories:
    """Samplers: `{name: factory}`; the factory returns a `rewardft.contracts.protocols.Sampler`."""
    raise NotImplementedError


@hookspec
def register_algorithms() -> Factories:
    """Algorithms: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Algorithm`."""
    raise NotImplementedError


@hookspec
def register_rewards() -> Factories:
    """Rewards: `{name: factory}`.

    A plain function `(rollout, batch) -> (b,)` is registered as it is.
    """
    raise NotImplementedError


@hookspec
def register_regularizers() -> Factories:
    """Regularizers: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Regularizer`."""
    raise NotImplementedError


@hookspec
def register_datasets() -> Factories:
    """Data sets: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Dataset`."""
    raise NotImplementedError


@hookspec
def register_metrics() -> Factories:
    """Held-out metrics: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Metric`."""
    raise NotImplementedError


@hookspec
def register_launchers() -> Factories:
    """Launchers of comparisons: `{name: factory}`; the factory returns a
    `rewardft.contracts.protocols.Launcher`."""
    raise NotImplementedError


@hookspec
def register_commands() -> Factories:
    """Sub-commands of the command line: `{name: typer.Typer or function}`, shown as
    `rewardft NAME ...`."""
    raise NotImplementedError


@hookspec
def check_recipe(recipe: Recipe) -> Iterable[str] | None:
    """Object to a recipe before anything is built: return problems as sentences, or nothing."""
    raise NotImplementedError


# firstresult: the first answer that is not None ends the asking.
@hookspec(firstresult=True)
def create_optimizer(
    parameters: list[nn.Parameter] | list[dict[str, Any]], options: Mapping[str, Any]
) -> optim.Optimizer | None:
    """Build the optimizer that the recipe's `optimizer.use` names, or return None to leave it to
    others.

    `parameters` are what torch's optimizers take; of a model with `parameter_groups`, groups with
    the keys `params`, `lr` and `name`. `options` is the recipe's optimizer section, `use` included.
    The last listed plugin is asked first; the core answers last with `adamw`.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def stop_run(run: Run, step: int, metrics: Mapping[str, float]) -> str | None:
    """Return the reason to end the run after this optimizer step, or None to go on."""
    raise NotImplementedError


@hookspec
def on_run_start(run: Run) -> None:
    """The run folder exists and everything is built; nothing has been trained."""
    raise NotImplementedError


@hookspec
def on_step_end(run: Run, step: int, metrics: Mapping[str, float], rollout: Rollout | None) -> None:
    """An optimizer step has been taken and its metrics have been read from the device."""
    raise NotImplementedError


@hookspec
def on_evaluation_end(
    run: Run,
    step: int,
    metrics: Mapping[str, float],
    rollout: Rollout | None,
    alarms: Sequence[Alarm],
) -> None:
    """An evaluation has finished; `rollout` holds the last evaluated batch, decoded lazily."""
    raise NotImplementedError


@hookspec
def on_samples_drawn(run: Run, step: int, path: Path) -> None:
    """A grid of held-out samples has been drawn, as the recipe's section `samples` asks for;
    called on the main process alone."""
    raise NotImplementedError


@hookspec
def on_checkpoint_saved(run: Run, step: int, path: Path) -> None:
    """A checkpoint has been written and renamed into its place;
    called on the main process alone."""
    raise NotImplementedError


@hookspec
def on_run_end(run: Run, summary: Mapping[str, Any]) -> None:
    """The run has finished its steps or was asked to stop; the final checkpoint is on disk."""
    raise NotImplementedError


@hookspec
def on_run_error(run: Run, step: int, error: BaseException) -> None:
    """The run is ending because of `error`.

    An exception raised here is reported but never replaces `error`.
    """
    raise NotImplementedError


@hookspec
def report_sections(record: ComparisonRecord, folder: Path) -> Sequence[Section] | None:
    """A comparison has been collected and is about to be reported;
    return sections to add to the report."""
    raise NotImplementedError
