"""A stranger's reward: one file, and a package installed by pip. Neither needs a change to the core."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.plugins.sources import installed
from rewardft.testing import run_recipe
from tests import processes
from tests.documents import ROOT, files_in

MEASURE = "reward/redness"


def run(command, cwd, **environment):
    """Run a command of the documentation with this interpreter's rewardft; returns stdout."""
    words = command if isinstance(command, list) else shlex.split(command)
    if words[0] == "rewardft":
        done = processes.run(*words[1:], cwd=cwd, env=environment)
    else:
        words = [sys.executable, "-m", *words]
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def steps_of(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if "gradient_norm" in record]


def readme_commands():
    text = (ROOT / "README.md").read_text()
    block = re.search(r"<!-- run -->\n```sh\n(.*?)```", text, re.S)
    return block.group(1).splitlines()


def test_the_readme_plugin_is_eleven_lines():
    source = files_in("README.md")["redness.py"]
    assert len(source.splitlines()) == 11


def test_one_file_as_the_readme_prints_it_trains(tmp_path):
    """The file and the commands of the README, in an empty folder: the reward rises on held-out samples."""
    (tmp_path / "redness.py").write_text(files_in("README.md")["redness.py"])
    output = [run(command, tmp_path) for command in readme_commands()][-1]
    folder = tmp_path / "runs" / "redness"
    rewards = [step[MEASURE] for step in steps_of(folder)]
    assert len(rewards) == 60 and sum(rewards[-10:]) / 10 > sum(rewards[:10]) / 10 + 0.05
    row = next(
        r
        for r in json.loads((folder / "summary.json").read_text())["evaluation"]
        if r["name"] == MEASURE
    )
    assert row["difference"] > row["half_width"] > 0
    assert MEASURE in output and "finished at step 60: runs/redness" in output


def test_the_name_does_not_tell_case_and_options_are_checked(tmp_path, monkeypatch, capsys):
    (tmp_path / "redness.py").write_text(files_in("README.md")["redness.py"])
    monkeypatch.chdir(tmp_path)
    assert main(["cp", "toy_draft", "mine.yaml"]) == 0
    check = ["check", "mine.yaml", "--set", "plugins=[toy, ./redness.py]", "--set"]
    for name in ("Redness", "redness", "REDNESS"):
        assert main([*check, f"rewards=[{{use: {name}}}]"]) == 0
    capsys.readouterr()
    assert main([*check, "rewards=[{use: redness, targett: 1}]"]) == 2
    assert capsys.readouterr().err == (
        "error: mine.yaml: 1 problem\n"
        "  - --set rewards=[{use: redness, targett: 1}]: reward 'Redness' has no option 'targett'."
        " Did you mean 'target'?\n"
    )


PACKAGE = '''
"""A reward by somebody who has never seen the core."""

__version__ = "0.3"

from rewardft import hookimpl


class BlueNess:
    """Mean of the blue channel."""

    provides = frozenset({"reward_gradient"})

    def __call__(self, rollout, batch):
        return rollout.decoded.unbind(dim=-3)[2].flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"BlueNess": BlueNess}
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder into which pip has installed the package whose pyproject.toml the documentation prints."""
    project, target = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    (project / "pyproject.toml").write_text(files_in("docs/writing-a-plugin.md")["pyproject.toml"])
    (project / "stranger_rewards.py").write_text(PACKAGE)
    run(
        [
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
            "--target",
            str(target),
            str(project),
        ],
        project,
    )
    assert (target / "stranger_rewards.py").is_file()
    return target


def test_an_installed_package_trains_under_a_mixed_case_name(tmp_path, site):
    """Entry point `Stranger`, reward `BlueNess`; the recipe writes both in other cases."""
    environment = {"PYTHONPATH": str(site)}
    settings = ["plugins=[toy, 'stranger>=0.3']", "rewards=[{use: blueness, weight: 2.0}]"]
    settings += ["train.steps=20", "evaluate.every=0"]
    sets = [word for setting in settings for word in ("--set", setting)]
    run(["rewardft", "run", "toy_draft", "--out", "out", *sets], tmp_path, **environment)
    rewards = [step["reward/blueness"] for step in steps_of(tmp_path / "out")]
    assert len(rewards) == 20 and sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.02
    plugins = json.loads((tmp_path / "out" / "manifest.json").read_text())["plugins"]
    assert [(p["name"], p["version"]) for p in plugins if p["name"] == "Stranger"] == [
        ("Stranger", "0.3")
    ]
    assert Path(next(p["file"] for p in plugins if p["name"] == "Stranger")).parent == site


def test_installing_a_package_changes_no_run(tmp_path, site, monkeypatch):
    """A recipe that does not list the package runs to the same numbers with and without it."""
    settings = ["train.steps=3", "evaluate.every=0", "train.log_every=1"]
    recipe = ROOT / "recipes" / "toy_draft.yaml"
    one = run_recipe(recipe, tmp_path / "without", *settings)
    monkeypatch.syspath_prepend(str(site))
    assert "stranger" in installed(), "the package is there for the second run"
    two = run_recipe(recipe, tmp_path / "with", *settings)
    assert one.column("loss") == two.column("loss") and len(one.steps) == 3
    plugins = json.loads((two.folder / "manifest.json").read_text())["plugins"]
    assert [p["name"] for p in plugins] == ["builtin", "toy"]


def test_the_greeter_of_the_documentation_greets(tmp_path):
    """A plugin with a command, installed by hand: the smallest installation that Python knows."""
    (tmp_path / "greeter.py").write_text(files_in("docs/writing-a-plugin.md")["greeter.py"])
    info = tmp_path / "greeter-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rewardft]\ngreeter = greeter\n")
    assert run("rewardft greeter hello", tmp_path, PYTHONPATH=str(tmp_path)) == "hello\n"
