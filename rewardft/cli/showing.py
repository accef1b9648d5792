"""`show`: what every name in a recipe resolved to, and what would be trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rewardft.cli.running import Ready, prepare
from rewardft.cli.tables import print_table
from rewardft.files.surroundings import put_back
from rewardft.plugins.component import Component
from rewardft.plugins.entries import SINGULAR, plain_callable
from rewardft.plugins.resolve import Resolved

if TYPE_CHECKING:
    from torch import nn

_ADAMW_BYTES = 8  # two moments in float32


def show_recipe(name: str, overrides: Sequence[str], load: bool) -> None:
    """Print components with their options, then the training figures;
    with `load` those that need the model too."""
    ready = prepare(name, overrides)
    rows = [_component_row(component, ready.resolved) for component in ready.resolved.components()]
    print_table("components", ("kind", "name", "class or function", "file", "plugin"), rows)
    print_table("options", ("component", "option", "value"), list(_option_rows(ready.resolved)))
    figures = list(training_figures(ready))
    print_table("training", ("what", "value"), figures + (model_figures(ready) if load else []))


def _role(component: Component, resolved: Resolved) -> str:
    """What tells the evaluation's sampler from the one that the run trains with."""
    return "evaluation's " if component is resolved.eval_sampler else ""


def _component_row(component: Component, resolved: Resolved) -> tuple[str, ...]:
    entry = component.entry
    target = plain_callable(entry.factory)
    plugin = f"{entry.plugin} {entry.version}" if entry.version else entry.plugin
    kind = _role(component, resolved) + SINGULAR[entry.kind]
    return kind, entry.name, getattr(target, "__qualname__", str(target)), entry.location, plugin


def _option_rows(resolved: Resolved) -> Iterator[tuple[str, ...]]:
    for component in resolved.components():
        for option, value in component.all_options.items():
            default = "" if option in component.options else " (default)"
            yield _role(component, resolved) + component.entry.title, option, f"{value!r}{default}"


def training_figures(ready: Ready) -> Iterator[tuple[str, str]]:
    """What the recipe alone says."""
    recipe = ready.recipe
    size, accumulate = recipe.data.batch_size, recipe.train.accumulate
    yield "optimizer steps", str(recipe.train.steps)
    yield (
        "effective batch",
        f"{size * accumulate} samples per process (batch {size} x accumulate {accumulate})",
    )
    yield (
        "optimizer",
        f"{recipe.optimizer.use}, lr {recipe.optimizer.lr:g}, {recipe.optimizer.schedule}",
    )
    yield "tags", ", ".join(sorted(ready.resolved.tags)) or "none"


@put_back()
def model_figures(ready: Ready) -> list[tuple[str, str]]:
    """What only the built model can say: parameters,
    and the memory that does not depend on activations."""
    import torch

    from rewardft.engine.session import build_session

    # On the CPU: to count parameters no GPU is needed, and none may be free.
    session = build_session(ready.recipe, ready.resolved, torch.device("cpu"))
    trained = session.adapter.parameters
    # By identity: weights that two modules share are in memory once.
    everything = {id(p): p for module in _modules(session.model) for p in module.parameters()}
    count, total = sum(p.numel() for p in trained), sum(p.numel() for p in everything.values())
    weights = sum(p.numel() * p.element_size() for p in everything.values())
    # Bytes: a gradient in the weight's own precision, and AdamW's moments.
    training = sum(p.numel() * (p.element_size() + _ADAMW_BYTES) for p in trained)
    return [
        (
            "parameters trained",
            f"{count:,} of {total:,} ({count / total:.2%}), {ready.recipe.adapter.kind}",
        ),
        ("memory, model weights", _megabytes(weights)),
        ("memory, gradients and AdamW state", _megabytes(training)),
        (
            "memory, activations",
            "one denoiser graph at a time, whatever the number of steps; measured, not estimated",
        ),
    ]


def _modules(model: Any) -> list[nn.Module]:
    """The networks of a model, whether it is a module or an object that holds some."""
    from torch import nn

    parts = [model] if isinstance(model, nn.Module) else vars(model).values()
    return [model.trainable, *(part for part in parts if isinstance(part, nn.Module))]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
