"""A plugin file imports the modules beside it; bad names and entries are sentences; a loop is said."""

import pickle
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.errors import PluginError, RecipeError, did_you_mean
from rewardft.plugins import sources
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import open_recipe

PLUGIN = """\
import numbers_of_mine
from rewardft import hookimpl

def late():
    from folder_of_mine.inner import VALUE
    return VALUE

@hookimpl
def register_rewards():
    return {"mine": lambda rollout, batch: numbers_of_mine.VALUE}
"""


def write(folder, value):
    (folder / "folder_of_mine").mkdir(parents=True, exist_ok=True)
    (folder / "mine.py").write_text(PLUGIN)
    (folder / "numbers_of_mine.py").write_text(
        f"import more_of_mine\nVALUE = more_of_mine.X + {value}\n"
    )
    (folder / "more_of_mine.py").write_text("X = 0.5\n")
    (folder / "folder_of_mine" / "__init__.py").write_text("")
    (folder / "folder_of_mine" / "inner.py").write_text(f"VALUE = {value * 10}\n")
    return folder


def loaded(folder):
    return load_plugins(["./mine.py"], folder).loaded[-1]


def value(plugin):
    return plugin.module.register_rewards()["mine"](None, None), plugin.module.late()


def test_modules_beside_a_plugin_are_its_own(tmp_path):
    one, two = write(tmp_path / "one", 1), write(tmp_path / "two", 2)
    first, second = loaded(one), loaded(two)
    assert [value(plugin) for plugin in (first, second, first)] == [(1.5, 10), (2.5, 20), (1.5, 10)]
    assert not any(Path(tmp_path).rglob("__pycache__"))


@pytest.mark.parametrize(
    "name", ["numbers_of_mine.py", "more_of_mine.py", "folder_of_mine/inner.py"]
)
def test_a_module_beside_a_plugin_is_part_of_its_digest(tmp_path, name):
    folder = write(tmp_path / "one", 1)
    before = loaded(folder).sha256
    assert loaded(folder).sha256 == before
    (folder / "unrelated.py").write_text("x = 1\n")
    assert loaded(folder).sha256 == before
    (folder / name).write_text((folder / name).read_text().replace("1", "3").replace("0.5", "2.5"))
    edited = loaded(folder)
    assert edited.sha256 != before
    assert (
        value(edited)
        == {
            "numbers_of_mine.py": (3.5, 10),
            "more_of_mine.py": (3.5, 10),
            "folder_of_mine/inner.py": (1.5, 30),
        }[name]
    )


CALLS = {
    "importlib": "import importlib\nhelper = importlib.import_module('helper')",
    "renamed": "import importlib as own\nhelper = own.import_module('helper')",
    "the function": "from importlib import import_module\nhelper = import_module('helper')",
    "a submodule of importlib": "import importlib.util\nhelper = importlib.import_module('helper')\n"
    "assert importlib.util.find_spec('json')",
    "of a package": "import importlib\nhelper = importlib.import_module('inside.helper')",
    "__import__": "helper = __import__('helper')",
    "of the neighbour's": "import between\nhelper = between.helper",
}
HOOK = """
from rewardft import hookimpl

@hookimpl
def register_rewards():
    return {"mine": lambda rollout, batch: helper.VALUE}
"""


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_imports_finds_the_modules_beside_a_plugin(tmp_path, call):
    """Each plugin its own, as by a statement; and the module is part of the digest."""
    values, digests = [], []
    for number in (1, 2):
        folder = tmp_path / str(number)
        (folder / "inside").mkdir(parents=True)
        (folder / "mine.py").write_text(CALLS[call] + HOOK)
        (folder / "helper.py").write_text(f"VALUE = {number}\n")
        (folder / "inside" / "__init__.py").write_text("")
        (folder / "inside" / "helper.py").write_text(f"VALUE = {number}\n")
        (folder / "between.py").write_text(CALLS["importlib"])
        plugin = loaded(folder)
        values.append(plugin.module.register_rewards()["mine"](None, None))
        (folder / "helper.py").write_text("VALUE = 3\n")
        (folder / "inside" / "helper.py").write_text("VALUE = 3\n")
        digests += [plugin.sha256, loaded(folder).sha256]
    assert values == [1, 2] and len(set(digests)) == 3 and "helper" not in sys.modules


