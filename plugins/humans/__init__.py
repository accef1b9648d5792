"""People: bodies, motion clips, cameras, rendering, looks and skeletons.

The plugins about people build on these modules; alone, this one adds the commands under `rewardft
humans`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl


@hookimpl
def register_commands() -> Mapping[str, Callable[..., Any]]:
    from rewardft_plugins.humans.commands import app

    return {"humans": app}
