"""The transformer block of a multi-view human diffusion U-Net, in PSHuman's order of attention.

PSHuman (arXiv 2409.10141) generates normals and colours of six body views, and optionally of a crop
around the face, in one pass. Rows of a batch come in the order (domain, sample, view). A block then
does, each with a residual connection:

1. `attn1`: joint self-attention, the tokens of the normal and the colour map of one view attending
   to each other; with a face row, its output is blended into the head region of the front view
   (`fuse_face`);
2. `attn_mv`: row-wise multi-view attention, the tokens of one image row of the six body views
   attending to each other. Orthographic cameras at elevation 0 see a point of the body at the same
   height, so one row suffices;
3. `attn2`: cross-attention to the condition;
4. `ff`: feed-forward.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

DOMAINS = 2  # normal, colour
BODY_VIEWS = 6  # front, front_right, right, back, left, front_left


class CpuFriendlyAttention:
    """diffusers' attention arithmetic, with float32 attention when a CPU runs in lower precision.

    PyTorch's backward of attention in bfloat16 is some ten times slower on a CPU than in float32,
    which would cost more than bfloat16 saves everywhere else. On other devices, and in float32,
    this is `AttnProcessor2_0`'s arithmetic.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Tokens `(n, l, c)` attending to `(n, m, d)`, or to themselves."""
        if attention_mask is not None:
            raise ValueError("multi-view attention takes no attention mask, got one")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # (n, heads, l, c / heads).
        q, k, v = (
            to(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for to, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        # Autocast would cast the float32 inputs back.
        if q.device.type == "cpu" and q.dtype is torch.bfloat16:
            with torch.autocast("cpu", enabled=False):
                mixed = F.scaled_dot_product_attention(
                    q.float(), k.float(), v.float(), scale=attn.scale
                ).to(q.dtype)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=attn.scale)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def join_domains(tokens: Tensor) -> Tensor:
    """`(2 n, l, c)` in domain-major order -> `(n, 2 l, c)`: the two domains of a view become one
    sequence."""
    return torch.cat(tokens.chunk(DOMAINS), dim=1)


def split_domains(tokens: Tensor) -> Tensor:
    """Inverse of `join_domains`: `(n, 2 l, c)` -> `(2 n, l, c)`."""
    return torch.cat(tokens.chunk(DOMAINS, dim=1))


def square_side(tokens: int) -> int:
    """Side of a square map of `tokens` tokens. Raises ValueError when there is none."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise ValueError(
            f"multi-view attention expects square feature maps, got {tokens} tokens, which is not "
            "a square"
        )
    return side


def join_image_rows(tokens: Tensor, views: int) -> Tensor:
    """`(n views, h w, c)` -> `(n h, views w, c)`: one sequence for each image row of a sample,
    across its views."""
    side = square_side(tokens.shape[1])
    # Level orthographic cameras: a point of the body has the same height in every view.
    maps = tokens.unflatten(0, (-1, views)).unflatten(2, (side, side))  # (n, views, h, w, c)
    return maps.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def split_image_rows(rows: Tensor, views: int, side: int) -> Tensor:
    """Inverse of `join_image_rows`: `(n h, views w, c)` -> `(n views, h w, c)`."""
    maps = rows.unflatten(0, (-1, side)).unflatten(2, (views, side))  # (n, h, views, w, c)
    return maps.transpose(1, 2).flatten(2, 3).flatten(0, 1)


def fuse_face(tokens: Tensor) -> Tensor:
    """Blend the face row into the front view's top-centre third: `(n 7, h w, c)` -> the same shape.

    The face row is detached and resized to a third of the map; both maps weigh 0.5. It assumes that
    the head is in the top-centre third of the front view, which an inverted pose breaks.
    """
    side = square_side(tokens.shape[1])
    third = side // 3
    if third == 0:  # a 2 x 2 map has no third
        return tokens
    # (n, 7, c, h, w).
    rows = tokens.unflatten(0, (-1, BODY_VIEWS + 1))
    maps = rows.unflatten(2, (side, side)).permute(0, 1, 4, 2, 3)
    face = F.interpolate(maps[:, -1].detach(), (third, third), mode="bilinear", align_corners=False)
    blend = torch.zeros_like(maps[:, 0])
    # Half and half inside the head's region, the front view alone outside.
    weight = torch.zeros(side, side, dtype=maps.dtype, device=maps.device)
    weight[:third, third : 2 * third] = 0.5
    blend[..., :third, third : 2 * third] = face
    front = maps[:, 0] * (1 - weight) + blend * weight
    maps = torch.cat([front[:, None], maps[:, 1:]], dim=1)
    return maps.permute(0, 1, 3, 4, 2).flatten(2, 3).flatten(0, 1)


class MultiviewTransformerBlock(nn.Module):
    """Takes the place of diffusers' `BasicTransformerBlock`, keeping its weights and their names.

    face: the batch has a seventh, face row per domain. The output projection of the new `attn_mv`
    starts at zero, so that a converted block computes what it did with `attn1` joint.
    """

    def __init__(self, block: BasicTransformerBlock, *, face: bool) -> None:
        super().__init__()
        attn = block.attn1
        dim, heads = attn.query_dim, attn.heads
        self.face = face
        self.views = BODY_VIEWS + face
        self.norm1, self.attn1 = block.norm1, attn
        self.norm_mv = nn.LayerNorm(dim)
        self.attn_mv = Attention(query_dim=dim, heads=heads, dim_head=attn.inner_dim // heads)
        # Zero at first, so that a block taken from a plain U-Net still computes what it did.
        for parameter in self.attn_mv.to_out[0].parameters():
            nn.init.zeros_(parameter)
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm3, self.ff = block.norm3, block.ff
        for attention in (self.attn1, self.attn_mv, self.attn2):
            attention.set_processor(cast(Any, CpuFriendlyAttention()))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        timestep: Tensor | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        class_labels: Tensor | None = None,
    ) -> Tensor:
        """Tokens `(2 n views, h w, c)` in (domain, sample, view) order -> the same shape. Masks are
        not supported."""
        x = hidden_states
        x = x + self.joint_attention(self.norm1(x))
        x = x + self.multiview_attention(self.norm_mv(x))
        x = x + self.attn2(self.norm2(x), encoder_hidden_states=encoder_hidden_states)
        return x + self.ff(self.norm3(x))

    def joint_attention(self, tokens: Tensor) -> Tensor:
        tokens = split_domains(self.attn1(join_domains(tokens)))
        return fuse_face(tokens) if self.face else tokens

    def multiview_attention(self, tokens: Tensor) -> Tensor:
        if not self.face:
            return self._attend_rows(tokens)
        views = tokens.unflatten(0, (-1, self.views))
        body = self._attend_rows(views[:, :BODY_VIEWS].flatten(0, 1)).unflatten(0, (-1, BODY_VIEWS))
        # A face crop has another scale, so its rows show other heights than those of the body
        # views.
        return torch.cat([body, torch.zeros_like(views[:, BODY_VIEWS:])], dim=1).flatten(0, 1)

    def _attend_rows(self, body: Tensor) -> Tensor:
        side = square_side(body.shape[1])
        return split_image_rows(self.attn_mv(join_image_rows(body, BODY_VIEWS)), BODY_VIEWS, side)


def replace_blocks(module: nn.Module, *, face: bool) -> int:
    """Replace every `BasicTransformerBlock` inside `module`; returns how many there were."""
    found = [
        (name, child)
        for name, child in module.named_modules()
        if isinstance(child, BasicTransformerBlock)
    ]
    for name, child in found:
        # In place, so that the names of all other weights stay as they are.
        parent = module.get_submodule(name.rpartition(".")[0])
        parent._modules[name.rpartition(".")[2]] = MultiviewTransformerBlock(child, face=face)
    return len(found)
