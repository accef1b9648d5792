"""Names and options in a sentence: what differs, and no more than a line or two of a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

WIDEST = 60  # characters of a value
MOST_NAMES = 4  # beside what they have in common
MOST_GROUPS = 8  # variants that are named with what is their own

Sections = Mapping[str, Mapping[str, Any]]  # options by variant


def listed(names: Sequence[str], most: int = 6) -> str:
    """`a, b, c`, or `a, b and 5 more`."""
    # `and 1 more` is as long as a name.
    if len(names) <= most + 1:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def shown(value: Any) -> str:
    """A value as a recipe has it, cut where it is long."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        text = f"{{{', '.join(f'{key}: {shown(one)}' for key, one in value.items())}}}"
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def differing(sections: Sections) -> str:
    """'a: size 20 (others 80); b, c: mode given (others dropped)': each option in which sections
    differ, where it differs from what most have; '' where all are the same.

    Where no value is that of most, every variant's is said.
    """
    own: dict[str, list[str]] = {}
    for key, values in spread(sections).items():
        for names, said in said_of(key, values):
            own.setdefault(listed(names, MOST_NAMES), []).append(said)
    groups = [f"{names}: {', '.join(said)}" for names, said in own.items()]
    more = len(groups) - MOST_GROUPS
    return "; ".join(groups[:MOST_GROUPS]) + (f"; and {more} more" if more > 0 else "")


def spread(sections: Sections) -> dict[str, dict[str, Any]]:
    """Each option with its value by variant, those of a component inside as `option.its_option`.

    Options of another component are none of a variant's: `use` says enough of them.
    """
    found: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for section in sections.values() for key in section):
        having = {section.get("use") for section in sections.values() if key in section}
        values = {
            name: section.get(key, "its default")
            for name, section in sections.items()
            if section.get("use") in having
        }
        if all(isinstance(value, dict) for value in values.values()):
            found |= {f"{key}.{inner}": each for inner, each in spread(values).items()}
        else:
            found[key] = values
    return found


def said_of(key: str, values: Mapping[str, Any]) -> Iterator[tuple[list[str], str]]:
    """(variants, what is said of them) for each value of an option but that of most variants."""
    alike: dict[str, list[str]] = {}
    for name, value in values.items():
        alike.setdefault(json.dumps(value), []).append(name)
    if len(alike) == 1:
        return
    # A component's name says what it is.
    word = "" if key == "use" else f"{key.removesuffix('.use')} "
    largest, second = sorted(alike.values(), key=len, reverse=True)[:2]
    usual = largest if len(largest) > len(second) else None
    others = "" if usual is None else f" (others {shown(values[usual[0]])})"
    for names in alike.values():
        if names is not usual:
            yield names, f"{word}{shown(values[names[0]])}{others}"
