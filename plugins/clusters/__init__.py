"""Comparisons on a cluster whose machines see the same files: the launchers `slurm` and `ray`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_launchers() -> Factories:
    # Imported inside the hook, so that loading the plugin alone costs nothing.
    from .ray_tasks import RayTasks
    from .slurm import Slurm

    return {"slurm": Slurm, "ray": RayTasks}
