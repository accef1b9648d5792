"""`new`: a component that works, with its test, for its author to change."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path
from string import Template

from rewardft import __version__
from rewardft.errors import RewardftError, did_you_mean
from rewardft.files.atomic import make_folder, write_text
from rewardft.files.paths import local_path
from rewardft.plugins.component_index import listed_components

TEMPLATES = Path(__file__).parent / "templates"
# The files of each kind, by template. A reward is the component of a new plugin.
FILES = {
    kind: {"$name.py": f"{kind}.py", "test_$name.py": f"test_{kind}.py"}
    for kind in (
        *("reward", "regularizer", "algorithm", "sampler"),
        *("model", "dataset", "metric"),
    )
} | {
    "plugin": {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "$name.yaml": "recipe.yaml",
        "$module/__init__.py": "reward.py",
        "tests/test_$name.py": "test_reward.py",
    }
}


def begin(kind: str, name: str, out: Path) -> None:
    """Write the files of a component or plugin, and say how to go on.

    Raises RewardftError for a name that cannot be one, or is taken, and rather than overwrite.
    """
    if kind not in FILES:
        raise RewardftError(f"there is no template for {kind!r}.{did_you_mean(kind, FILES)}")
    check_form(name)
    is_plugin = kind == "plugin"
    folder = local_path(out / name if is_plugin else out, Path.cwd())
    words = words_of(name, is_plugin)
    texts = {
        folder / Template(target).substitute(words): Template(
            (TEMPLATES / f"{source}.txt").read_text(encoding="utf-8")
        ).substitute(words)
        for target, source in FILES[kind].items()
    }
    there = [str(path) for path in texts if path.exists()]
    if there:
        raise RewardftError(
            f"{', '.join(there)} exists and is not overwritten; give another name or --out."
        )
    check_free("reward" if is_plugin else kind, name)
    for path, text in texts.items():
        make_folder(path.parent)
        write_text(path, text)
        print(path)
    # Only the extra for developers has it.
    first = "" if importlib.util.find_spec("pytest") else "pip install pytest && "
    print(f"Test it: {first}pytest {folder if is_plugin else folder / f'test_{name}.py'}")
    if not is_plugin:
        print(f"In a recipe beside it: plugins: [..., ./{name}.py]")


def words_of(name: str, is_plugin: bool) -> dict[str, str]:
    """What stands in the templates: `my_reward` is `MyReward` as a class, and `my-reward` in the
    name of a project."""
    project = f"rewardft-{name}".replace("_", "-").lower()
    module = f"rewardft_{name}" if is_plugin else name
    return {
        "name": name,
        "title": "".join(part[:1].upper() + part[1:] for part in name.split("_")),
        "module": module,
        "project": project,
        "version": __version__,
        # A plugin's tests have a folder, which its pyproject.toml names.
        "test": "pytest" if is_plugin else f"pytest test_{name}.py",
    }


def check_form(name: str) -> None:
    """Raises RewardftError for what cannot be the name of a module and of a component."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise RewardftError(
            f"{name!r} cannot be a name here: expected lower-case letters, digits and _, with a "
            "letter first, and no word of Python, such as my_reward."
        )


def check_free(kind: str, name: str) -> None:
    """Raises RewardftError for a name that a module or an installed component has."""
    # A file `json.py` would be imported in place of the module that everybody means.
    if importlib.util.find_spec(name) is not None:
        raise RewardftError(f"{name!r} is the name of an installed module; choose another.")
    for one in listed_components([]):
        if one.kind == f"{kind}s" and one.name.casefold() == name:
            raise RewardftError(
                f"plugin {one.plugin!r} has a {kind} {one.name!r} already; choose another name."
            )
