"""Memory and time of a step at full size, counted on tensors without memory.

The published U-Net (SD-2.1-unCLIP's, with multi-view attention) runs forwards and backwards on the
device "meta", which follows shapes and computes nothing: operations are counted by PyTorch, and
bytes by what autograd keeps. Kernels, the allocator and the VAE's own activations are not included,
so a card needs more than this, and a step takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from diffusers.models.attention_processor import Attention
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from rewardft_plugins.drpose.model.unet import build_unet
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

FULL_UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": [5, 10, 20, 20],  # the number of heads: diffusers misnames it
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 2048,
}
"""SD-2.1-unCLIP's U-Net with PSHuman's eight input channels."""

TOKENS = 77
STEPS, TRAINED = 20, 2  # sampling steps, and how many of them learn
FACTOR = 8  # pixels of the picture to one of the latents


@dataclass(frozen=True)
class Estimate:
    """parameters: of the U-Net.
    flops: of one forward pass of one sample.
    kept: bytes that autograd keeps of one forward pass of one sample.
    checkpointed: the same with checkpointing."""

    parameters: int
    flops: int
    kept: int
    checkpointed: int


def estimate(
    size: int = 768, *, face: bool = True, config: dict[str, Any] | None = None
) -> Estimate:
    """Count one forward pass of one sample (12 rows, or 14 with face crops) in bfloat16."""
    config = config or FULL_UNET
    with torch.device("meta"):
        unet = build_unet(config, face=face)
    for parameter in unet.parameters():
        parameter.data = parameter.data.bfloat16()  # `to` would warn of what it cannot know
    arguments = _inputs(config, size, DOMAINS * (BODY_VIEWS + face))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(**arguments)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(cast(Any, _FlashProcessor()))
    kept = _kept(unet, arguments)
    unet.train()  # checkpointing works in training mode alone
    unet.enable_gradient_checkpointing()
    return Estimate(
        parameters=sum(p.numel() for p in unet.parameters()),
        flops=counter.get_total_flops(),
        kept=kept,
        checkpointed=_kept(unet, arguments),
    )


def describe(
    found: Estimate,
    *,
    batch: int,
    teraflops: float,
) -> list[str]:
    """Lines about one optimizer step with guidance: sampling, the trained steps again, and the
    reference's.

    teraflops: what the card achieves per second in practice; an H100 reaches about 400 of its 989
        in bfloat16.
    A backward pass counts as two forward ones, and with checkpointing as three.
    """
    # Sampling, then for each trained step: its forward again (1), its backward with recomputation
    # (3) and the reference's forward (1). Guidance doubles all of it.
    calls = 2 * STEPS + 2 * TRAINED * (1 + 3 + 1)
    total = calls * batch * found.flops
    # bfloat16: 2 bytes. Training in full: 12 of float32 master and two moments, 4 of gradient.
    weights = 2 * found.parameters
    doubled = 2 * batch * TRAINED
    return [
        f"U-Net: {found.parameters / 1e6:.0f} M parameters, {weights / 2**30:.1f} GiB in bfloat16; "
        f"trained in full {(12 + 4) * found.parameters / 2**30:.1f} GiB of masters, gradients and "
        "AdamW",
        f"one forward pass of one sample: {found.flops / 1e12:.1f} TFLOP",
        f"kept for its backward pass: {found.kept / 2**30:.1f} GiB, "
        f"{found.checkpointed / 2**30:.1f} GiB with checkpointing",
        f"one step of {batch} samples: {total / 1e15:.2f} PFLOP, at least "
        f"{total / teraflops / 1e12:.0f} s at {teraflops:.0f} TFLOP/s",
        f"kept by {doubled} passes of a step at once: {doubled * found.kept / 2**30:.0f} GiB, "
        f"{doubled * found.checkpointed / 2**30:.0f} GiB with checkpointing; less by micro-batches",
    ]


class _FlashAttention(torch.autograd.Function):
    """Attention that keeps what fused kernels keep: its inputs, its output, a number per query."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], device=q.device))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("estimates go forwards only")


class _FlashProcessor:
    """`CpuFriendlyAttention` on meta tensors: without it, the whole attention matrix is kept."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in projected)
        mixed = _FlashAttention.apply(q, k, v)
        return attn.to_out[1](attn.to_out[0](mixed.transpose(1, 2).flatten(2)))


def _inputs(config: dict[str, Any], size: int, rows: int) -> dict[str, Any]:
    # Only shapes matter on the device "meta".
    side = size // FACTOR

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    return {
        "sample": empty(rows, config["in_channels"], side, side),
        "timestep": torch.empty(rows, device="meta"),
        "encoder_hidden_states": empty(rows, TOKENS, config["cross_attention_dim"]),
        "class_labels": empty(rows, config["projection_class_embeddings_input_dim"]),
        "return_dict": False,
    }


def _kept(unet: Any, arguments: dict[str, Any]) -> int:
    """Bytes that autograd keeps of a forward pass, each tensor once; the weights are left out."""
    weights = {id(p) for p in unet.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(value: Tensor) -> Tensor:
        if id(value) not in weights:
            seen[id(value)] = value  # held, so that no other tensor gets its id
        return value

    given = {**arguments, "sample": arguments["sample"].requires_grad_()}
    with saved_tensors_hooks(pack, lambda value: value):
        unet(**given)
    return sum(value.numel() * value.element_size() for value in seen.values())
