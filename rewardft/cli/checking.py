"""`check`: whether recipes and comparisons can be run, without loading weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rewardft.cli.running import Ready, prepare
from rewardft.comparisons.sources import is_comparison
from rewardft.errors import RecipeError, RewardftError
from rewardft.plugins.resolve import open_recipe
from rewardft.recipe.shipped import find_recipe

if TYPE_CHECKING:
    from rewardft.comparisons.members import Member

LATER = "; adapter.targets is checked when the model is loaded"


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
    return f"{ready.path}: ok{'' if looked else LATER}"


def check_comparison(name: str, overrides: Sequence[str]) -> str:
    """How many runs a comparison file would make, and what was not looked at; raises RecipeError
    with what each variant that cannot be run lacks."""
    from rewardft.comparisons.api import Options, build_request
    from rewardft.comparisons.comparison import variant_problems
    from rewardft.comparisons.members import expand
    from rewardft.comparisons.report.numbers import plural

    members = expand(build_request([name], Options(settings=overrides)), Path("runs"))
    first: dict[str, Member] = {}
    for member in members:
        first.setdefault(member.variant.name, member)  # all seeds of a variant have its layers
    found = [with_layers(member) for member in first.values()]
    if problems := variant_problems([member for member, _ in found]):
        raise RecipeError(name, problems)
    left = "" if all(looked for _, looked in found) else LATER
    counts = f"{plural(len(first), 'variant')}, {plural(len(members), 'run')}"
    return f"{find_recipe(name)}: ok ({counts}){left}"


def with_layers(member: Member) -> tuple[Member, bool]:
    """The run, with its problem where its model lacks a layer of `adapter.targets`; and whether
    this was looked at."""
    from rewardft.engine.targets import check_targets, names_layers

    if member.recipe is None or not names_layers(member.recipe):
        return member, True
    recipe, _, resolved = open_recipe(member.variant.recipe, member.variant.settings)
    try:
        return member, check_targets(recipe, resolved)
    except RecipeError as error:
        return replace(member, problem=str(error)), True
