"""The command line, in process: what it prints, where, and its exit codes."""

import json
import signal
import sys
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.engine.summary import RunSummary
from rewardft.recipe.shipped import shipped_recipes

TINY = """\
from rewardft import hookimpl
from rewardft.testing.tiny import TinyBlobs, TinyModel

__version__ = "1.5"

def light(rollout, batch, *, target: float = 0.9):
    '''Minus the squared distance of the mean pixel to a target.'''
    return -((rollout.decoded.flatten(1).mean(1) - target) ** 2)

@hookimpl
def register_models():
    return {"tiny": TinyModel}

@hookimpl
def register_datasets():
    return {"blobs": TinyBlobs}

@hookimpl
def register_rewards():
    return {"light": light}
"""

RECIPE = """\
# A tiny recipe of the tests.
plugins: [./tiny.py]
model: {use: tiny}
sampler: {use: ddim, steps: 3}
data: {use: blobs, batch_size: 4}
rewards: [{use: light}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {rank: 2}
optimizer: {lr: 1e-3}
train: {steps: 2, accumulate: 2}
evaluate: {samples: 4, data: {split: val}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").write_text(TINY)
    Path("r.yaml").write_text(RECIPE)


@pytest.fixture
def rewardft(capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    def run(*words):
        code = main(words)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Installs modules as plugins: `site(name=source)`."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    modules = []

    def install(**sources):
        for name, source in sources.items():
            (folder / f"stranger_{name}.py").write_text(source)
            info = folder / f"stranger_{name}-1.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: stranger-{name}\nVersion: 1.0\n"
            )
            (info / "entry_points.txt").write_text(f"[rewardft]\n{name} = stranger_{name}\n")
            modules.append(f"stranger_{name}")

    yield install
    for name in modules:
        sys.modules.pop(name, None)


def words_of(text):
    """Cells of a table, whatever its column widths."""
    return [line.split() for line in text.splitlines() if line.strip()]


def test_check(rewardft):
    assert rewardft("check", "r.yaml") == (0, "r.yaml: ok\n", "")


def test_check_reports_all_recipes_and_exits_with_2(rewardft):
    Path("bad.yaml").write_text(RECIPE.replace("{steps: 2,", "{setps: 2,"))
    code, out, err = rewardft("check", "bad.yaml", "r.yaml", "no.yaml", "--set", "model.widht=1")
    assert (code, out) == (2, "")
    assert err == (
        "error: bad.yaml: 3 problems\n"
        "  - bad.yaml:10: train.steps is required: a whole number of at least 1.\n"
        "  - bad.yaml:10: train has no key 'setps'. Did you mean 'steps'?\n"
        "  - --set model.widht=1: model 'tiny' has no option 'widht'. Did you mean 'width'?\n"
        "r.yaml: 1 problem\n"
        "  - --set model.widht=1: model 'tiny' has no option 'widht'. Did you mean 'width'?\n"
        "no.yaml: 1 problem\n"
        "  - no.yaml: there is no such file, and no shipped recipe of that name. `rewardft ls "
        "recipes` lists those that ship.\n"
    )


def test_sampling_from_what_is_no_run_leaves_nothing(rewardft):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/recipe.yaml").write_text(RECIPE)
    said = {
        "r.yaml": "expected a run folder, got a file; `rewardft run` makes runs of recipes",
        "runs": "not a run folder; expected a recipe.yaml in it, as `rewardft run` writes it",
        "runs/mein": "there is no such folder. Did you mean 'mine'?",
        "nowhere": "there is no such folder.",
    }
    for name, why in said.items():
        code, out, err = rewardft("sample", name)
        assert (code, out, err) == (2, "", f"error: {Path(name).absolute()}: {why}\n")
    assert not Path("nowhere").exists()


def test_a_report_of_what_is_no_comparison(rewardft):
    code, out, err = rewardft("report", "nowhere")
    assert (code, out) == (2, "")
    assert err == (
        "error: nowhere: not the folder of a comparison; expected comparison.json in it, as `rewardft compare` "
        "writes it\n"
    )


def test_every_shipped_recipe_checks_and_opens_with_what_it_trains(rewardft):
    recipes = shipped_recipes()
    if not recipes:
        pytest.skip("no recipes are shipped in this checkout")
    code, out, err = rewardft("check", *recipes)
    assert (code, err) == (0, "")
    # Behind a semicolon: what can only be checked with the model.
    said = [line.partition(";")[0] for line in out.splitlines()]
    assert said == [f"{path}: ok" for path in recipes.values()]
    for name, path in recipes.items():
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        assert any(f"rewardft run {name}" in line for line in header), (
            f"{path}: the header has no command"
        )


def test_show(rewardft):
    code, out, err = rewardft("show", "r.yaml", "--set", "rewards.0.target=0.5")
    assert (code, err) == (0, "")
    rows = words_of(out)
    assert ["reward", "light", "light", f"{Path('tiny.py').resolve()}:6", "tiny", "1.5"] in rows
    assert ["reward", "'light'", "target", "0.5"] in rows
    assert ["sampler", "'ddim'", "eta", "0.0", "(default)"] in rows
    assert [
        "effective",
        "batch",
        "8",
        "samples",
        "per",
        "process",
        "(batch",
        "4",
        "x",
        "accumulate",
        "2)",
    ] in rows
    assert any(row[:2] == ["parameters", "trained"] and row[-1] == "lora" for row in rows)
    code, out, _ = rewardft("show", "r.yaml", "--no-load")
    assert code == 0
    assert "parameters trained" not in out


def test_cp_copies_and_never_overwrites(rewardft):
    code, out, err = rewardft("cp", "r.yaml", "mine.yaml")
    assert (code, out, err) == (
        0,
        "mine.yaml: a copy of r.yaml. Run it with: rewardft run mine.yaml\n",
        "",
    )
    assert Path("mine.yaml").read_text() == RECIPE
    assert rewardft("cp", "r.yaml", "mine.yaml") == (
        2,
        "",
        "error: mine.yaml exists and is not overwritten; give another name, or remove it first.\n",
    )
    assert rewardft("cp", "r.yaml", "a/mine.yaml") == (
        2,
        "",
        "error: a/mine.yaml: there is no folder a; make it first.\n",
    )


def test_ls_of_named_plugins(rewardft):
    code, out, err = rewardft("ls", "-p", "./tiny.py")
    assert (code, err) == (0, "")
    rows = words_of(out)
    assert ["tiny", "tiny"] in [row[:2] for row in rows]
    line = "light tiny Minus the squared distance of the mean pixel to a target."
    assert line.split() in rows
    assert "not listed" not in out


def test_ls_and_plugins_isolate_a_broken_plugin(rewardft, site):
    site(sound=TINY, broken="raise RuntimeError('torn')\n")
    torn = f"plugin 'broken' could not be imported ({Path('site/stranger_broken.py').resolve()}:1): RuntimeError: torn"
    code, out, _ = rewardft("ls")
    assert code == 0
    assert f"not listed: {torn}\n" in out
    assert any(row[:2] == ["light", "sound"] for row in words_of(out))
    code, out, _ = rewardft("plugins")
    assert code == 0
    rows = words_of(out)
    assert f"broken 1.0 stranger-broken {torn}".split() in rows
    assert [
        "sound",
        "1.0",
        "stranger-sound",
        "register_datasets,",
        "register_models,",
        "register_rewards",
    ] in rows
    assert rewardft("--help")[0] == 0


def test_the_list_of_commands_breaks_no_line_where_the_source_does(rewardft, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (line,) = [row for row in rewardft("--help")[1].splitlines() if " check " in row]
    assert line.strip("│ ").split(maxsplit=1)[1] == (
        "Check recipes without loading any weights; exit code 2 and all problems when one cannot be run."
    )


COMMANDS = """\
import typer
from rewardft import hookimpl
app = typer.Typer()

