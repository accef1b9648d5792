"""Any family of diffusers' modular pipelines as one model: images, videos and edits.

Registers the model `modular`. There is no code per family: a pipeline is loaded (`loading.py`), its
blocks are run from outside (`blocks.py`), and `model.py` puts the contract of a diffusion model
around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl


@hookimpl
def register_models() -> Mapping[str, Callable[..., Any]]:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.modular.from_weights import ModularFromWeights

    return {"modular": ModularFromWeights}
