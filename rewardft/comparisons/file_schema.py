"""JSON Schema of comparison files: what `sources.read_comparison` takes."""

from __future__ import annotations

from typing import Any

from rewardft.comparisons.sources import FILE_KEYS, MOST_SEEDS
from rewardft.plugins.recipe_schema import field_schema
from rewardft.recipe.sections import ComponentSpec, Section, Sections, section_of

TYPES = {list: "array", dict: "object", int: "integer", str: "string"}


def comparison_schema() -> dict[str, Any]:
    """`recipes`, and what may stand beside them; nothing else.

    The keys of settings are checked to the depth of the fixed sections, and the values of these.
    """
    about = {key: f"{key}: {words}." for key, (_, words) in FILE_KEYS.items()}
    keys = {"propertyNames": {"pattern": key_pattern()}}
    values = setting_schemas()
    changes = {"type": "object", **keys, "properties": values}
    lists = {key: {"type": "array", "minItems": 1, "items": value} for key, value in values.items()}
    listed = {"type": "array", "minItems": 1}
    inner: dict[str, dict[str, Any]] = {
        "recipes": {"items": {"type": "string"}, "minItems": 1},
        "set": changes,
        "variants": {"additionalProperties": changes},
        "vary": {**keys, "properties": lists, "additionalProperties": listed},
        "seeds": {"minimum": 1, "maximum": MOST_SEEDS},
    }
    properties = {
        key: {"type": TYPES[kind], "description": about[key], **inner.get(key, {})}
        for key, (kind, _) in FILE_KEYS.items()
    }
    shape = {"type": "object", "description": "Recipes to compare, and what is changed in them."}
    return {
        **shape,
        "properties": properties,
        "required": ["recipes"],
        "additionalProperties": False,
    }


def setting_schemas() -> dict[str, Any]:
    """`train.steps`: the fixed keys by their path, as far as they have a schema of their own."""
    found = {}
    for section, info in Sections.model_fields.items():
        cls = section_of(Sections, section)
        if cls is None:
            found[section] = field_schema(Sections, section)
        elif not isinstance(info.default, list):
            plain = [key for key in plain_keys(cls) if section_of(cls, key) is None]
            found |= {f"{section}.{key}": field_schema(cls, key) for key in plain}
    return found


def key_pattern() -> str:
    """A regular expression for the keys that a setting can have."""
    anything = r"(\..+)?"
    patterns = []
    for section, info in Sections.model_fields.items():
        cls = section_of(Sections, section)
        # Options and items of lists have keys that no fixed section knows.
        if cls is None or isinstance(info.default, list) or issubclass(cls, ComponentSpec):
            patterns.append(section + anything)
            continue
        keys = [key + ("" if is_closed(cls, key) else anything) for key in plain_keys(cls)]
        patterns.append(rf"{section}(\.({'|'.join(keys)}))?")
    return f"^({'|'.join(patterns)})$"


def is_closed(cls: type[Section], key: str) -> bool:
    """Whether nothing can stand below a key."""
    default = cls.model_fields[key].default
    return section_of(cls, key) is None and not isinstance(default, (dict, list, tuple))


def plain_keys(cls: type[Section]) -> list[str]:
    """The keys of a section as a file writes them."""
    return [key for key in cls.model_fields if key != "options"]
