"""Read and write the plugin's networks: float16 safetensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rewardft.files import weights

ASSETS = Path(__file__).parent / "assets"


load_weights = partial(weights.load_weights, made_by="a command under `rewardft adhmr`")
save_weights = weights.save_weights
