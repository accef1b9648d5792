"""Text-to-image and class-conditional models from diffusers folders, and data sets of prompts,
labels and pictures.

Registers the models `stable_diffusion` (1.x and 2.x), `sdxl`, `sd3`, `flux`,
`class_conditional_unet` and `unconditional_unet`, the data sets `prompts`, `class_labels` and
`image_folder`, and the command `rewardft text2image tiny`. A family is one short file beside the
machinery that all share (`family.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from .class_conditional import ClassConditionalUNet
    from .flux import Flux
    from .sd3 import StableDiffusion3
    from .sdxl import StableDiffusionXL
    from .stable_diffusion import StableDiffusion
    from .unet import UnconditionalUNet

    return {
        "stable_diffusion": StableDiffusion,
        "sdxl": StableDiffusionXL,
        "sd3": StableDiffusion3,
        "flux": Flux,
        "class_conditional_unet": ClassConditionalUNet,
        "unconditional_unet": UnconditionalUNet,
    }


@hookimpl
def register_datasets() -> Factories:
    from .data import ClassLabels, Prompts
    from .images import ImageFolder

    return {"prompts": Prompts, "class_labels": ClassLabels, "image_folder": ImageFolder}


@hookimpl
def register_commands() -> Factories:
    from .commands import app

    return {"text2image": app}
