"""Values from a recipe against Python annotations: conversion, and sentences that say what was
expected.

Checking is strict: text is never taken for a number, nor a number for a truth value. What is
converted: a whole number where a number is expected, text where a path is, a list where a tuple or
    set is.
"""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)

_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    type(None): "null",
    None: "null",
    dict: "a mapping",
    list: "a list",
    tuple: "a list",
    set: "a list",
    frozenset: "a list",
}
_BOUNDS = (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "of at most"))
_TRUTH_WORDS = {"on", "off", "yes", "no", "true", "false"}


class Mismatch(Exception):
    """A value does not fit its annotation; the text says what was expected and what was got."""


def convert(annotation: Any, value: Any) -> Any:
    """Return `value` converted to `annotation`, or raise `Mismatch`."""
    # Without one there is nothing to check against: the factory decides.
    adapter = adapter_of(annotation)
    if adapter is None:
        return value
    try:
        # JSON mode is strict about scalars, yet takes a list for a tuple and text for a path:
        # YAML's own vocabulary.
        return adapter.validate_json(json.dumps(value), strict=True)
    # It names types that only checkers know, such as `list["Mine"]`: the factory decides.
    except PydanticUserError:
        return value
    # Pydantic's own words speak of JSON and of Python types.
    except ValidationError:
        raise Mismatch(mismatch(annotation, value)) from None


def mismatch(annotation: Any, value: Any, constraints: Iterable[Any] = ()) -> str:
    """The sentence for a value that does not fit."""
    text = f"expected {type_words(annotation, constraints)}, got {value_words(value)}"
    advice = _advice_for_components(annotation, value) or _advice(set(_leaves(annotation)), value)
    return f"{text}; {advice}." if advice else f"{text}."


@functools.cache
def adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    """None when the annotation is not one that values can be checked against (an unknown or
    unresolved type)."""
    if annotation is Any or isinstance(annotation, (str, typing.TypeVar)):
        return None
    try:
        return TypeAdapter(annotation, config=STRICT)
    # A type that pydantic does not know is the factory's own business.
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return None
    # A dataclass, TypedDict or pydantic model carries its own configuration.
    except PydanticUserError:
        return TypeAdapter(annotation)


def type_words(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    """An annotation in words: 'a whole number of at least 1', "one of 'stop', 'skip'"."""
    origin, args = get_origin(annotation), get_args(annotation)
    # The bounds are part of the sentence: "a whole number of at least 1".
    if origin is Annotated:
        return type_words(args[0], [*args[1:], *constraints])
    if origin is Literal:
        shown = ", ".join(_literal(a) for a in args)
        return f"one of {shown}" if len(args) > 1 else shown
    if origin in (Union, types.UnionType):
        return _either([type_words(a, () if a is type(None) else constraints) for a in args])
    return _plain_words(annotation, origin, args) + _constraint_words(constraints)


def value_words(value: Any) -> str:
    """A YAML value in words: "'fast' (text)"."""
    if value is None:
        return "nothing (null)"
    # Before numbers: `True` is an int in Python.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return (
            f"a mapping with the keys {', '.join(map(str, value))}" if value else "an empty mapping"
        )
    text = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"{text} ({_NAMES[type(value)]})" if type(value) in _NAMES else text


def _plain_words(annotation: Any, origin: Any, args: tuple[Any, ...]) -> str:
    if isinstance(annotation, type) and origin is None:
        if issubclass(annotation, Path):
            return "a path"
        if issubclass(annotation, BaseModel):
            return "a mapping"
        return _NAMES.get(annotation, annotation.__name__)
    if origin is tuple and args[-1:] != (Ellipsis,):
        return f"a list of {len(args)} values ({', '.join(map(type_words, args))})"
    base = _NAMES.get(origin) or (
        "a mapping" if origin and issubclass(origin, Mapping) else "a list"
    )
    return f"{base} (each {type_words(args[0])})" if base == "a list" and args else base


def _constraint_words(constraints: Iterable[Any]) -> str:
    # Pydantic's Field holds its bounds.
    rules = [rule for c in constraints for rule in getattr(c, "metadata", [c])]
    bounds = [
        f"{word} {getattr(r, name)}" for name, word in _BOUNDS for r in rules if hasattr(r, name)
    ]
    empty = " that is not empty" if any(getattr(r, "min_length", 0) for r in rules) else ""
    label = (
        " (letters, numbers, - and _; dots inside)"
        if any(getattr(r, "pattern", 0) for r in rules)
        else ""
    )
    return (" " + " and ".join(bounds) if bounds else "") + empty + label


def _literal(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _either(words: list[str]) -> str:
    # `list[str] | tuple[str, ...]` is "a list" twice.
    unique = list(dict.fromkeys(words))
    return unique[0] if len(unique) == 1 else f"{', '.join(unique[:-1])} or {unique[-1]}"


def _leaves(annotation: Any) -> Iterable[Any]:
    """The alternatives of an annotation: origins of generics, members of unions."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _leaves(args[0])
    elif origin in (Union, types.UnionType):
        for arg in args:
            yield from _leaves(arg)
    else:
        yield origin or annotation


def _advice_for_components(annotation: Any, value: Any) -> str:
    """A component, or its name alone, where a list of components is expected."""
    if get_origin(annotation) is not list or not any(map(_is_component, get_args(annotation))):
        return ""
    if isinstance(value, Mapping) and "use" in value:
        return (
            "put it in a list: [{use: "
            + str(value["use"])
            + (", ...}]" if len(value) > 1 else "}]")
        )
    return f"write [{{use: {_named(value)}}}]" if isinstance(value, str) else ""


def _named(value: str) -> str:
    """The component that text names: `use:x` is text, for want of a space."""
    return value.removeprefix("use:").strip()


def _is_component(annotation: Any) -> bool:
    return (
        isinstance(annotation, type)
        and issubclass(annotation, BaseModel)
        and "use" in annotation.model_fields
    )


def _is_mapping(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, (BaseModel, dict, Mapping))


def _advice(wanted: set[Any], value: Any) -> str:
    """How to fix the commonest slips."""
    if isinstance(value, str):
        return _advice_for_text(wanted, value)
    if str in wanted and isinstance(value, (bool, int, float)):
        return "put it in quotes"
    if int in wanted and isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if value is None:
        return "give a value or remove the line"
    return ""


def _advice_for_text(wanted: set[Any], value: str) -> str:
    if type(None) in wanted and value.casefold() in ("none", "nil"):
        return "write null"
    # `yes` and `on` are text in YAML 1.2, and truth values in most people's memory.
    if bool in wanted and value.casefold() in _TRUTH_WORDS:
        return "write true or false, without quotes"
    if wanted & {int, float} and _reads_as_number(value):
        return "write the number without quotes, underscores or units"
    if any(map(_is_component, wanted)):
        return f"write {{use: {_named(value)}}}"
    # Without the space, `steps:3` on a line of its own is text.
    slip = re.fullmatch(r"(\w+):(\S.*)", value, re.DOTALL)
    if slip and any(_is_mapping(kind) for kind in wanted):
        return f"is a space missing? Write {slip[1]}: {slip[2]:.60}"
    return f"write [{value}]" if wanted & {list, tuple, set, frozenset} else ""


def _reads_as_number(text: str) -> bool:
    try:
        float(text.replace("_", ""))
    except ValueError:
        return False
    return True
