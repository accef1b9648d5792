"""What can still be read of a recipe that has problems, so that all of them are told at once."""

from __future__ import annotations

from typing import Any

from rewardft.recipe.sections import ComponentSpec, Section, section_of


def salvage(cls: type[Section], folded: Any) -> Any:
    """A section as far as its components can be looked up, from data (see `fold_options`) that has
    problems.

    Nothing is checked; sections that are absent or of another form are None, or their default.
    """
    values: dict[str, Any] = {}
    for key, info in cls.model_fields.items():
        section, value = section_of(cls, key), folded.get(key)
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        if section is None:
            # Of the right kind at least: what reads it must not fail on it.
            same = isinstance(value, type(default)) or default is None
            values[key] = value if same else default
            if isinstance(default, list) and same:  # of names, which are text
                values[key] = [item for item in value if isinstance(item, str)]
        elif isinstance(default, list):
            items = value if isinstance(value, list) else []
            values[key] = [
                salvage(section, item) for item in items if _names_something(section, item)
            ]
        else:
            values[key] = salvage(section, value) if _names_something(section, value) else default
    # Without validation, which has failed already.
    return cls.model_construct(**values)


def _names_something(section: type[Section], value: Any) -> bool:
    named = not issubclass(section, ComponentSpec) or (
        isinstance(value, dict) and isinstance(value.get("use"), str)
    )
    return isinstance(value, dict) and named
