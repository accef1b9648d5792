"""Policy gradients over the denoising steps: DDPO and DPOK.

Rewards need no gradient; samplers must draw noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from .ddpo import DDPO
    from .dpok import DPOK

    return {"ddpo": DDPO, "dpok": DPOK}
