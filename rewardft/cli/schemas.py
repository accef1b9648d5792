"""`schema`: recipes and comparison files as editors check and complete them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rewardft.comparisons.file_schema import comparison_schema
from rewardft.files.atomic import write_text
from rewardft.files.paths import local_path
from rewardft.plugins.described import every_component
from rewardft.plugins.recipe_schema import RecipeSchema
from rewardft.plugins.sources import installed

DRAFT = "http://json-schema.org/draft-07/schema#"


def write_schema(names: Sequence[str], out: Path | None) -> None:
    """Print the schema, or write it to a file and say how an editor finds it there."""
    text = json.dumps(file_schema(names), indent=1) + "\n"
    if out is None:
        print(text, end="")
        return
    write_text(local_path(out, Path.cwd()), text)
    print(f"{out}: first line of a recipe beside it: # yaml-language-server: $schema={out.name}")


def file_schema(names: Sequence[str] = ()) -> dict[str, Any]:
    """One schema for recipes and comparison files: the latter have the key `recipes`.

    names: plugins that are known beside the installed ones, as a recipe lists them.
    """
    maker = RecipeSchema(every_component(names))
    known = [points[0].name for points in installed().values()]
    recipe = maker.recipe([*known, *names])
    return {
        "$schema": DRAFT,
        "title": "A recipe or a comparison of rewardft",
        "if": {"required": ["recipes"]},
        "then": {"$ref": "#/definitions/comparison"},
        "else": {"$ref": "#/definitions/recipe"},
        "definitions": {"recipe": recipe, "comparison": comparison_schema(), **maker.definitions},
    }
