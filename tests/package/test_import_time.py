"""The command line answers at once: no torch before there is something to compute."""

import json
import resource
import subprocess
import sys

MODULES = [
    "rewardft",
    "rewardft.recipe.recipe",
    "rewardft.plugins.manager",
    "rewardft.plugins.catalog",
    "rewardft.plugins.resolve",
    "rewardft.cli.app",
    "rewardft.cli.listing",
    "rewardft.cli.running",
    "rewardft.cli.showing",
    "rewardft.testing.pytest_plugin",
]
LOADED = f"""
import importlib, json, sys
found = {{}}
for module in {MODULES}:
    importlib.import_module(module)
    found[module] = [name for name in ("torch", "numpy", "diffusers") if name in sys.modules]
print(json.dumps(found))
"""


def seconds_of(*arguments):
    """What a fresh process computes, not what it waits for others that the machine runs."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def takes_less(seconds, *arguments):
    """In one of three tries: others may disturb one."""
    return any(seconds_of(*arguments) < seconds for _ in range(3))


def test_imports_no_torch():
    """The first with any is the one that imports it."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout) == {module: [] for module in MODULES}


def test_import_is_quick():
    assert takes_less(
        1.0 + seconds_of("-c", "pass"), "-c", "import rewardft"
    )  # torch takes several


def test_help_is_quick():
    assert takes_less(3.0, "-m", "rewardft", "--help")  # processor seconds of a shared core
