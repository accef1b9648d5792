"""The components of a recipe, looked up and checked, and where each stands in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rewardft.plugins.catalog import Catalog
from rewardft.plugins.component import Component
from rewardft.recipe.recipe import RegularizerSpec, RewardSpec
from rewardft.recipe.strict_yaml import Keys


@dataclass(frozen=True)
class Resolved:
    """The components of a recipe, ready to be built.

    `tags` are those that the components provide together.
    """

    catalog: Catalog
    model: Component
    sampler: Component
    dataset: Component
    eval_dataset: Component
    algorithm: Component
    rewards: list[tuple[RewardSpec, Component]]
    regularizers: list[tuple[RegularizerSpec, Component]]
    eval_rewards: list[tuple[RewardSpec, Component]]
    metrics: list[Component]
    eval_sampler: Component | None = None  # None: the sampler that the run trains with
    tags: frozenset[str] = frozenset()

    def components(self) -> Iterator[Component]:
        """Every component once, the evaluation's data set left out (it is the data set with
        other options)."""
        yield from (component for _, component in self.placed())

    def placed(self) -> Iterator[tuple[Keys, Component]]:
        """The same, each with the keys of its section in the recipe."""
        yield ("model",), self.model
        yield ("sampler",), self.sampler
        yield ("data",), self.dataset
        yield ("algorithm",), self.algorithm
        lists: list[tuple[Keys, Sequence[tuple[Any, Component]]]] = [
            (("rewards",), self.rewards),
            (("regularizers",), self.regularizers),
            (("evaluate", "rewards"), self.eval_rewards),
            (("evaluate", "metrics"), [(None, metric) for metric in self.metrics]),
        ]
        # By index: names may repeat, places cannot.
        for keys, found in lists:
            yield from (((*keys, i), component) for i, (_, component) in enumerate(found))
        if self.eval_sampler is not None:
            yield ("evaluate", "sampler"), self.eval_sampler
