"""`show KIND NAME`: one component without a recipe: its options, tags and description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.cli.tables import print_table
from rewardft.errors import RewardftError, did_you_mean
from rewardft.files.paths import read_text
from rewardft.plugins.annotations import annotation_of
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import option_parameters, tags_of
from rewardft.plugins.component_index import listed_components
from rewardft.plugins.described import catalogs, docstring, option_help, papers
from rewardft.plugins.entries import KINDS, SINGULAR, Entry
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.recipe_schema import PLACES
from rewardft.recipe import strict_yaml
from rewardft.recipe.shipped import shipped_files, shipped_recipes
from rewardft.recipe.typed_values import type_words

# A kind as one says it: in the singular, or by its section's name.
WORDS = {"data": "datasets", "dataset": "datasets"} | {one: many for many, one in SINGULAR.items()}


def check_words(
    word: str,
    name: str | None,
    overrides: Sequence[str],
    plugins: Sequence[str],
    load: bool | None = None,
) -> None:
    """Raises RewardftError for a kind without a name, and for options of the other form of the
    command."""
    kind = WORDS.get(word, word)
    if name is None and kind in KINDS and not Path(word).exists():
        one = SINGULAR[kind].replace("data set", "data")
        raise RewardftError(
            f"{word} is a kind of component; name one: rewardft show {one} NAME. "
            f"`rewardft ls {kind}` lists them."
        )
    if name is None and not is_place(word):
        check_is_no_component(word)
    if name is None and plugins:
        raise RewardftError(
            "--plugin is for one component, as in `rewardft show reward NAME --plugin FILE`; a "
            "recipe lists its own plugins."
        )
    if name is not None and overrides:
        raise RewardftError("--set changes a recipe, and one component has none.")
    if name is not None and load is not None:
        option = "--load" if load else "--no-load"
        raise RewardftError(f"{option} is for a recipe; of one component no model is built.")


def is_place(word: str) -> bool:
    """Whether it is a recipe, or a folder that holds one, about which more is said later."""
    shipped = word.removesuffix(".yaml") in shipped_files()
    return shipped or Path(word).is_file() or (Path(word) / "recipe.yaml").is_file()


def check_is_no_component(word: str) -> None:
    """Raises RewardftError for a component's name where a recipe's is expected."""
    kinds = [one.kind for one in listed_components([]) if one.name.casefold() == word.casefold()]
    if kinds:
        ways = [f"rewardft show {SINGULAR[k].replace('data set', 'data')} {word}" for k in kinds]
        raise RewardftError(f"{word} is no recipe but a component; write: {' or '.join(ways)}")


def show_component(word: str, name: str, plugins: Sequence[str] = ()) -> None:
    """Describe one component, also of `plugins` that a recipe would list. Raises RewardftError for
    an unknown kind or name."""
    kind = WORDS.get(word, word)
    if kind not in KINDS:
        raise RewardftError(f"there is no kind {word!r} of component.{did_you_mean(word, WORDS)}")
    entry = find(kind, name, plugins)
    # The fixed tags alone: those that depend on options need a recipe.
    tags = {
        tag: ", ".join(sorted(tags_of(entry, tag, None, {})))
        for tag in ("provides", "needs", "refuses")
    }
    facts = [("plugin", entry.plugin), ("file", entry.location)]
    facts += [(tag, words) for tag, words in tags.items() if words]
    facts += [("paper", f"https://arxiv.org/abs/{number}") for number in papers(entry)]
    users = recipes_with(entry)
    if users:
        facts.append(("recipes", ", ".join(users)))
    print_table(entry.title, ("what", "value"), facts)
    print_table("options", ("option", "type", "default", "what it is"), list(options(entry)))
    print(f"\n{docstring(entry)}")
    if users:
        print(f"\nTry it: rewardft run {users[0]}")
    print(f"\n{use_of(entry)}")


def use_of(entry: Entry) -> str:
    """Where a component is named."""
    if entry.kind == "launchers":
        words = f"--launcher {entry.name} --launcher-option option=value"
        return f"On a command line: rewardft compare RECIPE... {words}"
    return f"In a recipe: {{use: {entry.name}, option: value}}"


def find(kind: str, name: str, plugins: Sequence[str] = ()) -> Entry:
    """The component of that name, of `plugins`, of the core or of any installed plugin that
    loads."""
    known: list[str] = []
    given = [build_catalog(load_plugins(plugins, Path.cwd()))] if plugins else []
    for catalog in (*given, *catalogs()):
        found = {entry.name.casefold(): entry for entry in catalog.of_kind(kind)}
        if name.casefold() in found:
            return found[name.casefold()]
        # Of every catalogue, so that did-you-mean knows what is in a plugin too.
        known += [entry.name for entry in found.values()]
    hint = did_you_mean(name, set(known))
    file = "" if plugins else " For one of a file, add --plugin FILE."
    raise RewardftError(f"unknown {SINGULAR[kind]} {name!r} in the installed plugins.{hint}{file}")


def options(entry: Entry) -> Iterator[tuple[str, str, str, str]]:
    """Name, type in words, default and help of each option."""
    about = option_help(entry)
    for name, parameter in option_parameters(entry).items():
        if parameter.kind is parameter.VAR_KEYWORD:
            yield f"{name} ...", "any further options", "", ""
            continue
        given = parameter.default is not parameter.empty
        words = type_words(annotation_of(entry, parameter))
        default = repr(parameter.default) if given else "(required)"
        yield name, words, default, about.get(name, "")


def recipes_with(entry: Entry) -> list[str]:
    """The shipped recipes that use a component, those with its name in theirs first."""
    found = []
    for name, path in shipped_recipes().items():
        data = strict_yaml.parse(read_text(path)).data
        if entry.name.casefold() in used(data).get(entry.kind, set()):
            found.append(name)
    # `toy_drtune` shows drtune better than a recipe that is about something else.
    return sorted(found, key=lambda name: (entry.name not in name, len(name), name))


def used(data: Mapping[str, Any]) -> dict[str, set[str]]:
    """The components that a recipe names, by kind, in lower case."""
    found: dict[str, set[str]] = {}
    for path, kind in PLACES.items():
        section: Any = data
        for key in path.removesuffix("[]").split("."):
            section = (section or {}).get(key)
        items = section if isinstance(section, list) else [section]
        names = {str(item["use"]).casefold() for item in items if item}
        found.setdefault(kind, set()).update(names)
    return found
