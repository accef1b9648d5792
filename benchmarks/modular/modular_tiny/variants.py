"""Variants that differ from a family in their blocks: distilled ones, and an editor from texts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers as D

from modular_tiny.family import Tiny
from modular_tiny.images import flux, flux3, krea2, qwenimage21
from modular_tiny.texts import Embed, fixed, plain


def flux_kontext() -> Tiny:
    return replace(flux(), blocks=D.FluxKontextAutoBlocks())


def flux3_distilled() -> Tiny:
    """A flow map: the network is told where its step ends."""
    family = flux3()
    config = dict(family.parts["transformer"].config) | {"flow_map": True}
    parts = {**family.parts, "transformer": D.Flux3Transformer2DModel(**config)}
    blocks = D.Flux3DistilledAutoBlocks()
    return replace(family, blocks=blocks, parts=parts, embed=plain(fixed(16)))


def krea2_turbo() -> Tiny:
    family = krea2()
    embed = without_negative(family.embed)
    return replace(family, blocks=D.Krea2TurboAutoBlocks(), embed=embed)


def qwenimage21_turbo() -> Tiny:
    return replace(qwenimage21(), blocks=D.QwenImage21TurboAutoBlocks())


def without_negative(embed: Embed) -> Embed:
    def positive(prompt: str, negative: bool) -> dict[str, Any]:
        return embed(prompt, False)

    return positive


VARIANTS = {
    each.__name__: each for each in (flux_kontext, flux3_distilled, krea2_turbo, qwenimage21_turbo)
}
