"""What makes a report more than numbers: pictures of held-out samples, and the sections of plugins.

Both open models, after all runs have been made and written down. One that fails is named in the
report and stops nothing.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.comparisons.members import Member, folder_name
from rewardft.comparisons.read_runs import RunResults
from rewardft.contracts.records import ComparisonRecord, Picture, Section
from rewardft.errors import PluginError
from rewardft.files.atomic import write_folder
from rewardft.plugins.loading import load_plugins


def add_pictures(
    record: ComparisonRecord, runs: Mapping[str, Sequence[RunResults]], out: Path, count: int
) -> ComparisonRecord:
    """The record with the pictures of its variants, and a note for each that could not be drawn."""
    variants, problems = [], list[str]()
    for variant in record.variants:
        try:
            pictures = pictures_of(runs[variant.name], out, count)
        # A model that does not load any more must not cost the report of days of runs.
        except (Exception, SystemExit) as error:
            problems.append(f"No pictures of {variant.name}: {said(error)}")
            pictures = []
        variants.append(variant.model_copy(update={"pictures": pictures}))
    return record.model_copy(update={"variants": variants, "notes": [*record.notes, *problems]})


def pictures_of(runs: Sequence[RunResults], out: Path, count: int) -> list[Picture]:
    """The first seed's held-out samples, base and tuned; drawn once,
    kept in `OUT/pictures/NAME`."""
    seen = next((seen for seen in runs if seen.tuned is not None), None)
    if seen is None or count == 0:
        return []
    name, run = seen.member.variant.name, seen.member.folder
    folder = out / "pictures" / folder_name(seen.member.variant)
    # What the pictures follow from: any other of these, and they are drawn again.
    index, source = folder / "index.json", [name, str(run), seen.record.axes.get("steps"), count]
    if (kept := drawn_before(index, source)) is not None:
        return kept
    from rewardft.runs.samples import held_out_pictures

    found: list[Picture] = []

    def fill(place: Path) -> None:
        for pair in held_out_pictures(run, count, place):
            base, tuned = (str((folder / p.name).relative_to(out)) for p in (pair.base, pair.tuned))
            found.append(Picture(sample=pair.sample, group=pair.group, base=base, tuned=tuned))
        facts = {"source": source, "pictures": [p.model_dump() for p in found]}
        (place / "index.json").write_text(json.dumps(facts))

    write_folder(folder, fill)
    return found


def drawn_before(index: Path, source: list[Any]) -> list[Picture] | None:
    """The pictures of an earlier report; None where they are of something else, or the file is
    damaged: they are drawn again."""
    try:
        kept = json.loads(index.read_text(encoding="utf-8"))
        if kept["source"] == source:
            return [Picture.model_validate(picture) for picture in kept["pictures"]]
    # ValueError: no JSON, or no picture.
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return None


def plugin_sections(
    members: Sequence[Member], record: ComparisonRecord, out: Path
) -> list[Section]:
    """What the plugins of the recipes add to the report; each is asked once, and alone."""
    # By name and folder: `./plugin.py` of two recipes may be two plugins.
    wanted = {
        (name, member.recipe.base): None
        for member in members
        if member.recipe is not None
        for name in member.recipe.plugins
    }
    sections, asked = list[Section](), set[Path]()
    for name, base in wanted:
        try:
            plugins = load_plugins([name], base)
            files = {plugin.file for plugin in plugins.loaded}
            # Listed by several recipes, under one name or several.
            if files <= asked:
                continue
            asked |= files
            answers = plugins.results("report_sections", record=record, folder=out)
            found = [each for name, answer in answers for each in named_sections(name, answer)]
        except (Exception, SystemExit) as error:
            failed = Section(
                title=f"Nothing from {name}", html=f"<p>{html.escape(said(error))}</p>"
            )
            sections.append(failed)
            continue
        sections += found
    return sections


def named_sections(plugin: str, answer: Any) -> list[Section]:
    """A plugin's sections with its name. Raises PluginError for anything else."""
    sections = answer if isinstance(answer, (list, tuple)) else [answer]
    if not all(isinstance(section, Section) for section in sections):
        raise PluginError(
            f"hook 'report_sections' returned {answer!r:.60}; expected a list of rewardft.Section"
        )
    return [section.model_copy(update={"plugin": plugin}) for section in sections]


def said(error: BaseException) -> str:
    """The error on one line, with what was noted on it."""
    return "; ".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
