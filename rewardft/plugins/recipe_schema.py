"""JSON Schema of recipes, with the options of every component that is known.

It is draft-07, which editors know best. `use` decides which options a section may have: of each
component the keys are closed. A recipe that lists a plugin that is not known here, such as a file,
may name components that the schema does not know either; these are left unchecked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic.errors import PydanticUserError

from rewardft.plugins.annotations import annotation_of
from rewardft.plugins.component import NESTED, option_parameters
from rewardft.plugins.described import option_help
from rewardft.plugins.entries import SINGULAR, Entry
from rewardft.recipe.sections import (
    ComponentSpec,
    OptimizerSpec,
    Section,
    Sections,
    section_of,
)
from rewardft.recipe.typed_values import adapter_of

Schema = dict[str, Any]

# Sections that name a component, by the path of their key; lists of them end in `[]`.
PLACES = {
    "model": "models",
    "sampler": "samplers",
    "data": "datasets",
    "algorithm": "algorithms",
    "rewards[]": "rewards",
    "regularizers[]": "regularizers",
    "evaluate.sampler": "samplers",
    "evaluate.rewards[]": "rewards",
    "evaluate.metrics[]": "metrics",
}


class RecipeSchema:
    """Makes the schema of a recipe; what several sections share goes into `definitions`."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.definitions: dict[str, Schema] = {}

    def recipe(self, plugins: Iterable[str]) -> Schema:
        """The schema of a whole recipe. plugins: whose components are known, as a recipe names
        them."""
        # Editors read it as JavaScript does, which does not take all that `re.escape` escapes.
        names = "|".join(re.sub(r"([.^$*+?()\[\]{}|\\])", r"\\\1", one) for one in sorted(plugins))
        # A version requirement may follow a name.
        known = {"items": {"pattern": rf"^({names})\s*([<>=!~].*)?$"}}
        condition = {"properties": {"plugins": known}}
        root = self.section(Sections)
        return {**root, "if": condition, "then": {"properties": self.only_known_names()}}

    def section(self, cls: type[Section], path: str = "") -> Schema:
        """A section of fixed keys, with the sections inside it."""
        fields = {name: info for name, info in cls.model_fields.items() if name != "options"}
        required = [name for name, info in fields.items() if info.is_required()]
        # The first paragraph: what follows is for authors of the core.
        about = " ".join((cls.__doc__ or "").partition("\n\n")[0].split())
        return {
            "type": "object",
            "description": about,
            "properties": {name: self.key(cls, name, path) for name in fields},
            "required": required,
            "additionalProperties": False,
        }

    def key(self, cls: type[Section], name: str, path: str) -> Schema:
        """One fixed key of a section."""
        inner, info = section_of(cls, name), cls.model_fields[name]
        here = f"{path}.{name}".lstrip(".")
        if inner is None:
            return field_schema(cls, name)
        if isinstance(info.default, list):
            return {"type": "array", "items": self.inner(inner, f"{here}[]")}
        found = self.inner(inner, here)
        return {"anyOf": [found, {"type": "null"}]} if info.default is None else found

    def inner(self, cls: type[Section], here: str) -> Schema:
        """A section by its place: one that names a component has its options too."""
        if here in PLACES:
            return self.component(PLACES[here], cls)
        fixed = self.section(cls, here)
        if cls is not OptimizerSpec:
            return fixed
        # Other optimizers come from a hook, which does not list their options.
        core = {"properties": {"use": {"pattern": "^[aA][dD][aA][mM][wW]$"}}}
        return {**fixed, "additionalProperties": True, "if": core, "then": fixed}

    def component(self, kind: str, cls: type[Section]) -> Schema:
        """A section with `use`: what else it may hold follows from the name."""
        name = f"{kind}.{cls.__name__}"
        if name not in self.definitions:
            self.definitions[name] = {}  # first: an option may be of the same kind
            fixed = self.section(cls)
            mine = [entry for entry in self.entries if entry.kind == kind]
            # The names first: an editor completes them. Then any other, of a file's component.
            text = {"type": "string", "minLength": 1}
            use = {"anyOf": [{"enum": [entry.name for entry in mine]}, text]}
            self.definitions[name] = {
                "type": "object",
                "description": f"A {SINGULAR[kind]}: {{use: NAME, OPTION: ...}}.",
                "properties": {**fixed["properties"], "use": use},
                "required": fixed["required"],
            }
            choices = [self.choice(entry, fixed["properties"]) for entry in mine]
            # No plugin may have any of this kind, and an empty list is no schema.
            self.definitions[name] |= {"allOf": choices} if choices else {}
        return {"$ref": f"#/definitions/{name}"}

    def choice(self, entry: Entry, fixed: Mapping[str, Any]) -> Schema:
        """One component's options beside the fixed keys of its section, and nothing else."""
        named = {"properties": {"use": {"const": entry.name}}, "required": ["use"]}
        known = option_parameters(entry).values()
        options = [p for p in known if p.kind is not p.VAR_KEYWORD]
        about = option_help(entry)
        properties = {p.name: self.option(entry, p, about.get(p.name, "")) for p in options}
        use = {"description": f"{entry.summary} (plugin {entry.plugin})".strip()}
        then: Schema = {
            "properties": {**fixed, "use": use, **properties},
            "required": [p.name for p in options if p.default is p.empty],
        }
        if len(options) == len(known):
            then["additionalProperties"] = False
        return {"if": named, "then": then}

    def option(self, entry: Entry, parameter: Any, about: str) -> Schema:
        """One option: its type, help and default."""
        annotation = annotation_of(entry, parameter)
        if annotation in NESTED:
            return self.component(NESTED[annotation], ComponentSpec)
        found, own = value_schema(annotation, f"{entry.kind}.{entry.name}.")
        self.definitions |= own
        # `null` is the default spelled out, even where the annotation forgot `| None`.
        if parameter.default is None:
            found = {"anyOf": [found, {"type": "null"}]}
        given = parameter.default is not parameter.empty
        return {**found, **described(about), **(with_default(parameter.default) if given else {})}

    def only_known_names(self) -> Schema:
        """For a recipe whose plugins are all known: `use` is one of the names."""
        properties: dict[str, Any] = {"evaluate": {"properties": {}}}
        for path, kind in PLACES.items():
            section, _, key = path.removesuffix("[]").rpartition(".")
            names = [entry.name for entry in self.entries if entry.kind == kind]
            one = {"properties": {"use": {"enum": names}}}
            place = properties[section]["properties"] if section else properties
            place[key] = {"items": one} if path.endswith("[]") else one
        return properties


