"""Recipes by name: those in the `rewardft_recipes` package, or any file."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import itertools
from pathlib import Path

from rewardft.errors import RecipeError, did_you_mean
from rewardft.files.paths import given_folder, local_path
from rewardft.files.sentences import first_sentence

COMPARISON = "compare_"  # what the names of shipped comparisons begin with


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name, sorted; empty when the recipes' package is not installed."""
    return {name: path for name, path in shipped_files().items() if not name.startswith(COMPARISON)}


def shipped_comparisons() -> dict[str, Path]:
    """The shipped comparison files, which `rewardft compare` runs."""
    return {name: path for name, path in shipped_files().items() if name.startswith(COMPARISON)}


def shipped_files() -> dict[str, Path]:
    """Everything that is shipped with the recipes, by name."""
    files = (path for folder in shipped_folders() for path in sorted(folder.glob("*.yaml")))
    return {path.stem: path for path in files}


@functools.cache
def shipped_folders() -> tuple[Path, ...]:
    """Where the shipped recipes lie; nowhere when their package is not installed."""
    spec = importlib.util.find_spec("rewardft_recipes")
    return (
        tuple(Path(place).resolve() for place in (spec.submodule_search_locations or []))
        if spec
        else ()
    )


def find_recipe(name: str) -> Path:
    """The file that `name` means: a path that exists, or a shipped recipe with or without
    `.yaml`."""
    path, there = Path(name), local_path(name, Path.cwd())
    # A file that is there wins over a shipped recipe of its name.
    shipped = {} if there.is_file() else shipped_files()
    if path.name == name and name.removesuffix(".yaml") in shipped:
        return shipped[name.removesuffix(".yaml")]
    if (there / "recipe.yaml").is_file():
        raise RecipeError(
            name,
            [
                f"{name}: expected a recipe, got a run folder. Its recipe is "
                f"{path / 'recipe.yaml'}; `rewardft run {name} --resume` continues the run."
            ],
        )
    if there.exists():  # a folder or a device, too: reading it says so
        return path
    near = _near(path, there.parent)
    raise RecipeError(
        name, [f"{name}: there is no such file, and no shipped recipe of that name.{near}"]
    )


def run_to_continue(recipe: Path | str, out: Path | None) -> Path | None:
    """The folder of a run that is given in the place of its recipe, to resume it; None for a
    recipe. Raises RecipeError for one that is to go on in another folder, `out`."""
    # As in `find_recipe`: a name means the recipe that ships, also beside a folder of its name.
    if str(recipe).removesuffix(".yaml") in shipped_files():
        return None
    folder = given_folder(recipe)
    if not (folder / "recipe.yaml").is_file():
        return None
    if out is not None and out.resolve() != folder.resolve():
        problem = f"{recipe}: a run goes on in its own folder, not in {out}. Leave the latter out."
        raise RecipeError(str(recipe), [problem])
    return folder


def _near(given: Path, folder: Path) -> str:
    """What a path that is not there may have been meant for: a recipe in its `folder`, or a shipped
    one."""
    # Without their common ending, by which all would be alike.
    beside = [other.stem for other in folder.glob("*.yaml")]
    if close := difflib.get_close_matches(given.stem, beside, n=1):
        return f" Did you mean {str(given.with_name(f'{close[0]}.yaml'))!r}?"
    near = did_you_mean(given.name.removesuffix(".yaml"), shipped_files())
    # A hundred names would hide what the message says.
    return near if " Did you mean" in near else " `rewardft ls recipes` lists those that ship."


def headline(path: Path) -> str:
    """The first sentence of the recipe's first comment, which says what it trains."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return first_sentence("\n".join(line.lstrip("#") for line in comment))
