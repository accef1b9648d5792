"""What observers know of the run that calls them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rewardft.recipe.recipe import Recipe


@dataclass
class Run:
    """A run as observers see it.

    steps: at which it ends at the latest; a budget, a plugin or a signal may end it before.
    """

    folder: Path
    recipe: Recipe
    is_main: bool
    steps: int
    model: Any = None
    sampler: Any = None
    info: dict[str, Any] = field(default_factory=dict)
