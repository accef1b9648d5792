"""What `--budget` sets in the recipes of a comparison."""

from __future__ import annotations

import re

from rewardft.errors import RecipeError
from rewardft.recipe.budget import parse_budget

ENDLESS = 1_000_000  # train.steps of a run that its budget ends


def budget_settings(text: str) -> tuple[str, ...]:
    """What a budget sets in a recipe: `--budget 300-steps` is a length, anything else ends the run
    earlier or later."""
    count, _, unit = text.strip().rpartition("-")
    plain = count.replace("_", "")
    # A schedule can follow a number of steps, so it is set as the length, not as a budget.
    if unit == "steps" and re.fullmatch(r"[0-9][0-9_]{0,17}", count) and int(plain) > 0:
        return (f"train.steps={int(plain)}", "train.budget=null")
    try:
        parse_budget(text)
    except ValueError as error:
        raise RecipeError(
            f"--budget {text:.60}", [f"--budget {text:.60}: {error}. 300-steps will do, too."]
        ) from None
    return (f"train.steps={ENDLESS}", f"train.budget={text.strip()}")
