"""The tests that the list of faults names exist, and so do its commits where the history is there."""

import ast
import re
import subprocess

import pytest

from tests.documents import ROOT, table_rows, words

FAULTS = (ROOT / "benchmarks" / "results" / "faults.md").read_text(encoding="utf-8")
ROWS = table_rows(FAULTS.partition("## Faults and their tests")[2])


def functions(path):
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
    }


def test_every_fault_has_a_test_that_exists():
    named = [name for *_, tests in ROWS for name in words(tests)]
    assert len(ROWS) > 50 and len(named) >= len(ROWS)
    for name in named:
        file, _, function = name.partition("::")
        path = ROOT / "tests" / file
        assert path.is_file(), name
        assert not function or function in functions(path), name


def test_every_commit_is_one_of_the_history():
    found = [commit for _, commits, _ in ROWS for commit in commits.split()]
    assert found and all(re.fullmatch(r"[0-9a-f]{7,}", commit) for commit in found)
    git = ["git", "-C", str(ROOT), "log", "--format=%H"]
    try:
        history = subprocess.run(git, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("without git there is no history to look into")
    if len(history) < 100:
        pytest.skip("a clone without its history")
    assert [c for c in found if not any(full.startswith(c) for full in history)] == []
