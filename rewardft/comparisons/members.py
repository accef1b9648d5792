"""The runs of a comparison: each variant with each seed, checked,
and known by what it would compute."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rewardft.comparisons.added_plugin import with_plugin
from rewardft.comparisons.settings import as_words, key_of
from rewardft.comparisons.sources import Request, Variant
from rewardft.comparisons.spending import budget_settings
from rewardft.errors import RecipeError, RewardftError
from rewardft.files.json_text import read_object
from rewardft.files.paths import file_name
from rewardft.files.versions import version_of
from rewardft.plugins.component import Component, option_parameters
from rewardft.plugins.entries import look_up
from rewardft.plugins.resolve import open_recipe
from rewardft.recipe.recipe import Recipe, load_recipe

# Interrupted runs are continued; stopped ones ended by an alarm or a plugin's decision.
DONE = ("finished", "stopped")
# Evaluations of a run whose recipe does not say when, the one at its end included.
ALONG, MATCHED = 4, 8


@dataclass(frozen=True)
class Member:
    """One run. `recipe` is None and `problem` says why when it cannot be run; `given`: a run that
    was handed in.

    options: the recipe as plain data, with the defaults of its model, sampler and algorithm.
    digest: of all that the run follows from but its seed.
    from_scratch: whether the model says that what is trained begins from nothing, so that no base
        is trained further.
    """

    variant: Variant
    seed: int
    folder: Path
    recipe: Recipe | None = None
    problem: str | None = None
    given: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    digest: str = ""
    from_scratch: bool = False

    @property
    def label(self) -> str:
        return f"{self.variant.name} seed {self.seed}"

    @property
    def settings(self) -> list[str]:
        return [
            *(text for text in self.variant.settings if key_of(text) != "seed"),
            f"seed={self.seed}",
        ]

    def command(self, resume: bool = False) -> list[str]:
        """The words of `rewardft run` that make this run."""
        # As one would type it, so that a run can be repeated without the comparison.
        recipe, sets = str(self.variant.recipe), as_words(self.settings)
        words = ["run", recipe, *sets, "--out", str(self.folder)]
        return [*words, "--resume"] if resume else words

    def repeat(self) -> str:
        """A line that one can paste: the same run in a folder of its own."""
        if self.given:
            return ""
        recipe, sets = self.variant.word or str(self.variant.recipe), as_words(self.settings)
        out = f"runs/{folder_name(self.variant)}-seed{self.seed}"
        return shlex.join(["rewardft", "run", recipe, *sets, "--out", out])

    @property
    def is_done(self) -> bool:
        """Whether the run is there and came to its end."""
        path = self.folder / "summary.json"
        # A summary beside an error is no success.
        failed = (self.folder / "error.txt").is_file()  # of an observer, after the last step
        if failed or not path.is_file():
            return False
        how = "Delete it, and the run continues."
        return read_object(path, {"status": str}, how)["status"] in DONE

    @property
    def is_started(self) -> bool:
        return (self.folder / "recipe.yaml").is_file()


def expand(request: Request, out: Path, along: bool = True) -> list[Member]:
    """All runs of a comparison, in order of variants.

    A variant whose recipe is wrong stays in, with its problem.

    along: whether runs are evaluated on the way, where their recipes say nothing of it.
    """
    # Absolute: components run in this process too, and may change the current folder.
    out = out.absolute()
    return pool_given(
        [
            member
            for variant in request.variants
            for member in _members(variant, request, out, along)
        ]
    )


def _members(variant: Variant, request: Request, out: Path, along: bool) -> Iterator[Member]:
    # With other seeds, budget or settings a given run is only where the recipe comes from.
    given = variant.run is not None and not (request.seeds or request.budget or variant.settings)
    if request.budget:
        variant = variant.with_settings(*budget_settings(request.budget))
    if request.match and not given:
        variant = variant.with_settings("evaluate.kl=true")
    try:
        if not given:
            variant = with_plugin(variant)
        if along and not given:
            variant = evaluated_along(variant, bool(request.match))
        recipe, facts = identify(variant)
        if not given:
            check_evaluates(recipe, bool(request.match))
    # Kept, with its problem: a table that lost a variant without a word would mislead.
    except RewardftError as error:
        for seed in range(request.seeds or 1):
            folder = (
                variant.run
                if given and variant.run
                else out / "runs" / folder_name(variant) / f"seed{seed}"
            )
            yield Member(variant, seed, folder, problem=str(error), given=given)
        return
    if given:
        assert variant.run is not None
        place = variant.run.absolute()
        yield Member(variant, recipe.seed, place, recipe, given=True, **facts)
        return
    # From the recipe's own seed on, so that a single run can be one of the comparison's.
    for seed in range(recipe.seed, recipe.seed + (request.seeds or 1)):
        # The digest in the name: changed settings begin anew and leave the old runs alone.
        folder = out / "runs" / folder_name(variant) / f"seed{seed}-{facts['digest'][:8]}"
        yield Member(variant, seed, folder, recipe, **facts)


def evaluated_along(variant: Variant, matched: bool) -> Variant:
    """A recipe that is evaluated at its ends alone gets evaluations at equal fractions of what it
    spends: a curve needs more than two points, and a match more than a curve."""
    evaluate = load_recipe(variant.recipe, variant.settings).evaluate
    if evaluate.every or evaluate.fractions is not None or not evaluate.wanted:
        return variant
    return variant.with_settings(f"evaluate.fractions={MATCHED if matched else ALONG}")


def check_evaluates(recipe: Recipe, along: bool = False) -> None:
    """Raises RecipeError for a recipe whose run would leave nothing to compare.

    along: evaluations on the way are needed as well.
    """
    if along and not (recipe.evaluate.every or recipe.evaluate.fractions):
        problem = (
            "match: divergence reads each run between its evaluations, and this one has none on "
            "the way; add --set evaluate.every=10."
        )
        raise RecipeError(recipe.source, [f"{recipe.source}: {problem}"])
    if not recipe.evaluate.wanted:
        problem = (
            "it evaluates nothing, so there is nothing to compare; add --set evaluate.every=10."
        )
        raise RecipeError(recipe.source, [f"{recipe.source}: {problem}"])


def pool_given(members: Sequence[Member]) -> list[Member]:
    """Finished runs of one recipe that differ in their seeds alone are seeds of one variant,
    named as the first is."""
    first: dict[str, Variant] = {}
    seeds: set[tuple[str, int]] = set()
    pooled = []
    for member in members:
        # The same run given twice stays apart: pooled, it would count as a second seed.
        if member.given and member.digest and (member.digest, member.seed) not in seeds:
            seeds.add((member.digest, member.seed))
            member = replace(member, variant=first.setdefault(member.digest, member.variant))
        pooled.append(member)
    return pooled


def folder_name(variant: Variant) -> str:
    """The variant's name as that of one folder."""
    return file_name(variant.name)


