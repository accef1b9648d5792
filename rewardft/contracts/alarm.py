"""A sign that a reward is being hacked, as hooks and reports receive it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """`name`: the value that raised it. `sentence`: what happened to it, in figures."""

    name: str
    sentence: str
