"""`flux`: FLUX.1 dev and schnell (Black Forest Labs 2024),
a transformer over 2x2 blocks of latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative

from .family import LatentModel
from .guidance import Condition
from .schedules import load_flow_schedule
from .source import DTYPES
from .text import Embedding, TextEncoder


@dataclass(kw_only=True, eq=False)
class Flux(LatentModel):
    """FLUX.1: a transformer over image and T5 tokens, with CLIP's pooled output.

    Latents are packed into tokens inside; samplers and rewards see `(b, c, h, w)`.

    Args:
        guidance: the scale that dev was distilled with: an input of the network, never a second
            pass. schnell has no such input and takes 1.
        t5_length: tokens that T5 reads (dev: 512, schnell: 256).
    """

    guidance: NotNegative = 3.5
    t5_length: Count = 512

    denoiser: ClassVar = ("FluxTransformer2DModel", "transformer")
    kohya_prefix: ClassVar = "lora_transformer_"
    patch: ClassVar = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.config.guidance_embeds and self.guidance != 1:
            raise ComponentError(
                f"{self.source.place('transformer')} was not distilled with guidance (it is "
                f"schnell): `guidance: {self.guidance:g}` would do nothing. Write `guidance: 1`."
            )
        if self.negative_prompt is not None:
            raise ComponentError(
                "flux runs without an unconditional pass; leave `negative_prompt` out"
            )

    def load_encoders(self) -> dict[str, TextEncoder]:
        dtype = DTYPES[self.dtype]
        return {
            "clip": TextEncoder.load(self.source, "CLIPTextModel", 1, dtype),
            "t5": TextEncoder.load(self.source, "T5EncoderModel", 2, dtype, self.t5_length),
        }

    def load_scheduler(self) -> Any:
        height, width = self.latent_size
        # One token for each 2 x 2 block of latents.
        return load_flow_schedule(self.source, height * width // 4, unit_grid=True)

    def default_size(self) -> int:
        # The transformer's config has no size; 128 latents are the 1024 pixels it was trained at.
        return 128

    def embed(self, prompt: str) -> Embedding:
        """text `(tokens, width)` of T5, pooled `(width,)` of CLIP."""
        text = self.encoders["t5"](prompt).last_hidden_state[0]
        return {"text": text, "pooled": self.encoders["clip"](prompt).pooler_output[0]}

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.predict(x.to(self.network_dtype), t, cond)

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        b, c, h, w = x.shape
        # (b, c, h, w) -> (b, tokens, 4 c): a block's four latents beside each other, per channel.
        tokens = (
            x.view(b, c, h // 2, 2, w // 2, 2)
            .permute(0, 2, 4, 1, 3, 5)
            .reshape(b, h * w // 4, 4 * c)
        )
        # (tokens, 3): a text axis that is 0 for images, then row and column. Made where x is, as
        # the host would wait for a copy at every call.
        text_axis, row, column = (torch.arange(n, device=x.device) for n in (1, h // 2, w // 2))
        places = torch.cartesian_prod(text_axis, row, column).to(x.dtype)
        text = cond["text"].to(x.dtype)
        guidance = (
            torch.full((b,), float(self.guidance), device=x.device)
            if self.config.guidance_embeds
            else None
        )
        # Timesteps run to 1000; this network takes the noise level, in [0, 1].
        output: Tensor = self.trainable(
            hidden_states=tokens,
            timestep=t.to(x.dtype) / 1000,
            guidance=guidance,
            encoder_hidden_states=text,
            pooled_projections=cond["pooled"].to(x.dtype),
            img_ids=places,
            txt_ids=text.new_zeros(text.shape[1], 3),
        ).sample
        # The packing, turned round.
        return output.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)
