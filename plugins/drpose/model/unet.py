"""The denoiser: diffusers' `UNet2DConditionModel` with multi-view transformer blocks, and its
condition.

Rows of one sample are (domain, view): domain 0 is the normal map, 1 the colour; the views are
front, front_right, right, back, left, front_left and, with `face`, the face crop. Inside the
network a batch is ordered (domain, sample, view), as in PSHuman. Back and left views (3, 4) are
mirrored, like their targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS, replace_blocks
from torch import Tensor, nn

Condition = Mapping[str, Tensor]  # tensors with the sample as leading dimension

# SD-2.1-unCLIP's schedule. With "trailing" spacing a chain starts at the last timestep, the noise
# that the model was trained to start from, however few the steps.
MINI_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "rescale_betas_zero_snr": False,
}
MINI_TOKEN_DIM = 96
MINI_VECTOR_DIM = 64
# 8 latent channels, 16 x 16 latents; attention at 8 x 8 and 4 x 4. Chosen by speed on one CPU
# thread.
MINI_UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 16,
    "out_channels": 8,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 64, 96],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 2,  # the number of heads: diffusers misnames it
    "cross_attention_dim": MINI_TOKEN_DIM,
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": MINI_VECTOR_DIM,
}


def to_published_order(x: Tensor) -> Tensor:
    """`(b, 2 v, ...)` -> `(2 b v, ...)`, rows ordered (domain, sample, view)."""
    return x.unflatten(1, (DOMAINS, -1)).transpose(0, 1).flatten(0, 2)


def from_published_order(rows: Tensor, samples: int) -> Tensor:
    """Inverse of `to_published_order`: `(2 b v, ...)` -> `(b, 2 v, ...)`."""
    return rows.unflatten(0, (DOMAINS, samples, -1)).transpose(0, 1).flatten(1, 2)


def build_unet(config: Mapping[str, Any], *, face: bool = False) -> Any:
    """A diffusers `UNet2DConditionModel` of this configuration with PSHuman's order of
    attention."""
    unet: Any = UNet2DConditionModel(**config)  # untyped to type checkers
    replace_blocks(unet, face=face)
    return unet


class MiniConditioner(nn.Module):
    """Condition of the miniature, learned with the U-Net: tokens of the image and one token for
    each (domain, view).

    Its second output takes the place of the unCLIP image embedding: a vector added to the time
    embedding. The vector also carries the row, so that layers without attention know their domain
    and view.
    """

    def __init__(self, rows: int, channels: int) -> None:
        super().__init__()
        dim, vector_dim = MINI_TOKEN_DIM, MINI_VECTOR_DIM
        # What the text embeddings are at full size: they say which row is which.
        self.row_tokens = nn.Parameter(torch.randn(rows, 1, dim))
        self.row_vectors = nn.Parameter(torch.randn(rows, vector_dim))
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 48, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(96, dim, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(torch.randn(16, dim) * 0.5)
        self.norm = nn.LayerNorm(dim)
        self.to_vector = nn.Linear(16 * dim, vector_dim)

    def forward(self, cond: Condition) -> tuple[Tensor, Tensor]:
        """Latents `(b, 1 or 2, c, 16, 16)` -> tokens `(b, rows, 17, dim)` and vectors `(b, rows,
        vector_dim)`."""
        # 16 tokens of the picture: 16 x 16 latents, halved twice.
        image = self.norm(
            self.encoder(cond["latents"][:, 0]).flatten(2).transpose(1, 2) + self.position
        )
        rows = len(self.row_tokens)
        tokens = torch.cat(
            [
                self.row_tokens.expand(len(image), -1, -1, -1),
                image[:, None].expand(-1, rows, -1, -1),
            ],
            dim=2,
        )
        return tokens, self.row_vectors + self.to_vector(image.flatten(1))[:, None]


class MultiviewDenoiser(nn.Module):
    """What is trained: the U-Net and, in the miniature, the layers that turn the condition into
    tokens."""

    def __init__(self, unet: Any, conditioner: nn.Module, *, face: bool = False) -> None:
        super().__init__()
        self.unet: Any = unet
        self.conditioner = conditioner
        self.views = BODY_VIEWS + face

    def forward(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """States `(b, 2 v, c, h, w)`, timesteps `(b,)` -> the network's raw output, shaped as x.

        With guidance the caller stacks the unconditional samples before the conditional ones, which
        in the network's order gives the rows [normal_uncond, normal_cond, colour_uncond,
        colour_cond].
        """
        tokens, vectors = self.conditioner(cond)
        image = self.condition_rows(cond["latents"])
        parts = [x, image.to(x.dtype)]
        if "smpl" in cond:
            parts.append(cond["smpl"].repeat(1, DOMAINS, 1, 1, 1).to(x.dtype))
        rows = to_published_order(torch.cat(parts, dim=2))
        # A timestep for every row; all rows of a sample share it.
        steps = to_published_order(t[:, None].expand(-1, x.shape[1]))
        words, labels = to_published_order(tokens), to_published_order(vectors)
        output = self.unet(rows, steps, words, class_labels=labels, return_dict=False)[0]
        return from_published_order(output, len(x))

    def condition_rows(self, latents: Tensor) -> Tensor:
        """Repeat the latents of the image, or of image and face `(b, 1 or 2, c, h, w)`, over rows:
        `(b, 2 v, ...)`."""
        # (b, 6, c, h, w), a view without copies.
        body = latents[:, :1].expand(-1, BODY_VIEWS, -1, -1, -1)
        return torch.cat([body, latents[:, 1:]], dim=1).repeat(1, DOMAINS, 1, 1, 1)
