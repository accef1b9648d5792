"""Draw the imports between the folders of the core into docs/architecture.md.

    python docs/draw_architecture.py           # rewrite the diagram
    python docs/draw_architecture.py --check   # exit code 1 if it is out of date

Imports for types count. Arrows that follow from others are left out, to show the order.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
START, END = "<!-- picture:start -->", "<!-- picture:end -->"


def packages() -> dict[str, list[Path]]:
    """The files of each folder and of each module that lies directly in the core."""
    core = ROOT / "rewardft"
    folders = [p for p in core.iterdir() if (p / "__init__.py").exists()]
    found = {p.name: sorted(p.rglob("*.py")) for p in folders}
    found |= {p.stem: [p] for p in core.glob("*.py") if not p.stem.startswith("__")}
    return dict(sorted(found.items()))


def imported(path: Path) -> set[str]:
    """The packages that a file imports from, at its top, in functions and for types."""
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
    """Who imports whom, by package."""
    found = packages()
    return {
        package: {name for path in paths for name in imported(path)} & found.keys() - {package}
        for package, paths in found.items()
    }


def below(package: str, arrows: dict[str, set[str]]) -> set[str]:
    """Everything that a package reaches."""
    reached: set[str] = set()
    waiting = list(arrows[package])
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += arrows[here]
    return reached


def diagram() -> str:
    """A mermaid diagram without the arrows that follow from others."""
    arrows = edges()
    lines = ["```mermaid", "graph TD"]
    for package, targets in arrows.items():
        implied = {far for near in targets for far in below(near, arrows)}
        lines += [f"    {package} --> {target}" for target in sorted(targets - implied)]
    count = sum(map(len, arrows.values()))
    upward = sum(
        package in below(target, arrows) for package in arrows for target in arrows[package]
    )
    parts = f"{len(arrows)} packages and modules, {count} imports between them"
    facts = f"{parts}, {upward} of them in a cycle."
    return "\n".join([*lines, "```", "", facts])


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    drawn = f"{head}{START}\n\n{diagram()}\n\n{END}{tail}"
    if "--check" in sys.argv:
        return int(drawn != text)
    PAGE.write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
