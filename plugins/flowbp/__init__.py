"""Direct rewards through a shortened chain: FlowBP and LeapAlign, for flows and `flow_euler`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.flowbp.flow_bp import FlowBP
    from rewardft_plugins.flowbp.leap_align import LeapAlign

    return {"flow_bp": FlowBP, "leap_align": LeapAlign}
