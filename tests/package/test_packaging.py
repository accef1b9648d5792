"""The wheel holds everything and works without the checkout; the core works without the plugins."""

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"rewardft": "rewardft", "plugins": "rewardft_plugins", "recipes": "rewardft_recipes"}
CODE_AND_DATA = {
    ".py",
    ".typed",
    ".npz",
    ".json",
    ".safetensors",
    ".txt",
    ".md",
    ".yaml",
    ".html",
    ".css",
    ".js",
}

RECIPE = """
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 12}
sampler: {use: ddim, steps: 4}
data: {use: tiny_blobs, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k}
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 2}
"""


def copy(folders, to):
    for folder in folders:
        shutil.copytree(
            ROOT / folder,
            to / folder,
            ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """This environment's packages without rewardft, however it is installed."""
    folder = tmp_path_factory.mktemp("site")
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "rewardft" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout and nothing stale is taken from it."""
    folder = tmp_path_factory.mktemp("build")
    copy(SOURCES, folder)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, folder / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        "out",
    ]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    (path,) = (folder / "out").glob("rewardft-*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def python(arguments, path, cwd):
    """A fresh interpreter that sees `path` alone: -S leaves out this environment and its links to the checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "COLUMNS": "200",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-S", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )


def test_the_wheel_holds_every_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        str(Path(package, path.relative_to(ROOT / folder)))
        for folder, package in SOURCES.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in CODE_AND_DATA and "__pycache__" not in path.parts
    }
    assert expected - names == set()
    surplus = {name for name in names - expected if ".dist-info/" not in name}
    assert surplus == set()
    data = [
        name
        for name in expected
        if name.startswith(("rewardft_plugins/drpose/assets/", "rewardft_plugins/humans/assets/"))
    ]
    assert {Path(name).suffix for name in data} >= {".npz", ".json", ".txt"}


def test_the_wheel_carries_its_licences_and_entry_points(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (points,) = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
        parsed = configparser.ConfigParser()
        parsed.read_string(archive.read(points).decode())
        licences = {
            Path(name).name: archive.read(name) for name in names if ".dist-info/licenses/" in name
        }
    assert dict(parsed["console_scripts"]) == {"rewardft": "rewardft.cli:main"}
    assert dict(parsed["pytest11"]) == {"rewardft": "rewardft.testing.pytest_plugin"}
    folders = [p.parent.name for p in (ROOT / "plugins").glob("*/__init__.py")]
    assert dict(parsed["rewardft"]) == {name: f"rewardft_plugins.{name}" for name in folders}
    assert licences == {name: (ROOT / name).read_bytes() for name in ("LICENSE", "NOTICE")}


def test_the_wheel_works_without_the_checkout(unpacked, site, tmp_path):
    """One interpreter does it all, as each spends seconds on its imports."""
    code = (
        "import rewardft, rewardft_plugins.toy as toy; from rewardft.cli import main\n"
        "print(rewardft.__file__, toy.__file__)\n"
        "print(main(['ls']), main(['check', 'toy_draft', 'drpose_mini']))"
    )
    done = python(["-c", code], [unpacked, site], tmp_path)
    assert done.returncode == 0, done.stderr
    first, *listed = done.stdout.splitlines()
    assert first.split() == [
        str(unpacked / "rewardft/__init__.py"),
        str(unpacked / "rewardft_plugins/toy/__init__.py"),
    ]
    for name in [path.stem for path in (ROOT / "recipes").glob("*.yaml")]:
        assert any(name in line for line in listed)
    assert listed[-3:] == [
        *(f"{unpacked}/rewardft_recipes/{name}.yaml: ok" for name in ("toy_draft", "drpose_mini")),
        "0 0",
    ]


def test_the_core_works_without_plugins_and_recipes(site, tmp_path):
    alone = tmp_path / "alone"
    copy(["rewardft"], alone)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    code = (
        "import importlib.util as u; from rewardft.cli import main\n"
        "print([u.find_spec(n) for n in ('rewardft_plugins', 'rewardft_recipes')])\n"
        "print(main(['check', 'toy_draft']))"
    )
    done = python(["-c", code], [alone, site], tmp_path)
    assert done.stdout == "[None, None]\n2\n"
    assert done.stderr.startswith(
        "error: toy_draft: 1 problem\n  - toy_draft: there is no such file"
    )
    run = python(["-m", "rewardft", "run", "recipe.yaml", "--out", "out"], [alone, site], tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["step"] == 2
