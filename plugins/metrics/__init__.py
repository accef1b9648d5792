"""Metrics of sets of samples: is the model still as varied as before, do its pictures still look
like its pictures?

Registers the metrics `diversity` and `image_statistics`. They need no weights and know no reward;
the alarms of an evaluation watch them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_metrics() -> Factories:
    from .diversity import Diversity
    from .image_statistics import ImageStatistics

    return {"diversity": Diversity, "image_statistics": ImageStatistics}
