"""Every way in which a plugin can be wrong, with the whole message. Pluggy alone is silent on most of them."""

import sys
import textwrap
import types

import pytest

from rewardft.contracts.hookspecs import hookimpl
from rewardft.errors import PluginError
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.loading import list_installed_plugins, load_plugins
from rewardft.plugins.manager import Plugins
from rewardft.plugins.sources import Source

REGISTER = "from rewardft import hookimpl\n@hookimpl\ndef register_rewards():\n    return {'good': print}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith(("rewardft_file_", "stranger")):
            del sys.modules[name]


def write(folder, text, name="p.py"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def message(names, base):
    with pytest.raises(PluginError) as caught:
        build_catalog(load_plugins(names, base))
    return str(caught.value)


def install(folder, distribution, version, points):
    """A package's metadata on `sys.path`, as pip leaves it."""
    info = folder / f"{distribution}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(
        "[rewardft]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
    )


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty folder of installed packages, put on `sys.path`."""
    path = tmp_path / "site"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    return path


# -- hooks ----------------------------------------------------------------------------------------------------------

HEAD = "from rewardft import hookimpl\n"
OK = "\n@hookimpl\ndef check_recipe(recipe):\n    return None\n"
ANY = "The hook is on_step_end(run, step, metrics, rollout); take any of these, by name."
HOOKS = {
    "misspelled hook": (
        "@hookimpl\ndef on_stepend(run): ...",
        "({file}:2): there is no hook 'on_stepend'. Did you mean 'on_step_end'?",
    ),
    "misspelled specname": (
        "@hookimpl(specname='register_reward')\ndef mine(): ...",
        "({file}:2): there is no hook 'register_reward'. Did you mean 'register_rewards'?",
    ),
    "forgotten decorator": (
        "def register_rewards(): ...",
        "({file}:2): 'register_rewards' is named like a hook but is not one: put `@hookimpl` above it.",
    ),
    "forgotten decorator beside a good hook": (
        "def on_run_end(run): ..." + OK,
        "({file}:2): 'on_run_end' is named like a hook but is not one: put `@hookimpl` above it.",
    ),
    "unknown argument": (
        "@hookimpl\ndef on_step_end(run, stp): ...",
        "({file}:2): hook 'on_step_end' has no argument 'stp'. " + ANY,
    ),
    "argument with a default": (
        "@hookimpl\ndef on_step_end(run, step=0): ...",
        "({file}:2): hook 'on_step_end' gives 'step' a default, and would always receive that: remove the default. "
        + ANY,
    ),
    "argument by position": (
        "@hookimpl\ndef on_step_end(run, /): ...",
        "({file}:2): hook 'on_step_end' takes 'run' by position only, and hooks are called by name: remove the `/`. "
        + ANY,
    ),
    "keyword-only argument": (
        "@hookimpl\ndef on_step_end(*, step): ...",
        "({file}:2): hook 'on_step_end' takes 'step' after a `*`, which is never filled: remove the `*`. "
        + ANY,
    ),
    "star arguments": (
        "@hookimpl\ndef on_step_end(**everything): ...",
        "({file}:2): hook 'on_step_end' takes `**everything`, which is never filled. " + ANY,
    ),
    "async hook": (
        "@hookimpl\nasync def on_step_end(run): ...",
        "({file}:2): hook 'on_step_end' is `async`, and hooks are called directly: write `def on_step_end`.",
    ),
    "hooks inside a class": (
        "class Mine:\n    @hookimpl\n    def on_step_end(self, run): ...",
        "({file}): it has no hooks: on_step_end inside the class 'Mine' is not seen; move it to the top level.",
    ),
    "no hooks": (
        "x = 1",
        "({file}): it has no hooks: a plugin has at least one function with `@hookimpl` (from rewardft) above it, "
        "such as register_rewards.",
    ),
    "wrapper that does not yield": (
        "@hookimpl(wrapper=True)\ndef on_step_end(run): ...",
        "({file}:2): hook 'on_step_end' is declared a wrapper and has no `yield` where the other implementations "
        "would run.",
    ),
    "generator": (
        "@hookimpl\ndef register_rewards():\n    yield {}",
        "({file}:2): hook 'register_rewards' has a `yield`, so its answer would be a generator: use `return`.",
    ),
}


@pytest.mark.parametrize("case", HOOKS)
def test_hooks_that_pluggy_would_pass(case, folder):
    source, expected = HOOKS[case]
    path = write(folder, HEAD + source)
    assert message(["./p.py"], folder) == f"plugin 'p' {expected.format(file=path)}"


def test_every_problem_of_a_plugin_is_listed(folder):
    path = write(
        folder, HEAD + "@hookimpl\ndef on_stepend(run): ...\ndef register_rewards(): ...\n"
    )
    assert message(["./p.py"], folder) == (
        f"plugin 'p' ({path}:2): there is no hook 'on_stepend'. Did you mean 'on_step_end'?\n"
        f"plugin 'p' ({path}:4): 'register_rewards' is named like a hook but is not one: put `@hookimpl` above it."
    )


def test_problems_of_several_plugins_are_listed_together(folder):
    path = write(folder, HEAD + "@hookimpl\ndef on_stepend(run): ...\n")
    assert message(["./p.py", "./q.py"], folder) == (
        "2 plugins cannot be used:\n"
        f"  - plugin 'p' ({path}:2): there is no hook 'on_stepend'. Did you mean 'on_step_end'?\n"
        f"  - plugin './q.py': there is no file {folder / 'q.py'}. Did you mean 'p.py'?"
    )


def test_class_instead_of_an_instance(folder, site):
    write(
        site,
        HEAD + "class Observer:\n    @hookimpl\n    def on_run_end(self, run): ...\n",
        "stranger_class.py",
    )
    install(site, "stranger-class", "1.0", {"observer": "stranger_class:Observer"})
    assert message(["observer"], folder) == (
        f"plugin 'observer' ({site / 'stranger_class.py'}): the plugin is the class 'Observer', and hooks are called "
        "on an instance: name a module or an instance. Have you forgotten the `()`?"
    )


def test_an_instance_is_a_plugin(folder, site):
    text = (
        HEAD
        + "class Observer:\n    @hookimpl\n    def on_run_end(self, run): ...\nobserver = Observer()\n"
    )
    write(site, text, "stranger_instance.py")
    install(site, "stranger-instance", "1.0", {"observer": "stranger_instance:observer"})
    loaded = load_plugins(["Observer"], folder).loaded[1]
    assert (loaded.name, loaded.version, loaded.hooks) == ("observer", "1.0", ("on_run_end",))
    assert loaded.file == site / "stranger_instance.py"


def test_failed_registration_leaves_nothing_half_registered():
    good, bad, twin = (types.ModuleType(name) for name in ("good", "bad", "twin"))
    good.on_run_end = hookimpl(lambda run: None)
    bad.on_run_end = hookimpl(lambda rnu: None)
    bad.on_run_start = hookimpl(lambda run: None)
    twin.on_run_end = hookimpl(lambda summary: None)
    plugins = Plugins()
    plugins.add(Source("good", "good", lambda: good), good, None)
    for name, module in (("bad", bad), ("good", twin)):
        with pytest.raises(PluginError):
            plugins.add(Source(name, name, lambda: module), module, None)
        assert [p.name for p in plugins.loaded] == ["good"]
        assert plugins.manager.get_plugins() == {good}
        assert [i.plugin for i in plugins.hook.on_run_end.get_hookimpls()] == [good]
        assert plugins.hook.on_run_start.get_hookimpls() == []


# -- registrations --------------------------------------------------------------------------------------------------

REGISTRATIONS = {
    "nothing": ("pass", "returned nothing; expected a mapping {name: factory}."),
    "a list": ("return ['a']", "returned a list (['a']); expected a mapping {name: factory}."),
    "an empty list": ("return []", "returned a list ([]); expected a mapping {name: factory}."),
    "a function": (
        "return print",
        "returned a builtin_function_or_method (<built-in function print>); "
        "expected a mapping {name: factory}.",
    ),
    "a name that is no text": (
        "return {3: print}",
        "registers the name 3; a name must be text that is not empty.",
    ),
    "an empty name": (
        "return {' ': print}",
        "registers the name ' '; a name must be text that is not empty.",
    ),
    "a factory that cannot be called": (
        "return {'a': 3}",
        "registers 'a' as a int (3); expected a class or a function.",
    ),
    "one name in two cases": (
        "return {'a': print, 'A': print}",
        "registers 'a' twice; names are case-insensitive.",
    ),
}


@pytest.mark.parametrize("case", REGISTRATIONS)
def test_registrations(case, folder):
    body, expected = REGISTRATIONS[case]
    path = write(folder, HEAD + f"@hookimpl\ndef register_rewards():\n    {body}\n")
    assert (
        message(["./p.py"], folder) == f"plugin 'p' ({path}:2): hook 'register_rewards' {expected}"
    )


def test_registration_that_raises(folder):
    path = write(folder, HEAD + "@hookimpl\ndef register_rewards():\n    import no_such_module\n")
    assert message(["./p.py"], folder) == (
        "ModuleNotFoundError: No module named 'no_such_module' "
        f"(raised by plugin 'p' in hook 'register_rewards' ({path}:4))"
    )


def test_name_that_two_plugins_register(folder):
    text = (
        HEAD
        + "def {0}(rollout, batch): ...\n@hookimpl\ndef register_rewards():\n    return {{'{0}': {0}}}\n"
    )
    one, two = (
        write(folder, text.format("Good"), "a.py"),
        write(folder, text.format("good"), "b.py"),
    )
    assert message(["./a.py", "./b.py"], folder) == (
        f"reward 'good' is registered by two plugins: 'a' ({one}:2) and 'b' ({two}:2). "
        "Rename one, or list only one of the plugins."
    )


# -- finding and importing ------------------------------------------------------------------------------------------


def test_plugin_that_is_nowhere(folder, site):
    install(site, "stranger", "1.0", {"Brightness": "stranger_pkg"})
    assert message(["brigthness"], folder) == (
        "plugin 'brigthness' is neither an installed plugin nor an importable module. Did you mean 'Brightness'?"
    )


def test_file_written_without_the_dot(folder):
    write(folder, REGISTER, "mine_here.py")
    assert message(["mine_here"], folder) == (
        "plugin 'mine_here' is not installed; for the file beside the recipe write ./mine_here.py."
    )


def test_folder_without_an_init(folder):
    write(folder, REGISTER, "pack/a.py")
    assert message(["./pack"], folder) == (
        f"plugin './pack': the folder {folder / 'pack'} has no __init__.py; add one that has the hooks."
    )


def test_missing_file(folder):
    write(folder, REGISTER, "reward.py")
    assert message(["./rewrad.py"], folder) == (
        f"plugin './rewrad.py': there is no file {folder / 'rewrad.py'}. Did you mean 'reward.py'?"
    )


def test_file_of_another_kind(folder):
    write(folder, "", "reward.txt")
    assert message(["./reward.txt"], folder) == (
        f"plugin './reward.txt': {folder / 'reward.txt'} is neither a .py file nor a folder."
    )


IMPORTS = {
    "missing module": (
        "import os\nimport no_such_module",
        2,
        "ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "syntax error": ("def f(:", 1, "SyntaxError: invalid syntax (p.py, line 1)"),
    "any error": ("x = 1\n1 / 0", 2, "ZeroDivisionError: division by zero"),
    "exit": ("import sys\nsys.exit('bye')", 2, "SystemExit: bye"),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_file_that_cannot_be_imported(case, folder):
    source, line, error = IMPORTS[case]
    path = write(folder, source)
    before = set(sys.modules)
    assert (
        message(["./p.py"], folder) == f"plugin 'p' could not be imported ({path}:{line}): {error}"
    )
    assert not [name for name in set(sys.modules) - before if name.startswith("rewardft_file_")]


def test_folder_whose_part_cannot_be_imported(folder):
    write(folder, "from .part import x\n", "pack/__init__.py")
    part = write(folder, "\nx = unknown\n", "pack/part.py")
    assert message(["./pack"], folder) == (
        f"plugin 'pack' could not be imported ({part}:2): NameError: name 'unknown' is not defined"
    )
    assert not [name for name in sys.modules if name.startswith("rewardft_file_pack")]


def test_entry_point_that_cannot_be_imported(folder, site):
    path = write(site, "\nraise RuntimeError('broken')\n", "stranger_broken.py")
    install(site, "stranger-broken", "1.0", {"broken": "stranger_broken"})
    assert (
        message(["broken"], folder)
        == f"plugin 'broken' could not be imported ({path}:2): RuntimeError: broken"
    )


def test_entry_point_whose_module_is_gone(folder, site):
    install(site, "stranger-gone", "1.0", {"gone": "stranger_gone"})
    assert message(["gone"], folder) == (
        "plugin 'gone' could not be imported (stranger_gone): ModuleNotFoundError: No module named 'stranger_gone'"
    )


# -- twice, and versions --------------------------------------------------------------------------------------------


def test_plugin_listed_twice(folder):
    path = write(folder, REGISTER)
    assert (
        message(["./p.py", "./p.py"], folder) == f"plugin 'p' is listed twice ({path}): remove one."
    )
    other = f"plugin 'p' is listed twice, as './p.py' and as '{path}' ({path}): remove one."
    assert message(["./p.py", str(path)], folder) == other


def test_plugin_listed_by_entry_point_and_by_module(folder, site):
    write(site, REGISTER, "stranger_twice.py")
    install(site, "stranger-twice", "1.0", {"twice": "stranger_twice"})
    assert message(["twice", "stranger_twice"], folder) == (
        "plugin 'stranger_twice' is listed twice, as 'twice' and as 'stranger_twice' (stranger_twice): remove one."
    )


def test_two_plugins_of_one_name(folder):
    one, two = write(folder, REGISTER, "a/p.py"), write(folder, REGISTER, "b/P.py")
    assert (
        message(["./a/p.py", "./b/P.py"], folder)
        == f"two plugins are called 'P', {one} and {two}: rename one."
    )


def test_entry_point_of_two_packages(folder, site):
    install(site, "first", "1.0", {"same": "stranger_a"})
    install(site, "second", "1.0", {"Same": "stranger_b"})
    assert message(["same"], folder) == (
        "plugin 'same' is offered by two installed packages, first (stranger_a) and second (stranger_b): uninstall one."
    )


def test_the_core_cannot_be_listed(folder):
    assert message(["builtin"], folder) == (
        "plugin 'builtin' is the core's own and always loaded: remove it from `plugins:`."
    )


VERSIONS = {
    "too old": (
        "__version__ = '0.1'",
        ">=0.2",
        "plugin 'p': the recipe asks for >=0.2, but its version is 0.1.",
    ),
    "none": (
        "",
        ">=0.2",
        "plugin 'p': the recipe asks for >=0.2, but the plugin states no version; "
        "give its module a `__version__`.",
    ),
    "not a version": (
        "__version__ = 'new'",
        ">=0.2",
        "plugin 'p' states the version 'new', which is not a version number.",
    ),
    "not a requirement": (
        "",
        ">=banana",
        "plugin './p.py>=banana': '>=banana' is not a version requirement; "
        "write it like ./p.py>=0.1.",
    ),
}


@pytest.mark.parametrize("case", VERSIONS)
def test_versions(case, folder):
    source, requirement, expected = VERSIONS[case]
    write(folder, REGISTER + source + "\n")
    assert message([f"./p.py{requirement}"], folder) == expected


def test_version_of_an_installed_package(folder, site):
    write(site, REGISTER, "stranger_version.py")
    install(site, "stranger-version", "1.4", {"versioned": "stranger_version"})
    assert message(["versioned<1"], folder) == (
        "plugin 'versioned': the recipe asks for <1, but its version is 1.4."
    )
    assert load_plugins(["versioned >=1.2, <2"], folder).loaded[1].version == "1.4"


# -- errors while a run goes on -------------------------------------------------------------------------------------


def test_error_in_a_hook_names_plugin_hook_and_line(folder):
    path = write(
        folder,
        HEAD
        + "def inner(step):\n    return 1 // step\n@hookimpl\ndef on_step_end(step):\n    inner(step)\n",
    )
    plugins = load_plugins(["./p.py"], folder)
    with pytest.raises(ZeroDivisionError) as caught:
        plugins.call("on_step_end", run=None, step=0, metrics={}, rollout=None)
    assert caught.value.__notes__ == [f"raised by plugin 'p' in hook 'on_step_end' ({path}:6)"]


def test_hooks_are_called_with_exactly_their_arguments(folder):
    """Pluggy only warns about an argument that is missing."""
    plugins = load_plugins([], folder)
    with pytest.raises(TypeError) as caught:
        plugins.call("on_run_end", run=None)
    assert str(caught.value) == "hook 'on_run_end' is called with (run, summary), got (run)"
    with pytest.raises(TypeError):
        plugins.call("on_run_end", None, {})
    with pytest.raises(TypeError) as caught:
        plugins.call("on_runend", run=None)
    assert str(caught.value) == "there is no hook 'on_runend'"


def test_a_broken_installed_plugin_spoils_only_its_own_row(folder, site):
    broken = write(site, "raise RuntimeError('broken')\n", "stranger_broken_row.py")
    good = write(site, REGISTER, "stranger_good_row.py")
    install(
        site, "stranger-rows", "1.0", {"row-b": "stranger_broken_row", "row-g": "stranger_good_row"}
    )
    rows = {row.name: row for row in list_installed_plugins()}
    expected = f"plugin 'row-b' could not be imported ({broken}:1): RuntimeError: broken"
    assert rows["row-b"].problem == expected
    assert (rows["row-g"].problem, rows["row-g"].file, rows["row-g"].version) == (None, good, "1.0")
    assert rows["row-g"].hooks == ("register_rewards",)
    assert message(["row-b"], folder) == expected
