"""What keeps the variants of a comparison from being compared on equal terms, known from their
recipes alone: said before anything runs, and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rewardft.comparisons.members import Member
from rewardft.comparisons.sources import key_of
from rewardft.recipe.recipe import load_recipe

Facts = Mapping[str, Member]  # one member of each variant whose recipe can be read
MATCH = "--match divergence compares at equal divergence from the base"


def unfair(members: Sequence[Member], weighed: bool = False, matched: bool = False) -> list[str]:
    """A sentence for each respect in which the variants are not on equal terms.

    weighed: whether other weights of the rewards are what is compared, as in a `pareto` sweep.
    matched: whether they are compared at equal divergence, so that no regularizer decides.
    """
    facts: dict[str, Member] = {}
    for member in members:
        if member.recipe is not None:
            facts.setdefault(member.variant.name, member)
    if len(facts) < 2:
        return []
    checks = (bases, judges, *(() if weighed else (rewards,)), scales)
    checks += (*(() if matched else (penalties,)), rates)
    return [sentence for check in checks for sentence in check(facts)]


def bases(facts: Facts) -> Iterator[str]:
    """Variants that did not start from the same model."""
    if said := groups(facts, lambda member: member.options["model"]):
        yield f"Different base models: {said}. No verdict is given across them."


def judges(facts: Facts) -> Iterator[str]:
    """Variants whose held-out samples are drawn in different ways."""
    said = groups(
        facts, lambda member: member.options["evaluate"]["sampler"] or member.options["sampler"]
    )
    if said:
        yield (
            f"Evaluated with different samplers: {said}. Set evaluate.sampler to judge all by one."
        )


def rewards(facts: Facts) -> Iterator[str]:
    """Variants that are trained for other rewards, or for the same ones with other weights."""
    trained = {
        name: {r["name"]: r for r in member.options["rewards"] if r["weight"] != 0}
        for name, member in facts.items()
    }
    # Algorithms that learn from labelled pairs train for no reward at all.
    having = {name: found for name, found in trained.items() if found}
    if len({frozenset(found) for found in having.values()}) > 1:
        said = "; ".join(f"{name}: {', '.join(found)}" for name, found in having.items())
        yield f"Trained for different rewards: {said}."
        return
    for reward in next(iter(having.values()), {}):
        weights = {name: found[reward]["weight"] for name, found in having.items()}
        if len(set(weights.values())) > 1:
            said = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
            yield f"The reward {reward} has different weights: {said}."


def scales(facts: Facts) -> Iterator[str]:
    """One weight of a regularizer beside losses of different scales: also at equal divergence, as
    the one that is held back sets how far that is."""
    known = scales_of(facts)
    for use, weight in shared_penalties(facts):
        if len(set(known.values())) > 1:
            low, high = (pick(known, key=known.__getitem__) for pick in (min, max))
            said = ", ".join(f"{name} {scale:g}" for name, scale in known.items())
            yield (
                f"Losses of different scales (algorithm.scale: {said}), while the regularizer "
                f"{use} has the weight {weight:g} in all variants: beside its loss it weighs "
                f"{known[high] / known[low]:g} times as much in {low} as in {high}. Give all one "
                "scale."
            )


def penalties(facts: Facts) -> Iterator[str]:
    """One weight of a regularizer beside losses of other algorithms."""
    algorithms = {member.options["algorithm"]["use"] for member in facts.values()}
    for use, weight in shared_penalties(facts):
        if len(algorithms) > 1 and len(set(scales_of(facts).values())) < 2:
            yield (
                f"Different algorithms, while the regularizer {use} has the weight {weight:g} in "
                f"all variants: the same weight means something else beside each loss. {MATCH}."
            )


def scales_of(facts: Facts) -> dict[str, float]:
    """By variant, where its algorithm has a scale."""
    found = {name: member.options["algorithm"].get("scale") for name, member in facts.items()}
    return {name: scale for name, scale in found.items() if scale}


def shared_penalties(facts: Facts) -> list[tuple[str, float]]:
    """(name, weight) of the regularizers that all variants have with one weight above 0."""
    found = [
        {(r["use"].casefold(), float(r["weight"])) for r in member.options["regularizers"]}
        for member in facts.values()
    ]
    return sorted(pair for pair in set.intersection(*found) if pair[1] > 0)


def rates(facts: Facts) -> Iterator[str]:
    """A learning rate that was chosen for one algorithm, and is used for others as well."""
    borrowed: dict[tuple[str, str, float], list[str]] = {}
    for name, member in facts.items():
        assert member.recipe is not None
        keys = {key_of(text) for text in member.variant.settings}
        # A run folder is as it was made, and a rate that was set for this variant is its own.
        if member.given or keys & {"optimizer", "optimizer.lr"}:
            continue
        if not any(key.split(".")[0] == "algorithm" for key in keys):
            continue
        source = load_recipe(member.variant.recipe)
        if source.algorithm.use.casefold() != member.recipe.algorithm.use.casefold():
            place = (member.variant.recipe.stem, source.algorithm.use, source.optimizer.lr)
            borrowed.setdefault(place, []).append(name)
    for (recipe, algorithm, rate), names in borrowed.items():
        verb = "borrows" if len(names) == 1 else "borrow"
        yield (
            f"Tuned for one side: optimizer.lr {rate:g} of {recipe} was set for {algorithm}, and "
            f"{', '.join(names)} {verb} it. --tune optimizer.lr={rate / 3:.1g},{rate:g},"
            f"{rate * 3:.1g} gives every variant the same search."
        )


def groups(facts: Facts, part: Callable[[Member], Mapping[str, Any]]) -> str:
    """'A, B: key 1; C: key 2' of the keys in which a section differs; '' where it is the same."""
    sections = {name: part(member) for name, member in facts.items()}
    keys = list(dict.fromkeys(key for section in sections.values() for key in section))
    differing = [
        key for key in keys if len({json.dumps(s.get(key)) for s in sections.values()}) > 1
    ]
    if not differing:
        return ""
    alike: dict[str, list[str]] = {}
    for name, section in sections.items():
        said = ", ".join(f"{key} {section.get(key)}" for key in differing if key in section)
        alike.setdefault(said, []).append(name)
    return "; ".join(f"{', '.join(names)}: {said or 'none'}" for said, names in alike.items())
