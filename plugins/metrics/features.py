"""Features of pictures from a vision model in a local folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rewardft.errors import ComponentError

from .pictures import pictures_of


class FeatureExtractor:
    """A transformers vision model (ViT, DINO, CLIP, ...) as a function from pictures to vectors.

    The feature is the image embedding of a model that has one (CLIP), else the pooled output, else
    the mean of the last hidden states. Pictures are resized to the model's square with
    antialiasing, and normalised as its `preprocessor_config.json` says.

    Args:
        folder: what `save_pretrained` wrote, weights as safetensors. Nothing is downloaded.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.expanduser()
        # Read before the weights, which take longer and say less when the folder is the wrong one.
        facts = read_facts(folder)
        self.mean, self.std = (
            torch.tensor(facts[key]).view(-1, 1, 1) for key in ("image_mean", "image_std")
        )
        self.model = load_model(folder)
        config = getattr(self.model.config, "vision_config", self.model.config)
        # CLIP keeps the image encoder's sizes in a part of their own.
        self.size = int(config.image_size)

    @torch.no_grad()
    def __call__(self, decoded: Any) -> Tensor:
        """`(b, c, h, w)` or `(b, v, c, h, w)` in [0, 1] -> `(b, v * features)`: the views' features
        side by side."""
        # (b, v, c, h, w) in [0, 1].
        views = pictures_of(decoded, "diversity (features)")
        flat = views.flatten(0, 1)
        self.model.to(flat.device)
        # Vision models read three channels; a grey picture has them equal.
        flat = flat.expand(-1, 3, -1, -1) if flat.shape[1] == 1 else flat
        small = interpolate(
            flat, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
        )
        # Bicubic overshoots at edges; the model was trained on pictures within [0, 1].
        pixels = (small.clamp(0, 1) - self.mean.to(flat.device)) / self.std.to(flat.device)
        return self._features(pixels).unflatten(0, views.shape[:2]).flatten(1)

    def _features(self, pixels: Tensor) -> Tensor:
        # CLIP's own embedding is the projected one, which was trained to be compared by angle.
        embed = getattr(self.model, "get_image_features", None)
        output = embed(pixel_values=pixels) if embed else self.model(pixel_values=pixels)
        if isinstance(output, Tensor):
            return output
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        hidden: Tensor = output.last_hidden_state
        # Tokens (n, t, d) of a transformer; maps (n, d, h, w) of a convolutional network.
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def read_facts(folder: Path) -> dict[str, Any]:
    """Size and normalisation of the model's input. Raises ComponentError where the folder does not
    say."""
    path = folder / "preprocessor_config.json"
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ComponentError(
            f"diversity: {path} cannot be read ({type(error).__name__}). `features` is the folder "
            "of a transformers vision model with its preprocessor_config.json, as "
            "`save_pretrained` writes them."
        ) from error
    # Without them the network would see pictures that it was never trained on.
    missing = [key for key in ("image_mean", "image_std") if not isinstance(facts.get(key), list)]
    if missing:
        names = " and no list ".join(missing)
        raise ComponentError(
            f"diversity: {path} has no list {names}: the mean and deviation of pixels"
        )
    return facts


def load_model(folder: Path) -> Any:
    """The frozen model, float32. Raises ComponentError when it cannot be loaded."""
    try:
        from transformers import AutoModel
    except ImportError as error:
        raise ComponentError(
            "diversity: `features` needs transformers, which is not installed: pip install "
            "'rewardft[text2image]'"
        ) from error
    try:
        model = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ComponentError(
            f"diversity: the vision model in {folder} cannot be loaded: {error}"
        ) from error
    return model.requires_grad_(False).eval()
