"""The command line answers at once: no torch before there is something to compute."""

import resource
import subprocess
import sys

import pytest


def best_of_three(*arguments):
    """Seconds of the quickest of three fresh processes, on a core of their own: what they compute, not what they wait
    for others that the machine runs."""
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(seconds)


@pytest.mark.parametrize(
    "module",
    [
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
    ],
)
def test_imports_no_torch(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'numpy', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_import_is_quick():
    bare = best_of_three("-c", "pass")
    assert best_of_three("-c", "import rewardft") - bare < 1.0  # importing torch takes several


def test_help_is_quick():
    assert best_of_three("-m", "rewardft", "--help") < 3.0  # processor seconds of a shared core
