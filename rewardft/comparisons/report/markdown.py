"""report.md: the report for where HTML is not shown.

The curves and the pictures are in report.html alone.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from rewardft.comparisons.report import tables
from rewardft.comparisons.report.cells import Cell, Table
from rewardft.comparisons.report.front import front_table
from rewardft.comparisons.report.reading import TERMS
from rewardft.comparisons.report.sentences import lead, sentences
from rewardft.comparisons.report.verdicts import focus, group_of, ranked, value_names
from rewardft.contracts.records import ComparisonRecord, VariantRecord

# Names of metrics are full of underscores, which Markdown takes for emphasis.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!$])")
_VARIANTS_PICTURED, _PICTURES_EACH, _SECTION_CHARACTERS = 12, 2, 20_000


def markdown(record: ComparisonRecord) -> str:
    """The whole report as GitHub's Markdown: text is escaped,
    plugins' sections stand as they were given."""
    blocks = [
        f"# {escape(record.title)}",
        _facts(record),
        *_summary(record),
        *_results(record),
        *_pictures(record),
        *_if_any("## Alarms", tables.alarm_table(record)),
        *_if_any("## Failures", tables.failure_table(record)),
        *_if_any("## Cost", tables.cost_table(record)),
        *_if_any("## Search", tables.search_table(record)),
        *_if_any("## What differs", tables.differences_table(record)),
        *_if_any(
            "### Settings in common",
            tables.pairs_table("Settings", ("Setting", "Value"), record.common),
        ),
        *_sections(record),
        "## Reproduce",
        code(record.command),
        *_commands(record),
        *(
            ["## Notes", "\n".join(f"- {escape(note)}" for note in record.notes)]
            if record.notes
            else []
        ),
        *_if_any(
            "## Versions", tables.pairs_table("Versions", ("Package", "Version"), record.versions)
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _commands(record: ComparisonRecord) -> list[str]:
    """How each run is repeated alone, to be copied."""
    lines = [
        f"# {' '.join(variant.name.split())}, seed {run.seed}\n{run.command}"
        for variant in record.variants
        for run in variant.runs
        if run.command
    ]
    return ["### Single runs", code("\n".join(lines))] if lines else []


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    # On one line: a line break would end a table's row.
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """A fenced block whose fence is longer than any in the text."""
    # A command may itself hold backticks.
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


def table(content: Table) -> str:
    """A table in GitHub's form, its first column to the left."""
    align = "---:" if content.kind != "text" else "---"
    rule = ["---", *[align] * (len(content.columns) - 1)]
    rows = [[_cell(cell) for cell in row] for row in content.rows]
    lines = [[escape(column) for column in content.columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    if cell.block:
        # A table's cell is one line in Markdown.
        return "<br>".join(escape(line) for line in cell.text.splitlines())
    return f"{cell.mark} {escape(cell.text)}".strip()


def _facts(record: ComparisonRecord) -> str:
    budget = f" · budget {escape(record.budget)}" if record.budget else ""
    return f"{escape(record.date)} · seeds {', '.join(map(str, record.seeds))}{budget}"


def _summary(record: ComparisonRecord) -> list[str]:
    said = "\n".join(
        f"- **{escape(one.variant)}** {escape(f'{one.text} {one.detail}')}"
        for one in sentences(record)
    )
    return ["## Summary", escape(" ".join(lead(record))), *([said] if said else [])]


def _results(record: ComparisonRecord) -> list[str]:
    names = value_names(record)
    if not names:
        return []
    first = focus(record)
    full = [
        block
        for name in names
        for block in _if_any(f"### {escape(name)}", tables.value_table(record, name))
    ]
    # The marks are explained once, where they are first seen.
    legend = "▲ better, ▼ worse, ↑ higher, ↓ lower, ≈ not separable within the 95 % interval."
    known = set(names)
    whole = [name for name in names if group_of(name, known) is None]
    overview = (
        ["### All values", table(tables.overview_table(record, whole))] if len(whole) > 1 else []
    )
    if grouped := [name for name in names if name not in whole]:
        overview += [
            "### By group of samples",
            table(tables.overview_table(record, grouped, "groups of samples")),
        ]
    meanings = "\n".join(
        f"- **{escape(term)}**: {escape(meaning)}" for term, meaning in TERMS.items()
    )
    return [
        "## Results",
        legend,
        # The value that the comparison is about comes before the overview, all others after it.
        *(full[:2] if names[0] == first else []),
        *_if_any("### Pareto front", front_table(record)),
        *overview,
        *(full[2:] if names[0] == first else full),
        "### How to read the tables",
        meanings,
    ]


def _pictures(record: ComparisonRecord) -> list[str]:
    # The best ones; report.html has them all.
    shown = [variant for variant in ranked(record) if variant.pictures][:_VARIANTS_PICTURED]
    if not shown:
        return []
    rows = [row for variant in shown for row in _picture_rows(variant)]
    return [
        "## Samples",
        "The same sample and noise before and after training; more of them in report.html.",
        "\n".join(["| Variant | Sample | Base | Tuned |", "| --- | --- | --- | --- |", *rows]),
    ]


def _picture_rows(variant: VariantRecord) -> list[str]:
    return [
        f"| {escape(variant.name)} | {escape(picture.sample)} "
        f"| ![{escape(picture.sample)}, base]({quote(picture.base)}) "
        f"| ![{escape(picture.sample)}, {escape(variant.name)}]({quote(picture.tuned)}) |"
        for picture in variant.pictures[:_PICTURES_EACH]
    ]


def _sections(record: ComparisonRecord) -> list[str]:
    blocks = []
    for section in record.sections:
        # GitHub cuts long files off, and the rest of the report with them.
        long = len(section.html) > _SECTION_CHARACTERS
        blocks += [
            f"## {escape(section.title)}",
            "In report.html." if long else section.html.strip(),
        ]
    return blocks


def _if_any(heading: str, content: Table) -> list[str]:
    return [heading, table(content)] if content.rows else []
