"""What keeps the variants of a comparison from being compared on equal terms, known from their
recipes alone: said before anything runs, and in the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rewardft.comparisons.members import Member
from rewardft.comparisons.settings import key_of
from rewardft.comparisons.words import differing, listed
from rewardft.recipe.recipe import load_recipe

Facts = Mapping[str, Member]  # one member of each variant whose recipe can be read
MATCH = "--match divergence compares at equal divergence from the base"


def unfair(members: Sequence[Member], weighed: bool = False, matched: bool = False) -> list[str]:
    """A sentence for each respect in which the variants are not on equal terms.

    weighed: whether other weights of the rewards are what is compared, as in a `pareto` sweep.
    matched: whether they are compared at equal divergence, so that no regularizer decides.
    """
    facts = facts_of(members)
    if len(facts) < 2:
        return []
    checks = (bases, judges, *(() if weighed else (rewards,)), scales)
    checks += (*(() if matched else (penalties,)), rates)
    return [sentence for check in checks for sentence in check(facts)]


def facts_of(members: Sequence[Member]) -> dict[str, Member]:
    """The first member of each variant whose recipe can be read."""
    facts: dict[str, Member] = {}
    for member in members:
        if member.recipe is not None:
            facts.setdefault(member.variant.name, member)
    return facts


def bases(facts: Facts) -> Iterator[str]:
    """Variants that did not start from the same model. Models that begin from nothing have no
    base, and their options are what is compared: see `starts`."""
    if not all_from_scratch(facts) and (said := differing_models(facts)):
        yield f"Different base models: {said}. No verdict is given across them."


def starts(members: Sequence[Member]) -> list[str]:
    """What is to be known of variants that begin from nothing, each in its own way; not unfair."""
    facts = facts_of(members)
    if not all_from_scratch(facts) or not (said := differing_models(facts)):
        return []
    return [
        f"Each variant starts from nothing, with a model of its own: {said}. Verdicts are of where "
        "they end; their changes are from different starts."
    ]


def given_starts(members: Sequence[Member]) -> list[str]:
    """What is to be known of variants that begin with the weights of `adapter.init`."""
    recipes = {name: member.recipe for name, member in facts_of(members).items()}
    names = [name for name, recipe in recipes.items() if recipe and recipe.adapter.init]
    if not names:
        return []
    return [
        f"Begun with the weights of adapter.init: {listed(names)}. Changes from the base are from "
        "there; pictures of the base are of the base model."
    ]


def all_from_scratch(facts: Facts) -> bool:
    """Whether there is no variant that trains a base further."""
    return all(member.from_scratch for member in facts.values())


def differing_models(facts: Facts) -> str:
    """In what the models' options differ; '' where they do not."""
    return differing({name: member.options["model"] for name, member in facts.items()})


def judges(facts: Facts) -> Iterator[str]:
    """Variants whose held-out samples are drawn in different ways."""
    drawn = {name: member.options for name, member in facts.items()}
    said = differing({n: o["evaluate"]["sampler"] or o["sampler"] for n, o in drawn.items()})
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
        names = {name: ", ".join(sorted(found)) for name, found in having.items()}
        said = differing({name: {"use": found} for name, found in names.items()})
        yield f"Trained for different rewards: {said}."
        return
    for reward in next(iter(having.values()), {}):
        weights = {name: found[reward]["weight"] for name, found in having.items()}
        if len(set(weights.values())) > 1:
            said = listed([f"{name} {weight:g}" for name, weight in weights.items()])
            yield f"The reward {reward} has different weights: {said}."


def scales(facts: Facts) -> Iterator[str]:
    """One weight of a regularizer beside losses of different scales: also at equal divergence, as
    the one that is held back sets how far that is."""
    known = scales_of(facts)
    for use, weight in shared_penalties(facts):
        if len(set(known.values())) > 1:
            low, high = (pick(known, key=known.__getitem__) for pick in (min, max))
            said = listed([f"{name} {scale:g}" for name, scale in known.items()])
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
            f"{listed(names)} {verb} it. --tune optimizer.lr={rate / 3:.1g},{rate:g},"
            f"{rate * 3:.1g} gives every variant the same search."
        )