def identify(variant: Variant) -> tuple[Recipe, dict[str, Any]]:
    """The variant's recipe, checked, and what a member is known by: its options, a digest of all
    that its runs follow from, the seed left out, and whether it starts from nothing.

    Two runs with the same digest and seed are the same run: settings, code of the plugin files,
    version of rewardft.
    """
    recipe, plugins, resolved = open_recipe(variant.recipe, variant.settings)
    if recipe.train.report_to:
        from rewardft.storage.recorder import check_trackers

        # Here, or each run would find it out for itself.
        check_trackers(recipe.where("train", "report_to"), recipe.train.report_to)
    # By file name, not path: the same code in another folder is the same run.
    files = sorted(Path(path).name + sha for path, sha in plugins.digests().items())
    # Seeds of one variant share a digest.
    flat = recipe.model_copy(update={"seed": 0})
    versions = sorted(f"{plugin.name} {plugin.version}" for plugin in plugins.loaded)
    facts = [flat.digest(), files, versions, version_of("rewardft")]
    options = recipe.dump()
    for section in ("model", "sampler", "algorithm"):
        # With defaults, so that one recipe may spell out what another leaves to them.
        options[section] = defaults_of(getattr(resolved, section)) | options[section]
    return recipe, {
        "options": options,
        "digest": hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
        "from_scratch": look_up(resolved.model.entry.factory, "from_scratch") is True,
    }


def defaults_of(component: Component) -> dict[str, Any]:
    """What a component is set to by default, as far as it can be written in a recipe."""
    defaults = {
        name: p.default
        for name, p in option_parameters(component.entry).items()
        if p.default is not p.empty
    }
    return {
        name: value
        for name, value in defaults.items()
        # Others could not stand in a recipe, and have no text to compare by.
        if isinstance(value, (str, int, float, list, type(None)))
    }


def program() -> list[str]:
    """How to start `rewardft` in a process of its own, with this interpreter."""
    return [sys.executable, "-m", "rewardft"]


def differences(members: list[Member]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(by variant: the settings in which the variants differ, flattened; what all share).

    Seeds are left out.
    """
    from rewardft.storage.resume import flatten

    flat = {m.variant.name: flatten(m.options) for m in members if m.recipe is not None}
    # The seed is what variants are pooled over.
    keys = list(
        dict.fromkeys(key for settings in flat.values() for key in settings if key != "seed")
    )
    first = next(iter(flat.values()), {})
    shared = {
        k: first[k] for k in keys if all(k in s and s[k] == first.get(k) for s in flat.values())
    }
    own = {name: {k: s[k] for k in keys if k in s and k not in shared} for name, s in flat.items()}
    return own, shared
