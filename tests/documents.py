"""The documentation as data: its files, code blocks, commands and links."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
NAMED = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```", re.S | re.M)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name, *languages):
    """Code blocks of a document in one of the languages."""
    return [body for language, body in FENCE.findall(read(name)) if language in languages]


def files_in(name):
    """Code blocks that a document prints as files, by file name."""
    return dict(NAMED.findall(read(name)))


def prose(name):
    """A document without its code blocks."""
    return FENCE.sub("", read(name))


def table_rows(text):
    """The rows of the Markdown tables in `text`, cell by cell; heading and rule lines are left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rules = {i for i, line in enumerate(lines) if re.fullmatch(r"[|\-: ]+", line)}
    rows = [line for i, line in enumerate(lines) if i not in rules and i + 1 not in rules]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def words(cell):
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)
