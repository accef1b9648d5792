"""What to compare: recipes, finished runs and comparison files become named variants of recipes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rewardft.comparisons.relative_paths import from_folder
from rewardft.comparisons.settings import key_of, value_of
from rewardft.contracts.records import SearchRecord
from rewardft.errors import RecipeError, did_you_mean
from rewardft.files.paths import local_path
from rewardft.recipe import strict_yaml

MOST_SEEDS = 1_000
MOST_VARIANTS = 10_000  # more are a slip, and would not be run in a lifetime
Finder = Callable[[str], Path]  # a recipe's file from its name
FILE_KEYS = {
    "recipes": (list, "a list of recipes, one at least"),
    "set": (dict, "a mapping of recipe keys to values"),
    "variants": (dict, "a mapping of names to mappings of recipe keys to values"),
    "vary": (dict, "a mapping of recipe keys to lists of values"),
    "pareto": (dict, "{rewards: [NAME, NAME], points: 5}"),
    "seeds": (int, f"a whole number from 1 to {MOST_SEEDS:,}"),
    "budget": (str, "text such as 5000-calls"),
    "match": (str, "divergence, or divergence=0.05"),
}


@dataclass(frozen=True)
class Variant:
    """A recipe and what is changed in it.

    settings: `key=value` texts.
    run: a run folder to take as it is.
    word: how a command line names the recipe.
    """

    name: str
    recipe: Path
    settings: tuple[str, ...] = ()
    run: Path | None = None
    word: str | None = None

    def with_settings(self, *settings: str) -> Variant:
        """Later settings win, over the same key and over what is below it as far as they say it;
        see `settle`."""
        kept = self.settings
        for text in settings:
            kept = settle(kept, text)
        return replace(self, settings=kept)


@dataclass(frozen=True)
class Request:
    """A comparison before it is expanded over seeds. budget, match: as the command line takes them.
    name: of its file, or None. pareto: see `weight_sweep.py`. notes, searches: for the report."""

    variants: tuple[Variant, ...]
    seeds: int | None = None
    budget: str | None = None
    name: str | None = None
    pareto: dict[str, Any] | None = None
    match: str | None = None
    notes: tuple[str, ...] = ()
    searches: tuple[SearchRecord, ...] = ()


def read_sources(names: Sequence[str], find: Finder) -> Request:
    """Variants of every source; a comparison file must be the only one. Raises RecipeError."""
    files = {
        name: Path(name) / "recipe.yaml" if Path(name).is_dir() else find(name) for name in names
    }
    for name, path in files.items():
        if not Path(name).is_dir() and is_comparison(path):
            # It has seeds and a budget of its own, which would silently hold for the others too.
            if len(files) > 1:
                raise RecipeError(name, [f"{name} is a comparison of its own; give it alone."])
            return read_comparison(path, find)
    variants = []
    for name, path in files.items():
        run = Path(name) if Path(name).is_dir() else None
        if run is not None and not path.is_file():
            raise RecipeError(name, [f"{name}: not a run folder; expected a recipe.yaml in it."])
        variants.append(
            Variant(short_name(run or path), path, run=run, word=str(path) if run else name)
        )
    return Request(tuple(distinct(variants)))


def is_comparison(path: Path) -> bool:
    """Whether a YAML file is a comparison: it lists `recipes`, which no recipe does."""
    try:
        data = strict_yaml.parse(path.read_text(encoding="utf-8")).data
    except (OSError, UnicodeDecodeError):  # reading it as a recipe says what is wrong
        return False
    return isinstance(data, dict) and "recipes" in data


def read_comparison(path: Path, find: Finder) -> Request:
    """A comparison file: `recipes`, and optionally `set`, `variants`, `vary`, `seeds`, `budget`,
    `match`."""
    document = strict_yaml.parse(path.read_text(encoding="utf-8"))
    problems = [f"{path}:{p.line}: {p.message}" for p in document.problems] + list(
        _file_problems(path, document)
    )
    if problems:
        raise RecipeError(str(path), problems)
    data = document.data
    # A file beside the comparison goes before a shipped recipe of its name.
    beside = [path.parent / str(name) for name in data["recipes"]]
    words = list(map(str, data["recipes"]))
    found = [
        (near, str(near)) if near.is_file() else (find(word), word)
        for word, near in zip(words, beside)
    ]
    variants = distinct(Variant(short_name(recipe), recipe, word=word) for recipe, word in found)
    # Settings of the file for all, then of each variant, so that the narrower one wins.
    variants = [v.with_settings(*as_settings(data.get("set") or {})) for v in variants]
    named = {name: as_settings(changes) for name, changes in (data.get("variants") or {}).items()}
    count = len(variants)
    variants = [
        combine(v, name, settings, count) for v in variants for name, settings in named.items()
    ] or variants
    facts = {key: data.get(key) for key in ("seeds", "budget", "pareto", "match")}
    request = Request(tuple(variants), name=path.stem, **facts)
    # Last: what is varied must win over what `set` and `variants` say of the same key.
    for key, values in (data.get("vary") or {}).items():
        request = replace(request, variants=tuple(vary(request.variants, str(key), values)))
    folder = local_path(path.parent, Path.cwd())
    anchored = (
        replace(v, settings=from_folder(folder, v.recipe, v.settings)) for v in request.variants
    )
    return replace(request, variants=tuple(anchored))


def _file_problems(path: Path, document: strict_yaml.Document) -> Iterator[str]:
    for key, value in document.data.items():
        where = f"{path}:{document.lines.get((key,), 1)}"
        if key not in FILE_KEYS:
            yield f"{where}: a comparison has no key {key!r}.{did_you_mean(str(key), FILE_KEYS)}"
        elif (
            not isinstance(value, FILE_KEYS[key][0])
            # `true` is an int in Python, and no number of seeds.
            or isinstance(value, bool)
            or is_beyond(key, value)
        ):
            yield f"{where}: {key}: expected {FILE_KEYS[key][1]}, got {value!r}."
    for name, changes in (document.data.get("variants") or {}).items():
        if not isinstance(changes, dict):
            line = document.lines.get(("variants", name), 1)
            yield (
                f"{path}:{line}: variants.{name}: expected a mapping of recipe keys to values, got "
                f"{changes!r}."
            )
    for key, values in (document.data.get("vary") or {}).items():
        if not isinstance(values, list) or not values:
            line = document.lines.get(("vary", key), 1)
            yield f"{path}:{line}: vary.{key}: expected a list of values, got {values!r}."


def is_beyond(key: str, value: Any) -> bool:
    """Whether there would be no run at all, or more than anybody can make."""
    return (key == "seeds" and not 1 <= value <= MOST_SEEDS) or (key == "recipes" and not value)


def combine(variant: Variant, name: str, settings: Sequence[str], recipes: int) -> Variant:
    """A recipe under one of the file's names;
    the recipe's own name comes first where there are several recipes."""
    full = name if recipes == 1 else f"{variant.name}-{name}"
    return replace(variant, name=full).with_settings(*settings)


