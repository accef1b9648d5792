"""The plugin's small networks: where they lie, and the command that writes such files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rewardft.files import weights

ASSETS = Path(__file__).parent / "assets"

load_weights = partial(weights.load_weights, made_by="a command under `rewardft digits`")
save_weights = weights.save_weights
