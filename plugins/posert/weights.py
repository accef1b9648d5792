"""Read and write the plugin's networks: float16 safetensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rewardft.files import weights

ASSETS = Path(__file__).parent / "assets"
SHIPPED = "shipped"


def find(given: str, shipped: str) -> Path:
    """The path that an option names: a file of the plugin's, or one of the user's."""
    return ASSETS / shipped if given == SHIPPED else Path(given).expanduser()


load_weights = partial(weights.load_weights, made_by="a command under `rewardft posert`")
save_weights = weights.save_weights
