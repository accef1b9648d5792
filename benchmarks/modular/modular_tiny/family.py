"""What makes up a tiny family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers

from modular_tiny.texts import Embed

Flow = diffusers.FlowMatchEulerDiscreteScheduler


@dataclass(frozen=True)
class Tiny:
    """A family: its blocks, components and sizes, and the conditions of a prompt."""

    blocks: Any
    parts: Mapping[str, Any]
    embed: Embed
    size: int = 32
    frames: int | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
