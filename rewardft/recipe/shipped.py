"""Recipes by name: those in the `rewardft_recipes` package, or any file."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from rewardft.errors import RecipeError, did_you_mean
from rewardft.files.paths import local_path


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


COMPARISON = "compare_"  # what the names of shipped comparisons begin with


def find_recipe(name: str) -> Path:
    """The file that `name` means: a path that exists, or a shipped recipe with or without
    `.yaml`."""
    path, there = Path(name), local_path(name, Path.cwd())
    # A file that is there wins over a shipped recipe of its name.
    shipped = {} if there.is_file() else shipped_files()
    if path.name == name and name.removesuffix(".yaml") in shipped:
        return shipped[name.removesuffix(".yaml")]
    if there.exists():  # a folder or a device, too: reading it says so
        return path
    near = did_you_mean(path.name.removesuffix(".yaml"), shipped)
    # A hundred names would hide what the message says.
    if " Did you mean" not in near:
        near = " `rewardft ls recipes` lists those that ship."
    raise RecipeError(
        name, [f"{name}: there is no such file, and no shipped recipe of that name.{near}"]
    )


def headline(path: Path) -> str:
    """The recipe's first comment line, which says what it trains."""
    first = next(iter(path.read_text(encoding="utf-8").splitlines()), "")
    return first.lstrip("# ").strip() if first.startswith("#") else ""
