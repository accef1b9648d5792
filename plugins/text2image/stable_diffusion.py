"""`stable_diffusion`: Stable Diffusion 1.x and 2.x (Rombach et al. 2022,
2112.10752), epsilon and v."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .family import LatentModel
from .guidance import Condition
from .source import DTYPES
from .text import Embedding, TextEncoder


@dataclass(kw_only=True, eq=False)
class StableDiffusion(LatentModel):
    """Stable Diffusion 1.x and 2.x: a U-Net on latents with cross-attention to the last layer of
    CLIP."""

    denoiser: ClassVar = ("UNet2DConditionModel", "unet")

    def load_encoders(self) -> dict[str, TextEncoder]:
        return {"clip": TextEncoder.load(self.source, "CLIPTextModel", 1, DTYPES[self.dtype])}

    def embed(self, prompt: str) -> Embedding:
        """text `(tokens, width)`."""
        return {"text": self.encoders["clip"](prompt).last_hidden_state[0]}

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        output: Tensor = self.trainable(x, t, encoder_hidden_states=cond["text"].to(x.dtype)).sample
        return output
