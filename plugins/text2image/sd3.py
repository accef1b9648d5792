"""`sd3`: Stable Diffusion 3 and 3.5 (Esser et al. 2024, 2403.03206),
a transformer trained by flow matching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative

from .family import LatentModel
from .guidance import Condition
from .schedules import load_flow_schedule
from .source import DTYPES
from .text import Embedding, TextEncoder


@dataclass(kw_only=True, eq=False)
class StableDiffusion3(LatentModel):
    """Stable Diffusion 3 and 3.5: a transformer over image and text tokens, conditioned on two CLIP
    encoders and T5.

    Args:
        t5: use the third text encoder; without it (11 GB less in bf16) its tokens are zeros.
        t5_length: tokens that T5 reads.
    """

    guidance: NotNegative = 7.0
    t5: bool = True
    t5_length: Count = 256

    denoiser: ClassVar = ("SD3Transformer2DModel", "transformer")
    kohya_prefix: ClassVar = "lora_transformer_"
    lora_targets: ClassVar = (
        *LatentModel.lora_targets,
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )
    patch: ClassVar = 2

    def size_of_latents(self) -> tuple[int, int]:
        """Raises ComponentError also beyond the positions that the transformer was trained with."""
        # Said here, in pixels; the transformer says it at its first call, in patches.
        size = super().size_of_latents()
        limit, patch = self.config.pos_embed_max_size, self.config.patch_size
        if max(size) > limit * patch:
            pixels = limit * patch * 2 ** (len(self.vae.config.block_out_channels) - 1)
            raise ComponentError(
                f"height and width must be at most {pixels}, got {self.height} and {self.width}: "
                f"the transformer has {limit} positions a side (pos_embed_max_size)"
            )
        return size

    def load_encoders(self) -> dict[str, TextEncoder]:
        dtype, clip = DTYPES[self.dtype], "CLIPTextModelWithProjection"
        encoders = {
            name: TextEncoder.load(self.source, clip, i, dtype)
            for i, name in ((1, "small"), (2, "large"))
        }
        if self.t5:
            encoders["t5"] = TextEncoder.load(
                self.source, "T5EncoderModel", 3, dtype, self.t5_length
            )
        return encoders

    def load_scheduler(self) -> Any:
        height, width = self.latent_size
        return load_flow_schedule(
            self.source, (height // self.config.patch_size) * (width // self.config.patch_size)
        )

    def embed(self, prompt: str) -> Embedding:
        """text: CLIP's tokens, widened by zeros, then T5's `(tokens, width)`; pooled: both
        projections `(width,)`."""
        clips = [self.encoders[name](prompt) for name in ("small", "large")]
        # The last layer but one, as the model was trained; widths side by side.
        text = torch.cat([clip.hidden_states[-2][0] for clip in clips], dim=-1)
        width = int(self.config.joint_attention_dim)
        if self.t5:
            more = self.encoders["t5"](prompt).last_hidden_state[0].to(text)
        else:
            # As diffusers' pipeline does without its third encoder.
            more = text.new_zeros(self.t5_length, width)
        # CLIP's tokens first, widened to T5's width: the transformer reads one sequence.
        text = torch.cat([pad(text, (0, width - text.shape[-1])), more])
        return {"text": text, "pooled": torch.cat([clip.text_embeds[0] for clip in clips])}

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        text, pooled = cond["text"].to(x.dtype), cond["pooled"].to(x.dtype)
        output: Tensor = self.trainable(
            hidden_states=x, timestep=t, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
        return output
