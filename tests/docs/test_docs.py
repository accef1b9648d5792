"""The documentation says what the code does: hooks, recipes, defaults, commands, names and links are compared."""

import ast
import importlib
import re
import shlex
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer.main
from packaging.requirements import Requirement
from pydantic_core import PydanticUndefined

from rewardft.algorithms import direct_presets
from rewardft.cli.app import build_app
from rewardft.cli.comparing import Options, build_request
from rewardft.comparisons.members import expand
from rewardft.engine.progress import ProgressLine
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import tags_of
from rewardft.plugins.hook_checks import HOOKS
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe import strict_yaml
from rewardft.recipe.recipe import load_recipe
from rewardft.recipe.sections import Sections, section_of
from rewardft.recipe.shipped import shipped_recipes
from rewardft.recipe.typed_values import Mismatch, convert
from rewardft.storage.recorder import Recorder
from tests.documents import DOCUMENTS, ROOT, blocks, files_in, prose, read, table_rows, words
from tests.maths.test_calls import T, count

SHIPPED_PLUGINS = ["toy", "drpose"]


@pytest.fixture(scope="module")
def shipped():
    return load_plugins(SHIPPED_PLUGINS, ROOT)


@pytest.fixture(scope="module")
def users():
    """{hook: who uses it}, of the core and of every plugin in the repository."""
    names = sorted(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
    plugins = load_plugins(names, ROOT).loaded
    observers = {"recorder": Recorder, "progress": ProgressLine}
    return {
        hook: {plugin.name for plugin in plugins if hook in plugin.hooks}
        | {n for n, o in observers.items() if hasattr(getattr(o, hook, None), "rewardft_impl")}
        for hook in HOOKS
    }


# -- hooks -----------------------------------------------------------------------------------------------------------


def hook_sections():
    """{heading text: body} of the third-level headings in docs/hooks.md."""
    parts = re.split(r"^### `(.+)`$", read("docs/hooks.md"), flags=re.M)
    return {
        heading: re.split(r"^## ", body, flags=re.M)[0]
        for heading, body in zip(parts[1::2], parts[2::2])
    }


def test_every_hook_is_documented_with_its_exact_signature():
    assert list(hook_sections()) == [
        f"{name}({', '.join(arguments)})" for name, arguments in HOOKS.items()
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_says_when_it_runs_what_it_returns_and_what_it_may_change(hook):
    body = next(body for heading, body in hook_sections().items() if heading.startswith(hook + "("))
    assert [
        label for label in re.findall(r"^\* \*\*(.+?)\*\*:", body, re.M) if label != "Processes"
    ] == [
        "When",
        "Returns",
        "May change",
        "Used by",
    ]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_user_that_ships_and_the_documentation_names_all(hook, users):
    assert users[hook], f"hook {hook!r} has no shipped plugin that uses it"
    body = next(body for heading, body in hook_sections().items() if heading.startswith(hook + "("))
    line = re.search(r"^\* \*\*Used by\*\*:.*$", body, re.M).group()
    assert set(words(line)) - {"error.txt"} == users[hook]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    assert any(re.search(rf"^def test_hook_{hook}\(", source, re.M) for source in sources)


# -- recipes ---------------------------------------------------------------------------------------------------------

RECIPES = sorted(shipped_recipes())


def header(name):
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_what_it_needs_its_command_and_an_override(name):
    lines = [line.lstrip("# ") for line in header(name)]
    assert lines[0].endswith((".", ")", ",", ":")) and len(lines[0]) > 20, (
        "the first line says what it trains"
    )
    assert any("Needs " in line for line in lines), "it says what it needs"
    commands = [shlex.split(line) for line in lines if line.startswith("rewardft run ")]
    assert commands[0][:4] == ["rewardft", "run", name, "--out"]
    overrides = [command for command in commands if "--set" in command]
    assert len(overrides) == 1
    settings = [value for flag, value in zip(overrides[0], overrides[0][1:]) if flag == "--set"]
    recipe = load_recipe(shipped_recipes()[name], settings)
    assert (
        resolve(recipe, load_plugins(recipe.plugins, recipe.base)).algorithm.entry.name
        == recipe.algorithm.use
    )


def test_the_recipe_page_lists_every_shipped_recipe():
    listed = [
        name
        for row in table_rows(read("docs/recipes.md"))
        for name in words(row[0])
        if name in RECIPES
    ]
    assert sorted(listed) == RECIPES


@pytest.mark.parametrize("name", DOCUMENTS)
def test_recipes_that_a_document_names_exist(name):
    text = re.sub(
        r"rewardft show (?:KIND|data|algorithm|reward|sampler|metric|model|launcher) \w+",
        "",
        read(name),
    )
    named = set(re.findall(r"rewardft (?:run|cp|show|check) (\w+)(?![\w./])", text))
    named |= {Path(path).stem for path in re.findall(r"\brecipes/\w+\.yaml", text)}
    assert named - {"RECIPE", "RUN"} <= set(RECIPES)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_whole_recipes_in_a_document_pass_the_check(name, tmp_path):
    for stem, text in files_in(name).items():
        (tmp_path / stem).write_text(text)
    for text in blocks(name, "yaml"):
        if text.startswith("recipes:"):
            path = tmp_path / "comparison.yaml"
            path.write_text(text)
            members = expand(build_request([str(path)], Options()), tmp_path)
            assert members and [m.problem for m in members if m.problem] == []
        elif "algorithm:" in text:
            path = tmp_path / "recipe.yaml"
            path.write_text(text)
            recipe = load_recipe(path)
            resolve(recipe, load_plugins(recipe.plugins, recipe.base))


def test_every_key_of_a_recipe_is_documented_with_its_default():
    parts = re.split(r"^## (.+)$", read("docs/recipes.md"), flags=re.M)
    pages = dict(zip(parts[1::2], parts[2::2]))
    titles = [title for heading in pages for title in heading.split(", ")]
    assert set(Sections.model_fields) <= set(titles), "every section has a heading"
    for section in (
        "data",
        "rewards",
        "regularizers",
        "adapter",
        "optimizer",
        "train",
        "evaluate",
        "save",
    ):
        cls = section_of(Sections, section)
        documented = {words(row[0])[0]: row[1] for row in table_rows(pages[section])}
        expected = {key: field for key, field in cls.model_fields.items() if key != "options"}
        assert list(documented) == list(expected) or set(documented) == set(expected), section
        for key, field in expected.items():
            if field.default is PydanticUndefined:
                assert documented[key] == "required", f"{section}.{key}"
            else:
                default = strict_yaml.parse(words(documented[key])[0]).data
                assert default == (
                    list(field.default) if isinstance(field.default, tuple) else field.default
                ), key


def test_the_table_of_bounds_is_that_of_the_code():
    page = read("docs/api.md").partition("\n## Bounds of options")[2].partition("\n## ")[0]
    named = [name for row in table_rows(page) for name in words(row[0])]
    module = importlib.import_module("rewardft.recipe.bounds")
    bounds = {n: v for n, v in vars(module).items() if getattr(v, "__metadata__", None)}
    assert sorted(named) == sorted(bounds)
    for name, tried in {
        "Share": 0.0,
        "Decay": 1.0,
        "Inside": 1.0,
        "Pair": 1,
        "Positive": 0,
    }.items():
        with pytest.raises(Mismatch):
            convert(bounds[name], tried)
    assert convert(bounds["Fraction"], 0.0) == 0 and convert(bounds["Fraction"], 1.0) == 1
    assert convert(bounds["Share"], 1.0) == 1 and convert(bounds["Decay"], 0.0) == 0


def test_the_table_of_samplers_is_that_of_the_code():
    """The core's and grpo's, with the noise that their tags state."""
    page = read("docs/recipes.md").partition("\n## model, sampler")[2].partition("\n## ")[0]
    rows = {name: row[1:] for row in table_rows(page) for name in words(row[0])}
    entries = build_catalog(load_plugins(["grpo"], ROOT)).of_kind("samplers")
    owners = {e.name: {"builtin": "core"}.get(e.plugin, e.plugin) for e in entries}
    assert {name: row[0] for name, row in rows.items()} == owners
    option = {"ddim": "eta", **dict.fromkeys(("flow_sde", "dance_sde", "cps"), "noise_level")}
    for entry in entries:
        said, name = rows[entry.name][3], option.get(entry.name)
        noisy = "stochastic" in tags_of(entry, "provides", "tags", {name: 0.5} if name else {})
        expected = f"if `{name}` is above 0" if name else "yes" if noisy else "no"
        assert said.startswith(expected), entry.name
        if name:
            assert noisy and "stochastic" not in tags_of(entry, "provides", "tags", {name: 0.0})
            by_default = "stochastic" in tags_of(entry, "provides", "tags", {})
            assert by_default == ("by default" in said), entry.name


# -- algorithms ------------------------------------------------------------------------------------------------------


def test_the_fields_of_the_presets_are_those_of_the_table():
    rows = {
        words(row[0])[0]: row[1:7]
        for row in table_rows(read("docs/algorithms.md"))
        if len(row) == 8
    }
    assert list(rows) == ["draft", "draft_k", "draft_lv", "alignprop", "refl", "drtune"]
    for name, cells in rows.items():
        preset = getattr(direct_presets, name)()
        steps = "all" if preset.train_steps is None else str(preset.train_steps)
        gradient = "through" if preset.input_gradient else "stopped"
        expected = [
            preset.select,
            steps,
            gradient,
            str(preset.early_stop),
            str(preset.resamples),
            preset.shape,
        ]
        assert cells == expected, name


def test_the_table_of_all_algorithms_has_each_with_its_plugin_and_needs():
    """The needs are those of the code's own tags."""
    rows = {
        words(r[0])[0]: r[1:3]
        for r in table_rows(read("docs/algorithms.md"))
        if len(r) == 6 and words(r[0])
    }
    everything = [point.name for point in entry_points(group="rewardft")]
    entries = build_catalog(load_plugins(everything, ROOT)).of_kind("algorithms")
    expected = {e.name: sorted(getattr(e.factory, "needs", ())) for e in entries}
    assert {name: sorted(words(needs)) for name, (_, needs) in rows.items()} == expected
    owners = {e.name: {"builtin": "core"}.get(e.plugin, e.plugin) for e in entries}
    assert {name: plugin for name, (plugin, _) in rows.items()} == owners


COUNTED = {
    "draft": (direct_presets.draft(), {}),
    "draft_k": (direct_presets.draft_k(3), {"K": 3}),
    "draft_lv": (direct_presets.draft_lv(2), {"n": 2}),
    "alignprop": (direct_presets.alignprop(), {}),
    "refl": (direct_presets.refl(3, target=99.0), {}),
    "drtune": (direct_presets.drtune(2, 3), {}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_the_cost_formulas_of_the_table_count_what_a_run_calls(name):
    """The three cells are evaluated and compared with counts on the network itself."""
    import random

    row = next(
        r for r in table_rows(read("docs/algorithms.md")) if len(r) == 4 and words(r[0]) == [name]
    )
    algorithm, given = COUNTED[name]
    path = algorithm.draw_path(T, random.Random(11))
    values = {"T": T, "K": len(path.train), "L": path.length, "last": int(path.live), **given}
    forwards, backwards, reference = (eval(cell, {}, values) for cell in row[1:])
    assert count(algorithm, "epsilon_mse", seed=11) == (forwards, reference, backwards)


def test_the_tag_table_names_those_who_provide_each_tag(shipped):
    catalog = build_catalog(shipped)
    entries = [e for kind in ("models", "samplers", "datasets") for e in catalog.of_kind(kind)]
    offers = {
        e.name: tags_of(e, "provides", "tags", {"eta": 1.0, "targets": True}) for e in entries
    }
    page = read("docs/writing-a-plugin.md").partition("\n## Tags")[2].partition("\n## ")[0]
    documented = {tag: set(words(row[2])) for row in table_rows(page) for tag in words(row[0])}
    for tag in set().union(*offers.values()):
        assert documented[tag] == {name for name, tags in offers.items() if tag in tags}, tag


# -- names, commands and links -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_python_in_a_document_compiles_and_its_rewardft_names_exist(name):
    for source in blocks(name, "python"):
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").partition(".")[0] == "rewardft"
            ):
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_dotted_names_in_a_document_exist(name):
    for dotted in sorted(set(re.findall(r"`(rewardft(?:\.\w+)+)`", read(name)))):
        module, _, attribute = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), dotted


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_of_the_repository_that_a_document_names_exist(name):
    named = re.findall(
        r"`((?:rewardft|plugins|recipes|tests|docs|benchmarks)/[\w./-]*)`", read(name)
    )
    assert [path for path in named if not (ROOT / path).exists()] == []


def shell_commands(name):
    lines = [line for block in blocks(name, "sh") for line in block.splitlines()]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith(("rewardft ", "make "))
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_in_a_document_exist_with_their_options(name):
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.M))
    for program, *arguments in shell_commands(name):
        if program == "make":
            assert arguments[0] in targets
        elif arguments[0] != "greeter":
            command = typer.main.get_command(build_app(arguments))
            rest = list(arguments)
            while hasattr(command, "commands"):
                assert rest[0] in command.commands, shlex.join([program, *arguments])
                command = command.commands[rest.pop(0)]
            options = {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            }
            assert {word for word in rest if word.startswith("-")} <= options, shlex.join(
                [program, *arguments]
            )


def anchors(path):
    """Where links into a document can point: its headings as GitHub writes them, and explicit anchors."""
    text = path.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    headings = {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles
    }
    return {*headings, *re.findall(r'<a id="([^"]+)">', text)}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_relative_links_resolve(name):
    here = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(name)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = here / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{name} links to {target}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_no_path_of_a_machine_and_no_issue(name):
    assert (
        re.findall(r"(?<![\w.\])])/(?:home|root|tmp|work|mnt|Users)/|(?<!\w)#\d+\b", read(name))
        == []
    )


def test_every_dependency_has_its_reason():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["drpose"]]
    reasons = {row[0]: row[1] for row in table_rows(read("docs/decisions.md"))}
    assert [Requirement(r).name for r in wanted if not reasons.get(Requirement(r).name)] == []


def test_the_import_diagram_is_the_one_that_is_enforced():
    contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert blocks("CONTRIBUTING.md", "text")[0].splitlines() == layers
