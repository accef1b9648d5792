"""`sdxl`: Stable Diffusion XL (Podell et al. 2023, 2307.01952),
the base model without the refiner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rewardft.recipe.bounds import NotNegative

from .family import LatentModel
from .guidance import Condition
from .source import DTYPES
from .text import Embedding, TextEncoder


@dataclass(kw_only=True, eq=False)
class StableDiffusionXL(LatentModel):
    """Stable Diffusion XL: a U-Net on latents, conditioned on two CLIP encoders and on the image
    size.

    Without a `negative_prompt` guidance leads away from embeddings of zeros, as in training.
    """

    guidance: NotNegative = 5.0

    denoiser: ClassVar = ("UNet2DConditionModel", "unet")

    def load_encoders(self) -> dict[str, TextEncoder]:
        dtype = DTYPES[self.dtype]
        return {
            "small": TextEncoder.load(self.source, "CLIPTextModel", 1, dtype),
            "large": TextEncoder.load(self.source, "CLIPTextModelWithProjection", 2, dtype),
        }

    def embed(self, prompt: str) -> Embedding:
        """text `(tokens, width)`: the last layer but one of both;
        pooled `(width,)`: the projection of the second."""
        small, large = self.encoders["small"](prompt), self.encoders["large"](prompt)
        # (1, tokens, 768 + 1280) of the published encoders; the last layer is for CLIP's own loss.
        text = torch.cat([small.hidden_states[-2], large.hidden_states[-2]], dim=-1)
        return {"text": text[0], "pooled": large.text_embeds[0]}

    def null_embedding(self) -> Condition:
        if self.negative_prompt is not None:
            return super().null_embedding()
        # Training dropped the condition to zeros, not to the empty prompt.
        return {name: torch.zeros_like(value) for name, value in self.embedded([""]).items()}

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        height, width = (factor * side for side in self.latent_size)
        # Original size, corner of the crop, target size: a picture that was never scaled or cut.
        sizes = [height, width, 0, 0, height, width]
        added = {
            "text_embeds": cond["pooled"].to(x.dtype),
            "time_ids": torch.tensor([sizes], dtype=x.dtype, device=x.device).expand(len(x), -1),
        }
        text = cond["text"].to(x.dtype)
        output: Tensor = self.trainable(
            x, t, encoder_hidden_states=text, added_cond_kwargs=added
        ).sample
        return output