@app.command()
def greet(name: str):
    print(f"hello {name}")

@app.command()
def other(): ...

@hookimpl
def register_commands():
    return {"hello": app}
"""


def test_commands_of_a_plugin_load_that_plugin_alone(rewardft, site):
    site(hello=COMMANDS, broken="raise RuntimeError('torn')\n")
    assert rewardft("hello", "greet", "you") == (0, "hello you\n", "")
    assert "stranger_broken" not in sys.modules
    code, out, _ = rewardft("--help")
    assert code == 0
    assert "hello" in out
    code, out, err = rewardft("broken", "x")
    assert (code, out) == (2, "")
    assert err == (
        f"error: plugin 'broken' could not be imported ({Path('site/stranger_broken.py').resolve()}:1): "
        "RuntimeError: torn\n"
    )


def test_a_plugins_command_may_be_a_function(rewardft, site):
    site(
        plain="from rewardft import hookimpl\ndef go():\n    print('gone')\n"
        "@hookimpl\ndef register_commands():\n    return {'Plain': go}\n"
    )
    assert rewardft("plain") == (0, "gone\n", "")


def test_a_plugin_without_commands_of_its_name(rewardft, site):
    site(quiet=TINY, loud=COMMANDS)
    place = Path("site").resolve()
    assert rewardft("quiet") == (
        2,
        "",
        f"error: plugin 'quiet' ({place / 'stranger_quiet.py'}) has no commands.\n",
    )
    assert rewardft("loud") == (
        2,
        "",
        f"error: plugin 'loud' ({place / 'stranger_loud.py'}) has no commands. It registers hello: a plugin's "
        "commands go by the plugin's name.\n",
    )


def test_an_unknown_command_and_an_unknown_option(rewardft):
    code, out, err = rewardft("rnu", "r.yaml")
    assert (code, out) == (2, "")
    assert "No such command 'rnu'" in err
    code, out, err = rewardft("run", "r.yaml", "--sett", "a=1")
    assert (code, out) == (2, "")
    assert "No such option: --sett" in err
    hint = "A value of the recipe is set in one word, as in: --set train.steps=100\n"
    assert err.endswith(hint)
    assert rewardft("run", "r.yaml", "--set", "train.steps", "5")[2].endswith(f"╯\n{hint}")
    assert hint not in rewardft("export", "r.yaml", "--best", "5")[2]
    assert hint not in rewardft("run", "r.yaml", "--resum")[2]


def test_run_evaluate_and_resume(rewardft):
    code, out, _ = rewardft("run", "r.yaml", "--out", "out", "--set", "train.steps=1")
    assert code == 0
    assert out.splitlines()[-1] == "finished at step 1: out"
    assert json.loads(Path("out/manifest.json").read_text())["plugins"][1]["version"] == "1.5"
    assert rewardft("run", "r.yaml", "--out", "out") == (
        2,
        "",
        f"error: {Path.cwd()}/out already holds a finished run. Continue it with --resume and a larger "
        "train.steps or train.budget, or give another folder with --out.\n",
    )
    code, out, err = rewardft("evaluate", "out", "--samples", "3")
    assert (code, err) == (0, "")
    row = next(row for row in words_of(out) if row[0] == "reward/light")
    result = next(
        row
        for row in json.loads(Path("out/evaluation.json").read_text())["rows"]
        if row["name"] == "reward/light"
    )
    assert row[1:4] == ["3", f"{result['before']:.4g}", f"{result['after']:.4g}"]
    assert rewardft("evaluate", "nowhere")[0] == 2
    # The folder in the place of the recipe: the run goes on in it.
    assert rewardft("run", "out", "--resume", "--out", "other") == (
        2,
        "",
        "error: out: 1 problem\n  - out: a run goes on in its own folder, not in other. Leave the latter out.\n",
    )
    code, out, _ = rewardft("run", "out", "--resume", "--set", "train.steps=2")
    assert (code, out.splitlines()[-1]) == (0, "finished at step 2: out")
    assert not Path("runs").exists()
    assert rewardft("run", "out") == (
        2,
        "",
        "error: out: 1 problem\n  - out: expected a recipe, got a run folder. Its recipe is out/recipe.yaml; "
        "`rewardft run out --resume` continues the run.\n",
    )


def test_the_run_folder_is_named_after_the_recipe(rewardft):
    assert rewardft("run", "r.yaml", "--set", "train.steps=1")[0] == 0
    assert Path("runs/r/recipe.yaml").is_file()


def test_an_interrupted_run_says_how_to_go_on(rewardft, monkeypatch):
    summary = RunSummary(
        status="interrupted",
        reason="interrupted by SIGINT",
        step=1,
        samples=2,
        cost={},
        train_seconds=1.0,
        peak_memory_bytes=1,
    )
    monkeypatch.setattr("rewardft.engine.train.train", lambda *arguments: summary)
    code, out, _ = rewardft("run", "r.yaml", "--set", "rewards=[{use: light}]", "--out", "a b")
    assert code == 130
    assert out == (
        "interrupted by SIGINT at step 1: a b\n"
        "continue with: rewardft run r.yaml --set 'rewards=[{use: light}]' --out 'a b' --resume\n"
    )


def test_keyboard_interrupt_exits_with_130(rewardft, monkeypatch):
    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("rewardft.engine.train.train", interrupted)
    assert rewardft("run", "r.yaml")[0] == 130


def test_a_bug_keeps_its_traceback(rewardft, monkeypatch):
    monkeypatch.setattr(
        "rewardft.engine.train.train", len
    )  # a fault that no frame of a plugin's code is in
    code, out, err = rewardft("run", "r.yaml")
    assert (code, out) == (1, "") and err.startswith("Traceback (most recent call last):")
    assert (
        "rewardft/cli/__init__.py" in err
        and "rewardft/cli/running.py" in err
        and err.count("TypeError: len()") == 1
    )
