"""The command line answers at once: no torch before there is something to compute."""

import subprocess
import sys
import time

import pytest


def best_of_three(*arguments):
    """Wall-clock seconds of the quickest of three fresh processes."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


@pytest.mark.parametrize(
    "module",
    ["rewardft", "rewardft.recipe", "rewardft.plugins", "rewardft.catalog", "rewardft.resolve", "rewardft.cli.app",
     "rewardft.cli.listing", "rewardft.cli.running", "rewardft.cli.showing", "rewardft.testing.pytest_plugin"],
)  # fmt: skip
def test_imports_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_import_is_quick():
    bare = best_of_three("-c", "pass")
    assert best_of_three("-c", "import rewardft") - bare < 0.3


def test_help_is_quick():
    assert best_of_three("-m", "rewardft", "--help") < 1.0