def field_schema(cls: type[Section], name: str) -> Schema:
    """A fixed key without sections in it: its type, bounds and default."""
    info = cls.model_fields[name]
    annotation: Any = info.annotation
    for mark in info.metadata:
        annotation = Annotated[annotation, mark]
    found, _ = value_schema(annotation, "")
    return found if info.is_required() else {**found, **with_default(info.default)}


def value_schema(annotation: Any, prefix: str) -> tuple[Schema, dict[str, Schema]]:
    """What fits an annotation, which is anything for a type that YAML has not, and the definitions
    that this refers to, under names with the prefix."""
    adapter = adapter_of(annotation)
    if adapter is None:
        return {}, {}
    try:
        found = adapter.json_schema(ref_template=f"#/definitions/{prefix}{{model}}")
    except PydanticUserError:  # of a type that no JSON has, or that only checkers know
        return {}, {}
    own = {f"{prefix}{name}": draft_7(one) for name, one in found.pop("$defs", {}).items()}
    return draft_7(found), own


def draft_7(schema: Any) -> Any:
    """Lists of fixed length in the words of draft-07; titles, which repeat the keys, left out."""
    if isinstance(schema, list):
        return [draft_7(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        "items" if key == "prefixItems" else key: draft_7(value)
        for key, value in schema.items()
        # A property may be called `title`; its value is then a schema.
        if not (key == "title" and isinstance(value, str))
    }


def described(text: str) -> Schema:
    """Help that editors show."""
    return {"description": text} if text else {}


def with_default(default: Any) -> Schema:
    """The default, where JSON can hold it."""
    try:
        return {"default": json.loads(json.dumps(default, allow_nan=False))}
    except (TypeError, ValueError):
        return {}
