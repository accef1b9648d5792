"""Edits of pictures: a data set of them, and a reward for what an edit leaves alone.

Registers the data set `edits` and the reward `preservation`. The direction of an edit in CLIP's
space is the reward `clip_direction` of the plugin `rewards`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl


@hookimpl
def register_datasets() -> Mapping[str, Callable[..., Any]]:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.editing.data import Edits

    return {"edits": Edits}


@hookimpl
def register_rewards() -> Mapping[str, Callable[..., Any]]:
    from rewardft_plugins.editing.preservation import preservation

    return {"preservation": preservation}
