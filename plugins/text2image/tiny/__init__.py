"""Checkpoints as they are published, of tiny random weights: what a recipe can be tried on without
a GPU.

Real classes throughout, text encoders and tokenizers included. Samples are noise.

    rewardft text2image tiny stable_diffusion tiny/sd

`stable_diffusion`, `sdxl`, `sd3` and `flux` are for the models of this plugin, the others for the
plugin `modular`.
"""

from __future__ import annotations

import json
from pathlib import Path

from rewardft.errors import DataError, did_you_mean
from rewardft.files.atomic import write_folder

FAMILIES = ("stable_diffusion", "sdxl", "sd3", "flux")
MODULAR = ("flux2_klein", "qwen_image", "z_image", "wan", "wan22")


def save(family: str, folder: Path) -> Path:
    """Write a family to a folder, in diffusers' layout; the weights are the same each time. A
    folder that it has made before is replaced.

    Raises DataError for a family that is not there, CheckpointError for somebody else's folder.
    """
    if family not in (known := FAMILIES + MODULAR):
        raise DataError(f"there is no tiny family {family!r}.{did_you_mean(family, known)}")
    write_folder(folder, lambda temporary: write_parts(family, temporary))
    return folder


def write_parts(family: str, folder: Path) -> None:
    """The parts of its pipeline, and the index that names their classes."""
    # Imported here, so that a name that is not there is told at once.
    import diffusers
    import torch

    from . import families

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        name, facts, parts = getattr(families, family)()
        index = {"_class_name": name, "_diffusers_version": diffusers.__version__, **facts}
        for part, made in parts.items():
            for weight in made.parameters() if isinstance(made, torch.nn.Module) else ():
                # A layer that begins at 0 would hide what is behind it.
                if not weight.any():
                    torch.nn.init.normal_(weight, std=0.02)
            made.save_pretrained(folder / part)
            index[part] = [type(made).__module__.split(".")[0], type(made).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
