"""Metrics of sets of samples: is the model still as varied as before, and do its pictures still
have the same brightness, contrast and colour?

Registers the metrics `diversity` and `image_statistics`. They need no weights and no reward; the
alarms of an evaluation watch them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_metrics() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from .diversity import Diversity
    from .image_statistics import ImageStatistics

    return {"diversity": Diversity, "image_statistics": ImageStatistics}
