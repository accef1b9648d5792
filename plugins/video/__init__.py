"""Rewards of videos: image rewards over frames, steadiness and motion.

They read decoded samples `(b, frames, c, h, w)` in [0, 1], whatever model made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl


@hookimpl
def register_rewards() -> Mapping[str, Callable[..., Any]]:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.video import frames, motion

    return {
        "per_frame": frames.PerFrame,
        "motion_amount": motion.motion_amount,
        "temporal_consistency": motion.temporal_consistency,
    }