def settle(settings: Sequence[str], text: str) -> tuple[str, ...]:
    """Add a setting in an order in which each is applied to what the others have made.

    It replaces one of the same key. Those of keys below its own come after it, so that
    `algorithm.train_steps=2` holds for whatever `algorithm={use: refl}` puts there; but not where
    its value names that key itself.
    """
    key = key_of(text)
    # Parsed, because `{use: refl, scale: 2}` settles `scale` and leaves `target` open.
    value = value_of(text)
    others = [one for one in settings if key_of(one) != key]
    # Settings of a section's own keys, which a new section must not wipe out in silence.
    below = [one for one in others if key_of(one).startswith(f"{key}.")]
    after = [
        one for one in below if leaves_open(value, key_of(one).removeprefix(f"{key}.").split("."))
    ]
    return (*(one for one in others if one not in below), text, *after)


def leaves_open(value: Any, keys: Sequence[str]) -> bool:
    """Whether a section, or a list of them, says nothing of what is at `keys` in it."""
    for key in keys:
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, dict):
            if key not in value:
                return True
            value = value[key]
        else:
            return False
    return False


def vary(variants: Sequence[Variant], key: str, values: Sequence[Any]) -> list[Variant]:
    """Every variant with every value of `key`.

    An `algorithm` may be a name: the section then has its defaults.
    """
    if len(variants) * len(values) > MOST_VARIANTS:
        raise RecipeError(
            f"--vary {key}",
            [
                f"vary: {len(variants):,} variants with {len(values):,} values of {key:.60} are "
                f"more than {MOST_VARIANTS:,}, which is the most."
            ],
        )
    result = []
    for variant, value in itertools.product(variants, values):
        # A variant is named by what was varied; an algorithm's name speaks for itself.
        part = words_of(value) if key == "algorithm" else f"{key.split('.')[-1]}={words_of(value)}"
        # A name alone replaces the section: another algorithm's options would not fit.
        named = key == "algorithm" and isinstance(value, str)
        setting = f"{key}={yaml_of({'use': value} if named else value)}"
        alone = len(variants) == 1
        result.append(
            replace(variant, name=part if alone else f"{variant.name}-{part}").with_settings(
                setting
            )
        )
    return distinct(result)


def words_of(value: Any) -> str:
    """A value in a variant's name: {'use': 'drtune', 'early_stop': 4} is `drtune,early_stop=4`."""
    if isinstance(value, dict) and "use" in value:
        return ",".join(
            [str(value["use"]), *(f"{k}={words_of(v)}" for k, v in value.items() if k != "use")]
        )
    return value if isinstance(value, str) else json.dumps(value)


def parse_vary(text: str) -> tuple[str, list[Any]]:
    """`key=a,b` or `key=[a, b]`: the values are read as YAML. Raises RecipeError."""
    key, equals, values = text.partition("=")
    # As a list of YAML, so that `1e-4` is a number and `{use: x, y: [1, 2]}` one value.
    document = strict_yaml.parse(values if values.lstrip().startswith("[") else f"[{values}]")
    if not equals or not key.strip() or document.problems or not document.data:
        wanted = "expected key=value,value,... such as optimizer.lr=1e-4,1e-3."
        raise RecipeError(f"--vary {text}", [f"--vary {text}: {wanted}"])
    return key.strip(), list(document.data)


def as_settings(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """{'algorithm.use': 'refl'} -> `algorithm.use="refl"`."""
    return tuple(f"{key}={yaml_of(value)}" for key, value in changes.items())


def yaml_of(value: Any) -> str:
    """A value as YAML on one line; JSON is YAML,
    and a number's text is kept as Python prints it."""
    return json.dumps(value)


def short_name(path: Path) -> str:
    """A file's stem, or a folder's name, which for `..` is that of the folder meant."""
    # `.` and `..` have no name of their own.
    path = path.absolute() if path.name else path.resolve()
    path = path.resolve() if path.name == ".." else path
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def distinct(variants: Sequence[Variant] | Iterator[Variant]) -> list[Variant]:
    """The same variants under names that are all different."""
    taken: set[str] = set()
    result = []
    for variant in variants:
        name, number = variant.name, 1
        while name in taken:
            number += 1
            name = f"{variant.name}-{number}"
        taken.add(name)
        result.append(replace(variant, name=name))
    return result
