"""What a folder holds now: a run, or a comparison, finished or not, as a record for the report."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rewardft.comparisons.comparison import read_all, summarise
from rewardft.comparisons.members import Member
from rewardft.comparisons.plan import NAME, Plan, planned_folders, read_plan
from rewardft.comparisons.read_runs import (
    RunResults,
    made_like_the_last,
    read_evaluations,
)
from rewardft.comparisons.sources import Request, Variant, short_name
from rewardft.contracts.records import ComparisonRecord, load_comparison
from rewardft.errors import CheckpointError, did_you_mean
from rewardft.files.digests import sha256
from rewardft.recipe.recipe import load_recipe
from rewardft.storage.folder import is_held

# What a run writes as it goes on, beside its evaluations and pictures.
FILES = ("recipe.yaml", "manifest.json", "metrics.jsonl", "summary.json", "error.txt")


@dataclass(frozen=True)
class Watched:
    """A folder as it is at one moment. runs: none of a comparison whose plan is not known."""

    folder: Path
    record: ComparisonRecord
    runs: Sequence[RunResults]


def look(folder: Path) -> Watched:
    """Read a folder. Raises CheckpointError for one that holds neither a run nor a comparison."""
    kind = kind_of(folder)
    if kind == "run":
        return look_at_run(folder)
    plan = read_plan(folder) if (folder / NAME).is_file() else None
    if plan is None:
        return Watched(folder, load_comparison(folder / "comparison.json"), [])
    runs = read_all(plan.members, folder)
    # In the order of `folders_of`.
    by_folder = {seen.member.folder: seen for seens in runs.values() for seen in seens}
    ordered = [by_folder[member.folder] for member in plan.members]
    if is_collected(folder, plan):
        return Watched(folder, load_comparison(folder / "comparison.json"), ordered)
    return Watched(folder, summarise(runs, plan, folder), ordered)


def folders_of(folder: Path) -> list[Path]:
    """The run folders of what is watched; none of a comparison whose plan is not known."""
    if kind_of(folder) == "run":
        return [folder]
    return planned_folders(folder) if (folder / NAME).is_file() else []


def kind_of(folder: Path) -> str:
    """`run` or `comparison`. Raises CheckpointError for neither."""
    if (folder / NAME).is_file() or (folder / "comparison.json").is_file():
        return "comparison"
    if (folder / "recipe.yaml").is_file():
        return "run"
    if not folder.exists():
        beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
        raise CheckpointError(
            f"{folder}: there is no such folder yet.{did_you_mean(folder.name, beside)} A run "
            "makes its own when its recipe has been checked: give the command again then."
        )
    raise CheckpointError(
        f"{folder}: neither a run nor a comparison; expected the recipe.yaml of `rewardft run` in "
        f"it, or the {NAME} of `rewardft compare`."
    )


def is_collected(folder: Path, plan: Plan) -> bool:
    """Whether the comparison's record is that of its plan, and not one from before."""
    record = folder / "comparison.json"
    # By content: times change where a folder is copied, and may be equal.
    return record.is_file() and plan.collected == sha256(record)


def look_at_run(folder: Path) -> Watched:
    """A run as a comparison of one variant with one seed."""
    recipe = load_recipe(folder / "recipe.yaml")
    variant = Variant(short_name(folder), folder / "recipe.yaml", run=folder)
    options = recipe.dump()
    member = Member(variant, recipe.seed, folder, recipe, given=True, options=options)
    again = ["rewardft", "run", str(variant.recipe), "--out", f"{folder}-again"]
    request = Request((variant,), budget=recipe.train.budget, name=variant.name)
    plan = Plan(request, [member], shlex.join(again))
    (seen,) = read_all(plan.members, folder)[variant.name]
    seen = so_far(seen)
    return Watched(folder, summarise({variant.name: [seen]}, plan, folder), [seen])


def so_far(seen: RunResults) -> RunResults:
    """A run with the newest of its evaluations as its last: alone, it is compared with nothing that
    was trained for longer."""
    tables = made_like_the_last(read_evaluations(seen.member.folder))
    if seen.tuned is not None or len(tables) < 2 or 0 not in tables:
        return seen
    return replace(seen, base=tables[0], tuned=tables[max(tables)], along=tables)


def fingerprint(folder: Path) -> str:
    """Other text as soon as anything that the report is made from has changed."""
    found = [stamp(folder / name) for name in ("comparison.json", NAME)]
    found += [text for run in folders_of(folder) for text in stamps_of(run)]
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def stamps_of(run: Path) -> list[str]:
    """The times and sizes of a run's files, and whether a process trains in it."""
    paths = [run / name for name in FILES] + [run.with_name(f"{run.name}.log")]
    listed = [path for name in ("evaluations", "samples") for path in (run / name).glob("*")]
    found = [stamp(path) for path in paths] + sorted(map(stamp, listed))
    is_over = (run / "summary.json").is_file() or not (run / "recipe.yaml").is_file()
    return [*found, "" if is_over else str(is_held(run))]


def stamp(path: Path) -> str:
    """A file's name, time and size; of one that is absent, its name."""
    try:
        found = path.stat()
    except OSError:  # not there, or not any more
        return str(path)
    return f"{path} {found.st_mtime_ns} {found.st_size}"
