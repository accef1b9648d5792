"""YAML without surprises: what a recipe says is what is read, and every value knows its line.

YAML 1.1 as PyYAML reads it turns `1e-4` into text, `on` and `no` into truth values, `12:30:00` into
45000 and lets a repeated key win silently. Here numbers and truth values follow the YAML 1.2 core
schema, a repeated key is a problem, and tags, anchors and aliases are refused: a recipe is data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from rewardft.recipe.yaml_syntax import DEEPEST, Problem, TooDeep, syntax_problem

Keys = tuple[str | int, ...]

LONGEST = 100_000  # characters, read in a second or two; the longest shipped recipe has 1,849
LARGEST_INT = 2**63 - 1

# YAML 1.2's core schema: no `1_000`, no `12:30` in base 60. It reads `0777` in tens and YAML 1.1 in
# eights; a number that two readers take for two is refused here.
_INT = re.compile(r"[-+]?[0-9]+|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", _INT.pattern, "-+0123456789"),
    ("float", _FLOAT.pattern, "-+0123456789."),
)
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Document:
    """Parsed YAML. `lines[("rewards", 0, "weight")]` is the line of that key or list item, counting
    from 1."""

    data: Any = None
    lines: dict[Keys, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class _StrictLoader(yaml.SafeLoader):
    """Composes nodes with the YAML 1.2 core types and notes tags, anchors and aliases as
    problems."""

    # Its own: PyYAML's are YAML 1.1's, and shared by all loaders of the class.
    yaml_implicit_resolvers: dict[str, Any] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.problems: list[Problem] = []
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        mark = event.start_mark
        line = mark.line + 1 if mark else None
        if isinstance(event, yaml.AliasEvent):
            self.problems.append(
                Problem(
                    line, f"'*{event.anchor}' is an alias; recipes have none: repeat the value."
                )
            )
            self.get_event()
            # Something in its place, so that reading goes on to the next problem.
            return yaml.ScalarNode("tag:yaml.org,2002:null", "")
        if event.anchor is not None:
            self.problems.append(
                Problem(line, f"'&{event.anchor}' is an anchor; recipes have none: remove it.")
            )
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(
                Problem(line, f"{tag!r} is a tag; recipes are data and have none: remove it.")
            )
            # The type then follows from the text, as without a tag.
            event.implicit = True if isinstance(event, yaml.CollectionStartEvent) else (True, False)
        # Composed as if they were not there, so that all problems are found in one pass.
        event.anchor = event.tag = None
        if self.depth == DEEPEST:
            # Before Python's recursion limit, which would end the program in the middle of PyYAML.
            raise TooDeep(problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _StrictDumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or the strict reader would take for something other than text;
    writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _RESOLVERS:
    # The dumper too: it quotes text that the reader would take for something else.
    for _cls in (_StrictLoader, _StrictDumper):
        _cls.add_implicit_resolver(
            f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )


def parse(text: str) -> Document:
    """Parse one YAML document; what is wrong is in `problems`, never raised. Empty text gives
    `data` None."""
    document = Document()
    if len(text) > LONGEST:
        document.problems.append(
            Problem(None, f"{len(text):,} characters; at most {LONGEST:,} are read.")
        )
        return document
    try:
        # Nodes and not values: only nodes know their lines.
        loader = _StrictLoader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        document.problems.append(syntax_problem(error, text))
        return document
    document.problems += loader.problems
    if node is not None:
        document.data = _build(node, (), document)
    return document


def dump(data: Any) -> str:
    """Write `data` so that `parse` reads back the same values. Keys keep their order."""
    return yaml.dump(data, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True, width=120)


def _build(node: yaml.Node, keys: Keys, document: Document) -> Any:
    """Turn a node into plain data, noting lines and problems on the way."""
    if keys:
        document.lines.setdefault(keys, _line(node))
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*keys, i), document) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return {
            key: _build(value, (*keys, key), document)
            for key, value in _pairs(node, keys, document)
        }
    return _scalar(node, document)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 1


def _pairs(
    node: yaml.MappingNode, keys: Keys, document: Document
) -> Iterator[tuple[str, yaml.Node]]:
    for key_node, value in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode) or not key_node.tag.endswith(":str"):
            is_scalar = isinstance(key_node, yaml.ScalarNode)
            got = key_node.value if is_scalar else "a list or mapping"
            document.problems.append(Problem(line, f"a key must be text, got {got!r}."))
            continue
        key = _text(key_node, str(key_node.value), document)
        if missing := _missing_space(key_node, value):
            document.problems.append(Problem(line, missing))
            continue
        # YAML 1.1 readers let the last one win, which hides an edit further up.
        if (*keys, key) in document.lines:
            first = document.lines[(*keys, key)]
            document.problems.append(
                Problem(line, f"the key {key!r} is repeated; it is first given on line {first}.")
            )
            continue
        # Of the key and not of its value, which may begin lines below.
        document.lines[(*keys, key)] = line
        yield key, value


def _missing_space(key: yaml.Node, value: yaml.Node) -> str:
    """The problem of `{use:x}`, which is one key `use:x` without a value, and of `model:{use: x}`,
    which is the key `model:{use`; '' for other keys."""
    name, colon, rest = str(key.value).partition(":")
    # A key in quotes means what it says; only a plain one may be a slip.
    if not colon or getattr(key, "style", None) is not None or rest[:1] in ("", "/"):
        return ""
    if rest[0] in "{[":
        return f"a space is missing after the colon of {name!r}: write {name}: {rest} ..."
    if getattr(value, "value", None) != "":
        return ""
    return f"{key.value!r} is a key without a value; is a space missing? Write {name}: {rest}"


def _scalar(node: yaml.Node, document: Document) -> Any:
    kind = node.tag.rsplit(":", 1)[-1]
    text = str(node.value)
    if kind in ("bool", "null"):
        return _WORDS[text.lower()]
    if kind == "int":
        return _whole(node, text, document)
    if kind != "float":
        return _text(node, text, document)
    number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(number):
        message = f"numbers must be finite, got {_short(text)}."
        document.problems.append(Problem(_line(node), message))
    return number


def _whole(node: yaml.Node, text: str, document: Document) -> int:
    """An integer of at most 64 bits, which is what PyTorch and every file format take."""
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    plain = text.lstrip("+-") if base == 10 else text[2:]
    digits = plain.lstrip("0") or "0"
    if base == 10 and len(plain) > len(digits):
        in_tens = _short(f"{'-' * text.startswith('-')}{digits}")
        in_eights = f", 0o{digits} for eights" * bool(re.fullmatch("0+[1-7][0-7]{0,20}", text))
        message = (
            f"{_short(text)} begins with 0, which some YAML readers take for eights and others for "
            f"tens: write {in_tens} for tens{in_eights}, or put it in quotes if it is text."
        )
        document.problems.append(Problem(_line(node), message))
    number = LARGEST_INT + 1  # more digits than are worth looking at
    # Python takes quadratic time for the digits of a long number.
    if len(digits) <= 25:
        number = int(digits, base) * (-1 if text.startswith("-") else 1)
    if abs(number) > LARGEST_INT:
        message = f"whole numbers must fit in 64 bits, got {_short(text)}."
        document.problems.append(Problem(_line(node), message))
        # A value in its place: the problem stops the recipe, and others are found meanwhile.
        return 0
    return number


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:12]}... ({len(text):,} characters)"


def _text(node: yaml.Node, text: str, document: Document) -> str:
    """Text that can be written to a file: `"\\ud800"` is half of a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        message = f"text has no character \\u{half:04x}, which is half of a pair."
        document.problems.append(Problem(_line(node), message))
        return text.encode(errors="replace").decode()
    return text
