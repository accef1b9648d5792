"""Plugins that build on others say so: the loader loads those, the linter allows those edges alone."""

import ast
import importlib
import textwrap
from pathlib import Path

import pytest

from rewardft.errors import PluginError
from rewardft.plugins.loading import list_installed_plugins, load_plugins

ROOT = Path(__file__).resolve().parents[2]


def write(folder, name, requires):
    path = folder / f"{name}.py"
    path.write_text(
        textwrap.dedent(f"""
        from rewardft import hookimpl

        requires = {requires!r}

        @hookimpl
        def register_rewards():
            return {{"{name}": lambda rollout, batch: rollout.x0}}
        """)
    )
    return f"./{name}.py"


def names(plugins):
    return [plugin.name for plugin in plugins.loaded]


def test_what_a_plugin_requires_is_loaded_before_it(tmp_path):
    plugin = write(tmp_path, "mine", ("humans",))
    assert names(load_plugins([plugin], tmp_path)) == ["builtin", "humans", "mine"]


def test_listing_what_is_required_anyway_is_no_mistake_but_listing_it_twice_is(tmp_path):
    plugin = write(tmp_path, "mine", ("humans",))
    assert names(load_plugins([plugin, "humans"], tmp_path)) == ["builtin", "humans", "mine"]
    assert names(load_plugins(["humans", plugin], tmp_path)) == ["builtin", "humans", "mine"]
    with pytest.raises(PluginError, match="plugin 'humans' is listed twice"):
        load_plugins([plugin, "humans", "humans"], tmp_path)


def test_a_requirement_that_is_not_there_names_who_asks(tmp_path):
    plugin = write(tmp_path, "mine", ("humanz",))
    with pytest.raises(PluginError) as error:
        load_plugins([plugin], tmp_path)
    assert str(error.value) == (
        "plugin 'mine' requires 'humanz': plugin 'humanz' is neither an installed plugin nor an "
        "importable module. Did you mean 'humans'?"
    )


def test_requirements_are_a_tuple(tmp_path):
    plugin = write(tmp_path, "mine", "humans")
    with pytest.raises(PluginError) as error:
        load_plugins([plugin], tmp_path)
    assert str(error.value) == (
        "plugin 'mine': `requires` is 'humans'; expected a tuple of plugin names, such as "
        'requires = ("name",).'
    )


def test_two_plugins_may_require_each_other(tmp_path):
    one, two = write(tmp_path, "one", ("./two.py",)), write(tmp_path, "two", ("./one.py",))
    assert names(load_plugins([one, two], tmp_path)) == ["builtin", "two", "one"]


def test_installed_plugins_are_listed_with_what_they_require():
    found = {plugin.name: plugin.requires for plugin in list_installed_plugins()}
    assert found["drpose"] == ("humans",) and found["humans"] == ()


def imported_plugins(folder):
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("rewardft_plugins."):
                yield module.split(".")[1]


@pytest.mark.parametrize(
    "folder",
    [path for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()],
    ids=lambda path: path.name,
)
def test_a_shipped_plugin_imports_those_that_it_requires(folder):
    plugin = importlib.import_module(f"rewardft_plugins.{folder.name}")
    others = set(imported_plugins(folder)) - {folder.name}
    assert others == set(getattr(plugin, "requires", ()))
