"""`check`: whether recipes and comparisons can be run, without loading weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rewardft.cli.running import Ready, prepare
from rewardft.comparisons.sources import is_comparison
from rewardft.errors import RecipeError, RewardftError
from rewardft.recipe.shipped import find_recipe


def check_recipes(names: Sequence[str], overrides: Sequence[str]) -> None:
    """Check each recipe or comparison; one that fails does not keep the others from being
    checked."""
    failures = []
    for name in names:
        try:
            if is_comparison(find_recipe(name)):
                print(check_comparison(name, overrides))
            else:
                print(checked(prepare(name, overrides)))
        except RewardftError as error:
            # All of them, so that one call checks a folder of recipes.
            failures.append(str(error))
    if failures:
        raise RewardftError("\n".join(failures))


def checked(ready: Ready) -> str:
    """'r.yaml: ok', and what was not looked at. Raises RecipeError for layers that are not
    there."""
    from rewardft.engine.targets import check_targets

    # Before weights are loaded, which may take minutes.
    looked = check_targets(ready.recipe, ready.resolved)
    left = "" if looked else "; adapter.targets is checked when the model is loaded"
    return f"{ready.path}: ok{left}"


def check_comparison(name: str, overrides: Sequence[str]) -> str:
    """How many runs a comparison file would make; raises RecipeError with what each variant that
    cannot be run lacks."""
    from rewardft.comparisons.api import Options, build_request
    from rewardft.comparisons.comparison import variant_problems
    from rewardft.comparisons.members import expand

    members = expand(build_request([name], Options(settings=overrides)), Path("runs"))
    if problems := variant_problems(members):
        raise RecipeError(name, problems)
    variants = len({member.variant.name for member in members})
    return f"{find_recipe(name)}: ok ({variants} variants, {len(members)} runs)"
