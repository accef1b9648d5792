"""Sweeps over the weights of several rewards, for their Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rewardft.comparisons.sources import Variant
from rewardft.errors import RecipeError, did_you_mean
from rewardft.recipe.recipe import read_recipe

EXAMPLE = "{rewards: [NAME, NAME], points: 5}"
MOST = 10_000  # mixtures; more are a slip, and would not be run in a lifetime


def problem_of(section: Any) -> str | None:
    """What is wrong with the section `pareto` of a comparison file; None: nothing."""
    names, points = section.get("rewards"), section.get("points", 5)
    if section.keys() - {"rewards", "points"}:
        unknown = min(section.keys() - {"rewards", "points"})
        return f"pareto has no key {unknown!r}; expected {EXAMPLE}."
    if not isinstance(names, list) or len(names) < 2 or len(set(map(str, names))) < len(names):
        return f"pareto.rewards: expected two or more names of rewards, got {names!r}."
    if not isinstance(points, int) or isinstance(points, bool) or points < 2:
        return f"pareto.points: expected a whole number of at least 2, got {points!r}."
    count = math.comb(points + len(names) - 2, len(names) - 1)
    if count > MOST:
        return (
            f"pareto: {len(names)} rewards with {points:,} points are {count:,} mixtures; expected "
            f"at most {MOST:,}."
        )
    return None


def sweep(variants: Sequence[Variant], section: Any, source: str | None) -> list[Variant]:
    """Every variant with every mixture of the named rewards.

    source: the comparison's name. Raises RecipeError for a section that is wrong, and for a name
    that a recipe's rewards do not have.
    """
    if problem := problem_of(section):
        raise RecipeError(source or "pareto", [problem])
    names = [str(name) for name in section["rewards"]]
    result = []
    for variant in variants:
        places = list(places_of(variant, names))
        for weights in mixtures(len(names), section.get("points", 5)):
            part = ",".join(f"{name}={weight:g}" for name, weight in zip(names, weights))
            settings = [f"rewards.{at}.weight={w!r}" for at, w in zip(places, weights)]
            name = part if len(variants) == 1 else f"{variant.name}-{part}"
            result.append(replace(variant, name=name).with_settings(*settings))
    return result


def places_of(variant: Variant, names: Sequence[str]) -> Iterator[int]:
    """Where the named rewards stand in the recipe's list."""
    recipe, problems = read_recipe(variant.recipe, variant.settings)
    # Its rewards may be what is wrong with it.
    if problems:
        raise RecipeError(recipe.source, problems)
    known = [str(reward.name) for reward in recipe.rewards]
    for name in names:
        if name not in known:
            raise RecipeError(
                str(variant.recipe),
                [
                    f"pareto.rewards: {variant.recipe.name} trains no reward {name!r}."
                    f"{did_you_mean(name, known)}"
                ],
            )
        yield known.index(name)


def mixtures(count: int, points: int) -> Iterator[tuple[float, ...]]:
    """All weights with sum 1 whose parts are multiples of 1 / (points - 1), first reward alone
    first: C(points + count - 2, count - 1) of them."""
    parts = points - 1
    # Stars and bars: where `count - 1` bars stand among the parts.
    found = []
    for bars in itertools.combinations(range(parts + count - 1), count - 1):
        ends = (-1, *bars, parts + count - 1)
        found.append(tuple(b - a - 1 for a, b in itertools.pairwise(ends)))
    for shares in sorted(found, reverse=True):
        yield tuple(share / parts for share in shares)
