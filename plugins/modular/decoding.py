"""Decoding under gradient with a checkpoint for each call of the decoder.

Video autoencoders decode a few latent frames at a time; causal ones pass features of the frames
before along in a list. A checkpoint for each call keeps these features and the frames, not what the
decoder computes in between, and the gradient through the features stays exact. On a GPU what is
kept waits in host memory.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint


def checkpoint_decoder(decoder: nn.Module) -> None:
    """Make every call of `decoder` with autograd on a checkpoint; its results stay the same."""
    plain = decoder.forward

    def forward(x: Tensor, *arguments: Any, **options: Any) -> Any:
        # Without autograd there is nothing to save.
        if not torch.is_grad_enabled():
            return plain(x, *arguments, **options)
        with host_memory(x):
            if options.get("feat_cache") is None:
                return checkpoint(plain, x, *arguments, use_reentrant=False, **options)
            return checkpoint_causal(plain, x, *arguments, **options)

    decoder.forward = forward


def checkpoint_causal(
    plain: Callable[..., Any],
    x: Tensor,
    *arguments: Any,
    feat_cache: list[Any],
    feat_idx: list[int],
    **options: Any,
) -> Any:
    """A call that reads features of earlier frames from `feat_cache` and leaves its own there."""
    place = list(feat_idx)

    def run(x: Tensor, *held: Any) -> tuple[Any, ...]:
        # Copies: the backward pass runs this again and must find what the first run found.
        cache, index = list(held), list(place)
        decoded = plain(x, *arguments, feat_cache=cache, feat_idx=index, **options)
        return decoded, index, *cache

    decoded, feat_idx[:], *feat_cache[:] = checkpoint(run, x, *feat_cache, use_reentrant=False)
    return decoded


def host_memory(x: Tensor) -> AbstractContextManager[Any]:
    """Where the inputs of checkpoints wait for the backward pass."""
    return save_on_cpu(pin_memory=True) if x.is_cuda else nullcontext()
