"""The notebook of the documentation runs from its first cell to its last, and its results show themselves."""

import ast
import json

import pytest

from tests.documents import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "python.ipynb").read_text(encoding="utf-8"))
SHOWN = {
    "run": "<table>",
    "run.metrics": "<table>",
    "evaluation": "<table>",
    "comparison": "<table>",
}


def execute(source, scope):
    """The value of the cell's last expression, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), scope)
    return None if last is None else (ast.unparse(last), eval(ast.unparse(last), scope))


@pytest.mark.timeout(1200)
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = ["".join(c["source"]) for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    scope, seen = {}, {}
    for source in cells:
        result = execute(source, scope)
        if result and hasattr(result[1], "_repr_html_"):
            seen[result[0]] = result[1]._repr_html_()
    assert SHOWN.keys() <= seen.keys()
    assert [name for name, tag in SHOWN.items() if tag not in seen[name]] == []
    assert len(scope["run"].metrics) == 4
    assert (tmp_path / "runs" / "notebook-comparison" / "report.html").is_file()


def test_the_notebook_holds_no_output():
    """What a run prints depends on the machine; the page that is built shows the code."""
    code = [c for c in NOTEBOOK["cells"] if c["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