def test_a_name_that_is_computed_is_told_how_a_neighbour_is_found(tmp_path):
    (tmp_path / "helper.py").write_text("VALUE = 1\n")
    path = tmp_path / "mine.py"
    path.write_text("import importlib\nhelper = importlib.import_module('help' + 'er')" + HOOK)
    with pytest.raises(PluginError) as caught:
        loaded(tmp_path)
    assert str(caught.value) == (
        f"plugin 'mine' could not be imported ({path}:2): ModuleNotFoundError: No module named 'helper'. helper.py lies "
        "beside the plugin, but no import names it, and what belongs to a plugin is found without running it: write "
        "`import helper`."
    )


def test_nobody_else_sees_the_modules_beside_a_plugin(tmp_path):
    loaded(write(tmp_path / "one", 1))
    with pytest.raises(ModuleNotFoundError):
        __import__("numbers_of_mine")


HELPERS = """\
from dataclasses import dataclass

@dataclass
class Thing:
    owner: str = "OWNER"
"""
LAZY = """\
from rewardft import hookimpl

def lazy():
    import helper
    import package.part as part
    from helper import Thing
    from package import part as again
    from package.part import up
    assert again is part and helper.Thing is Thing
    return Thing().owner, part.OWNER, up()

@hookimpl
def register_rewards():
    return {"NAME": lambda rollout, batch: lazy()}
"""


def test_two_plugins_of_one_recipe_whose_functions_import_helpers_of_one_name(tmp_path):
    """At the call, long after both were loaded, and again after the other has been called."""
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "package").mkdir(parents=True)
        (folder / "helper.py").write_text(HELPERS.replace("OWNER", name))
        (folder / "package" / "__init__.py").write_text("")
        part = f"OWNER = {name!r}\n\ndef up():\n    import helper\n    from . import more\n    "
        (folder / "package" / "part.py").write_text(part + "return helper.Thing().owner + more.X\n")
        (folder / "package" / "more.py").write_text(f"X = {name!r}\n")
        (folder / f"of_{name}.py").write_text(LAZY.replace("NAME", name))
    plugins = load_plugins(["./a/of_a.py", "./b/of_b.py"], tmp_path).loaded[1:]
    lazy = {plugin.name: plugin.module.lazy for plugin in plugins}
    for name in ("of_b", "of_a", "of_b"):
        own = name[-1]
        assert lazy[name]() == (own, own, own * 2)
    assert "helper" not in sys.modules and not any(Path(tmp_path).rglob("__pycache__"))
    thing = sys.modules[lazy["of_a"].__module__ + "_beside.helper"].Thing()
    assert pickle.loads(pickle.dumps(thing)) == thing


RECIPE = """\
plugins: [toy]
model: {use: toy}
sampler: {use: ddim}
data: {use: toy_blobs}
rewards: [{use: brightness}]
algorithm: {use: draft}
optimizer: {lr: 1e-3}
train: {steps: 1}
"""
ENTRIES = {
    "a list": (
        "[[toy]]",
        "r.yaml:1: plugins: expected a list (each text that is not empty), got [['toy']] (a list).",
    ),
    "a number": (
        "[toy, 3]",
        "r.yaml:1: plugins: expected a list (each text that is not empty), got ['toy', 3] (a list).",
    ),
    "no such plugin": (
        "[toy, toyy]",
        "r.yaml:1: plugin 'toyy' is neither an installed plugin nor an importable module. Did you "
        "mean 'toy'?",
    ),
    "NUL": (
        '[toy, "./x\\0.py"]',
        "r.yaml:1: plugins.1: './x\\x00.py' cannot be a path: a path has no NUL character.",
    ),
    "nobody's home": (
        "[toy, ~nosuchuser/x.py]",
        "r.yaml:1: plugins.1: '~nosuchuser/x.py' cannot be a path: Could not determine home directory.",
    ),
    "half a character": (
        '[toy, "\\ud800"]',
        "r.yaml:1: text has no character \\ud800, which is half of a pair.",
    ),
}


