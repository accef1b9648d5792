"""What text encoders would say of a prompt, drawn from the prompt itself.

Its tokens are its words and one more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Embed = Callable[[str, bool], dict[str, Any]]  # prompt, whether negatives are wanted
LENGTH = 8  # tokens of encoders that pad


def tokens(prompt: str) -> int:
    return min(len(prompt.split()) + 1, LENGTH)


def draw(prompt: str, shape: tuple[int, ...], stream: str = "") -> Tensor:
    digest = hashlib.blake2b(f"{stream}/{prompt}".encode(), digest_size=7).digest()
    return torch.randn(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest)))


def text(prompt: str, width: int, stream: str = "") -> Tensor:
    """`(1, tokens, width)`."""
    return draw(prompt, (1, tokens(prompt), width), stream)


def padded(prompt: str, width: int, stream: str = "") -> tuple[Tensor, Tensor]:
    """`(1, LENGTH, width)` with its mask `(1, LENGTH)`."""
    found = text(prompt, width, stream)
    mask = torch.arange(LENGTH)[None] < found.shape[1]
    return torch.cat([found, found.new_zeros(1, LENGTH - found.shape[1], width)], 1), mask


def with_negative(one: Callable[[str], dict[str, Any]]) -> Embed:
    """Conditions and, where they are wanted, those of the empty prompt under `negative_NAME`."""

    def embed(prompt: str, negative: bool) -> dict[str, Any]:
        found = one(prompt)
        return found | ({f"negative_{n}": v for n, v in one("").items()} if negative else {})

    return embed


def plain(one: Callable[[str], dict[str, Any]]) -> Embed:
    return lambda prompt, negative: one(prompt)


def masked(width: int) -> Embed:
    """Variable length with a mask, as of Qwen-Image."""

    def one(prompt: str) -> dict[str, Any]:
        found = text(prompt, width)
        return {"prompt_embeds": found, "prompt_embeds_mask": torch.ones(found.shape[:2]).long()}

    return with_negative(one)


def fixed(width: int) -> Callable[[str], dict[str, Any]]:
    return lambda prompt: {"prompt_embeds": padded(prompt, width)[0]}


def listed(width: int) -> Embed:
    return with_negative(lambda prompt: {"prompt_embeds": [text(prompt, width)[0]]})


def pooled(width: int, pooled_width: int) -> Callable[[str], dict[str, Any]]:
    return lambda prompt: {
        "prompt_embeds": padded(prompt, width)[0],
        "pooled_prompt_embeds": draw(prompt, (1, pooled_width), "pooled"),
    }
