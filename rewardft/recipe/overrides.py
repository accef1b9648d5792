"""Where each value of a recipe comes from, and `--set key.path=value` on top of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewardft.files.json_text import is_whole
from rewardft.recipe import strict_yaml
from rewardft.recipe.strict_yaml import Keys
from rewardft.recipe.yaml_syntax import DEEPEST


@dataclass
class Origin:
    """Where each value of a recipe comes from: a line of the file, or a `--set`.

    base: the folder of the recipe.
    folder: the current one when it was read.
    lacks_plugins: whether the list of plugins is not what it was meant to be.
    """

    source: str
    lines: dict[Keys, int] = field(default_factory=dict)
    overrides: dict[Keys, str] = field(default_factory=dict)
    base: Path = field(default_factory=Path.cwd)
    folder: Path = field(default_factory=Path.cwd)
    lacks_plugins: bool = False

    def base_of(self, keys: Keys) -> Path:
        """The folder that a relative path at `keys` starts at: the recipe's, or that of the shell
        which gave it by `--set`."""
        # Also as part of a section that a `--set` gave as a whole.
        given = any(keys[:end] in self.overrides for end in range(1, len(keys) + 1))
        return self.folder if given else self.base

    def line(self, keys: Keys) -> int | None:
        """The line of the key or list item, or of the nearest section around it that the file
        has."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.overrides:
                return None
            if keys[:end] in self.lines:
                return self.lines[keys[:end]]
        return None

    def where(self, keys: Keys) -> str:
        """'recipe.yaml:12', the `--set` that gave the value or made its section, or the file
        alone."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.overrides:
                return f"--set {shortened(self.overrides[keys[:end]])}"
        # The section itself is in no file: a `--set` below it has made it.
        made = [text for path, text in self.overrides.items() if path[: len(keys)] == keys]
        if made and keys not in self.lines:
            return f"--set {shortened(made[0])}"
        line = self.line(keys)
        return self.source if line is None else f"{self.source}:{line}"


def dotted(keys: Sequence[str | int]) -> str:
    """('rewards', 0, 'weight') -> 'rewards.0.weight'."""
    return ".".join(map(str, keys))


def apply_override(data: dict[str, Any], text: str, origin: Origin) -> list[str]:
    """Apply one `--set`; returns its problems."""
    path, equals, value = text.partition("=")
    here = f"--set {shortened(text)}: "
    if not equals or not all(path.strip().split(".")):
        return [f"{here}expected key.path=value, such as train.steps=100."]
    # Half of a pair, from a shell's bytes that are not UTF-8, could not be written to a file.
    if not is_whole(path):
        return [f"{here}the key has characters that text cannot hold."]
    keys = tuple(_key(word) for word in path.strip().split("."))
    if len(keys) > DEEPEST:
        return [f"{here}a key of {len(keys):,} parts; a recipe is at most {DEEPEST} deep."]
    # As in the file, so that `1e-4` is a number here too.
    document = strict_yaml.parse(value)
    if document.problems:
        return [here + problem.message + _cut(problem.message) for problem in document.problems]
    # The last one could win, but two values for one key are more likely a slip.
    if keys in origin.overrides:
        other = shortened(origin.overrides[keys])
        return [f"{here}{path.strip()} is set twice; the other is --set {other}."]
    # A whole section after one of its keys would replace what was said of that key.
    below = next((path for path in origin.overrides if path[: len(keys)] == keys), None)
    if below is not None:
        inner, outer = shortened(origin.overrides[below]), path.strip()
        return [f"{here}it replaces what --set {inner} sets; give {outer} first."]
    error = _assign(data, keys, document.data)
    if error:
        return [here + error]
    origin.overrides[keys] = text
    return []


def _cut(message: str) -> str:
    """What to do about a value that ends too early: a shell cuts it at a blank."""
    if not message.endswith("not closed before the end."):
        return ""
    return " Has the shell cut it at a blank? Put the whole in quotes: --set 'KEY=VALUE'."


def shortened(text: str) -> str:
    """A setting as messages quote it: one line, not the whole of a long one."""
    line = text if text.isprintable() else repr(text)[1:-1]
    return line if len(line) <= 200 else f"{line[:180]}... ({len(text):,} characters)"


def _key(word: str) -> str | int:
    """A place in a list, or a name."""
    # At most nine digits: Python refuses to read very long ones, with an error of its own.
    return int(word) if word.isdecimal() and word.isascii() and len(word) <= 9 else word


def _assign(data: dict[str, Any], keys: Keys, value: Any) -> str:
    """Put `value` at `keys`, making absent sections on the way; returns what is wrong, or ''."""
    node: Any = data
    for depth, key in enumerate(keys):
        here = dotted(keys[:depth])
        if isinstance(node, list):
            if not isinstance(key, int) or key >= len(node):
                return f"there is no {dotted(keys[: depth + 1])}: {here} {_list_words(node)}."
        elif not isinstance(node, dict):
            return f"{here} is {node!r}, not a section: it has no {key!r} to set."
        elif isinstance(key, int):
            return f"there is no {dotted(keys[: depth + 1])}: {_not_a_list(here, node)}."
        if depth == len(keys) - 1:
            node[key] = value
        # An absent section is made on the way; item 0 of an absent list is a slip.
        elif isinstance(node, dict) and node.get(key) is None:
            if isinstance(keys[depth + 1], int):
                missing = dotted(keys[: depth + 1])
                return f"there is no {dotted(keys[: depth + 2])}: the recipe has no {missing}."
            node[key] = node = {}
        else:
            node = node[key]
    return ""


def _list_words(node: list[Any]) -> str:
    if not node:
        return "is an empty list"
    names = [item["use"] for item in node if isinstance(item, dict) and "use" in item]
    held = f" ({', '.join(map(str, names))})" if names else ""
    return f"is a list of {len(node)}{held}, counted from 0"


def _not_a_list(here: str, node: Mapping[str, Any]) -> str:
    known = f"; its keys are {', '.join(node)}" if node else ""
    return f"{here or 'a recipe'} is a mapping, not a list{known}"