@pytest.mark.parametrize("case", ENTRIES)
def test_an_entry_that_is_no_plugin_is_a_sentence_beside_other_problems(
    case, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    entry, message = ENTRIES[case]
    text = RECIPE.replace("[toy]", entry).replace("{lr: 1e-3}", "{lr: fast}")
    Path("r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        open_recipe("r.yaml")
    assert message in caught.value.problems
    lr = "r.yaml:7: optimizer.lr: expected a number above 0, got 'fast' (text)."
    assert lr in caught.value.problems


def test_a_plugin_that_is_a_chain_of_links_is_a_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.py").symlink_to("b.py")
    Path("b.py").symlink_to("a.py")
    Path("r.yaml").write_text(RECIPE.replace("[toy]", "[toy, ./a.py]"))
    assert main(["check", "r.yaml"]) == 2
    assert capsys.readouterr().err.startswith(
        "error: r.yaml: 1 problem\n  - r.yaml:1: plugins.1: './a.py' cannot be a path: "
    )


@pytest.mark.parametrize("name", ["my reward", "mark[/b]", "a/b", "..", "x" * 81, "é\n"])
def test_a_name_that_is_no_label_is_refused_at_registration(tmp_path, name):
    source = f"""
        from rewardft import hookimpl

        @hookimpl
        def register_rewards():
            return {{{name!r}: lambda rollout, batch: 0.0}}
        """
    (tmp_path / "named.py").write_text(textwrap.dedent(source))
    plugins = load_plugins(["./named.py"], tmp_path)
    with pytest.raises(PluginError) as caught:
        plugins.registrations("register_rewards")
    assert str(caught.value) == (
        f"plugin 'named' ({tmp_path / 'named.py'}:4): hook 'register_rewards' registers the name "
        f"{name!r:.100}; a name has letters, numbers, - and _, dots inside, and at most 80 "
        "characters: it becomes part of metrics and files."
    )


def test_a_plugin_that_takes_long_to_import_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "PATIENCE", 0.0)
    said = tmp_path / "said"
    source = f"""
        import pathlib, time
        while not pathlib.Path({str(said)!r}).exists():
            time.sleep(0.01)
        from rewardft import hookimpl

        @hookimpl
        def register_rewards():
            return {{}}
        """
    (tmp_path / "slow.py").write_text(textwrap.dedent(source))
    real = sources.threading.Timer

    def timer(seconds, say):
        return real(seconds, lambda: (say(), said.write_text("")))

    monkeypatch.setattr(sources.threading, "Timer", timer)
    load_plugins(["./slow.py"], tmp_path)
    time.sleep(0)
    assert capsys.readouterr().err == (
        f"still waiting for plugin 'slow' to be imported ({tmp_path / 'slow.py'}); Ctrl-C ends the "
        "command\n"
    )


def test_a_package_that_is_missing_is_named_with_its_extra():
    error = ModuleNotFoundError("No module named 'plotly.offline'", name="plotly.offline")
    assert sources.missing_package(error) == ". Install it: pip install 'rewardft[report]'"
    assert sources.missing_package(ModuleNotFoundError("x", name="nobody_has_this")) == ""


def test_letters_that_changed_places_are_the_likeliest_slip():
    assert did_you_mean("ddmi", ["ddpm", "ddim", "ddpo"]) == " Did you mean 'ddim'?"


def test_the_plugin_that_has_a_name_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(RECIPE.replace("use: draft", "use: ddpo"))
    with pytest.raises(RecipeError) as caught:
        open_recipe("r.yaml")
    (problem,) = caught.value.problems
    assert problem.startswith("r.yaml:6: there is no algorithm 'ddpo'.")
    assert problem.endswith(" The installed plugin 'ddpo' has it: add ddpo to `plugins:`.")
