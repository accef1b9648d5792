"""Options that messages, docstrings and documents name are options that some command has."""

import ast
import re
import tomllib

import pytest
import typer

from rewardft.cli.app import build_app
from rewardft.errors import PluginError
from tests.documents import ROOT

OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
# Of other programs: launchers, Slurm, git, nvidia-smi, DiffusionKTO's code, and scripts of this repository.
SLURM = {"--wait", "--job-name", "--array", "--output", "--gres", "--time", "--parsable"}
SLURM |= {"--nodes", "--ntasks-per-node", "--gpus-per-node"}
LAUNCHERS = {"--nproc_per_node", "--num_processes", "--cpu", "--multi_gpu", "--nnodes"}
LAUNCHERS |= {"--rdzv_backend", "--rdzv_endpoint", "--rdzv_id"}
OTHERS = {
    "--porcelain",
    "--branch",
    "--no-ahead-behind",
    "--query-gpu",
    "--format",
    "--halo",
    "--bce_offset",
    "--tune",
}
FOREIGN = SLURM | OTHERS | LAUNCHERS
PLUGINS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "rewardft"
]


def options_of(command):
    """The options of a command and of those below it."""
    found = {
        name
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    return found.union(*(options_of(each) for each in getattr(command, "commands", {}).values()))


@pytest.fixture(scope="module")
def known():
    apps = [build_app(["run"])]
    for name in PLUGINS:
        try:
            apps.append(build_app([name]))
        except PluginError as error:
            assert "has no commands" in str(error)
    return (
        set().union(*(options_of(typer.main.get_command(app)) for app in apps))
        | FOREIGN
        | {"--help"}
    )


def texts():
    """(place, text) of every string in the code, and of every document."""
    for path in sorted([*(ROOT / "rewardft").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")]):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not re.search(r"\b(pip|git|python|pytest|make) ", line):
                yield f"{path.relative_to(ROOT)}:{number}", line


def test_every_option_that_is_named_exists(known):
    named = [(place, option) for place, text in texts() for option in OPTION.findall(text)]
    assert len(named) > 100
    unknown = [f"{place}: {option}" for place, option in named if option not in known]
    assert unknown == [], "\n".join(unknown)
