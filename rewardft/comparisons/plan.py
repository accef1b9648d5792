"""`plan.json`: the runs of a comparison, written before the first of them begins, so that others
can see how far it is, and again when all have been collected."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewardft.comparisons.members import Member
from rewardft.comparisons.relative_paths import as_read
from rewardft.comparisons.sources import Request, Variant
from rewardft.contracts.records import SearchRecord
from rewardft.errors import RewardftError
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode, read_object, reading
from rewardft.recipe.recipe import load_recipe

NAME = "plan.json"
# What a request holds beside its variants.
KEPT = ("seeds", "budget", "name", "pareto", "match", "notes")
KEYS = {"request": dict, "members": list, "command": str}
HOW = "Give the command of the comparison again: it is written anew."


@dataclass(frozen=True)
class Plan:
    """What is compared, by which runs, and the command that asked for it. collected: the SHA-256 of
    the record that holds what came of them; '' before."""

    request: Request
    members: Sequence[Member]
    command: str
    collected: str = ""


def write_plan(plan: Plan, out: Path) -> None:
    """Write `plan.json` into the comparison's folder."""
    facts = {
        "request": {key: getattr(plan.request, key) for key in KEPT}
        | {"searches": [search.model_dump() for search in plan.request.searches]},
        "members": [described(member, out) for member in plan.members],
        "command": plan.command,
        "collected": plan.collected,
    }
    write_text(out / NAME, encode(facts, indent=1))


def described(member: Member, out: Path) -> dict[str, Any]:
    """A member as plain data; its recipe is in its folder, or where its variant says."""
    variant = member.variant
    return {
        "variant": variant.name,
        # Absolute: whoever watches may be in another folder.
        "recipe": str(variant.recipe.absolute()),
        "settings": settings_of(member),
        "word": variant.word,
        "seed": member.seed,
        # Relative, so that the comparison's folder can be moved.
        "folder": os.path.relpath(member.folder, out),
        "problem": member.problem,
        "given": member.given,
        "options": member.options,
        "digest": member.digest,
        "from_scratch": member.from_scratch,
    }


def settings_of(member: Member) -> list[str]:
    """Its variant's, with absolute paths, as whoever watches may be in another folder."""
    settings, recipe = member.variant.settings, member.recipe
    return list(settings) if recipe is None else as_read(settings, recipe.dump())


def read_plan(out: Path) -> Plan:
    """The plan in a comparison's folder. Raises CheckpointError for a damaged one."""
    data = read_object(out / NAME, KEYS, HOW)
    with reading(out / NAME, HOW):
        members = [member_of(facts, out) for facts in data["members"]]
        kept = {key: data["request"][key] for key in KEPT}
        # Not in plans of older versions.
        made = [SearchRecord.model_validate(one) for one in data["request"].get("searches", ())]
        kept |= {"notes": tuple(kept["notes"]), "searches": tuple(made)}
        request = Request((), **kept)
    # Not in plans of older versions.
    return Plan(request, members, data["command"], str(data.get("collected", "")))


def planned_folders(out: Path) -> list[Path]:
    """The run folders of the plan, without reading any recipe."""
    data = read_object(out / NAME, KEYS, HOW)
    with reading(out / NAME, HOW):
        return [out / facts["folder"] for facts in data["members"]]


def member_of(facts: Mapping[str, Any], out: Path) -> Member:
    """A member as it was described; one whose recipe has gone says so."""
    settings = tuple(facts["settings"])
    variant = Variant(facts["variant"], Path(facts["recipe"]), settings, word=facts["word"])
    member = Member(
        variant=variant,
        seed=facts["seed"],
        folder=out / facts["folder"],
        problem=facts["problem"],
        given=facts["given"],
        options=facts["options"],
        digest=facts["digest"],
        # Not in plans of older versions.
        from_scratch=facts.get("from_scratch", False),
    )
    return with_recipe(member) if member.problem is None else member


def with_recipe(member: Member) -> Member:
    """The member with its recipe: that of its folder, or the one that it will begin with."""
    own = member.folder / "recipe.yaml"
    try:
        # That of the run first: its variant's may have been edited since.
        recipe = load_recipe(own) if own.is_file() else load_recipe(*source_of(member))
    except RewardftError as error:
        return replace(member, problem=str(error))
    return replace(member, recipe=recipe)


def source_of(member: Member) -> tuple[Path, list[str]]:
    """The file and the settings that a run begins with."""
    return member.variant.recipe, member.settings
