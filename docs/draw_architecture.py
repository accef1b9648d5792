"""Draw the imports between the folders of the core into docs/architecture.md.

    python docs/draw_architecture.py           # rewrite the picture
    python docs/draw_architecture.py --check   # exit code 1 where it is out of date

Imports for types count. An arrow that follows from two others is left out: the picture shows the
order.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- picture:start -->", "<!-- picture:end -->"


def rooms() -> dict[str, list[Path]]:
    """The files of each folder and of each module that lies directly in the core."""
    core = ROOT / "rewardft"
    folders = [p for p in core.iterdir() if (p / "__init__.py").exists()]
    found = {p.name: sorted(p.rglob("*.py")) for p in folders}
    found |= {p.stem: [p] for p in core.glob("*.py") if not p.stem.startswith("__")}
    return dict(sorted(found.items()))


def imported(path: Path) -> set[str]:
    """The rooms that a file imports from, at its top, in functions and for types."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = node.module.split(".")
            if module[0] == "rewardft":
                direct = [alias.name for alias in node.names]  # `from rewardft import files`
                names |= set(direct if len(module) == 1 else module[1:2])
        if isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            names |= {part[1] for part in parts if part[0] == "rewardft" and len(part) > 1}
    return names


def edges() -> dict[str, set[str]]:
    """Who imports whom, by room."""
    all_rooms = rooms()
    return {
        room: {name for path in paths for name in imported(path)} & all_rooms.keys() - {room}
        for room, paths in all_rooms.items()
    }


def below(room: str, arrows: dict[str, set[str]]) -> set[str]:
    """Everything that a room reaches."""
    reached: set[str] = set()
    waiting = list(arrows[room])
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += arrows[here]
    return reached


def picture() -> str:
    """A mermaid drawing without the arrows that follow from others."""
    arrows = edges()
    lines = ["```mermaid", "graph TD"]
    for room, targets in arrows.items():
        implied = {far for near in targets for far in below(near, arrows)}
        lines += [f"    {room} --> {target}" for target in sorted(targets - implied)]
    count = sum(map(len, arrows.values()))
    upward = sum(room in below(target, arrows) for room in arrows for target in arrows[room])
    facts = f"{len(arrows)} rooms, {count} imports between them, {upward} in a circle."
    return "\n".join([*lines, "```", "", facts])


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    drawn = f"{head}{START}\n\n{picture()}\n\n{END}{tail}"
    if "--check" in sys.argv:
        return int(drawn != text)
    PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
