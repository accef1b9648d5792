"""Text of users and plugins that looks like markup is shown as it is, in every command, on a terminal or not."""

import json

import pytest
from rich.console import Console

from rewardft.cli import main, tables
from rewardft.engine.progress import ProgressLine
from tests.bench import RECIPE

# Unbalanced, an escape, a style that is none: each ends rich's own parser in an error or is eaten by it.
GROUPS = ["[bold]red", "[/x]", "\\\\[b]", "[#0000000]"]
PLUGIN = f"""
from rewardft import hookimpl
from rewardft.testing.tiny import TinyBlobs

GROUPS = {GROUPS!r}


class Marked(TinyBlobs):
    '''[bold]Items[/bold] in groups [/that] look like markup.'''

    def __init__(self, size: int = 8, note: str = "[/]"):
        super().__init__(size)

    def __getitem__(self, index):
        item = super().__getitem__(index)
        return {{**item, "id": f"[/id]{{index}}", "group": GROUPS[index % 4]}}


def failing(rollout, batch):
    raise ValueError("[bold]no[/x] face [/]")


class Odd:
    def reset(self):
        self.count = 0

    def update(self, rollout, batch):
        self.count += len(batch)

    def compute(self):
        return {{"[/b]": float(self.count)}}


@hookimpl
def register_datasets():
    return {{"marked": Marked}}


@hookimpl
def register_rewards():
    return {{"failing": failing}}


@hookimpl
def register_metrics():
    return {{"odd": Odd}}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "marked.py").write_text(PLUGIN)
    text = RECIPE.replace("testing.tiny]", "testing.tiny, ./marked.py]")
    text = text.replace("{use: tiny_blobs, size: 6,", "{use: marked, note: '[/red]',")
    path = tmp_path / "[b]r[bold].yaml"
    path.write_text(text + "evaluate: {every: 3, samples: 4, metrics: [{use: odd}]}\n")
    return path


def said(capsys, *words, code=0):
    assert main(list(map(str, words))) == code
    shown = capsys.readouterr()
    return shown.out + shown.err


def test_every_command_shows_it_as_it_is(recipe, tmp_path, capsys):
    out = tmp_path / "[bold]out"
    shown = said(capsys, "run", recipe, "--out", out)
    assert f"finished at step 3: {out}\n" in shown and "odd/[/b] " in shown
    assert all(f"{group}/reward/tiny_brightness" in shown for group in GROUPS)
    shown = said(capsys, "evaluate", out)
    assert all(f"{group}/reward/tiny_brightness" in shown for group in GROUPS)
    assert f"{out}/samples/grid.png" in said(capsys, "sample", out, "--samples", "[/id]1")
    shown = said(capsys, "show", recipe, "--no-load")
    assert "[/red]" in shown
    shown = said(capsys, "show", "dataset", "marked", code=2)
    assert "'marked'" in shown
    listed = said(capsys, "ls", "datasets", "--plugin", tmp_path / "marked.py")
    assert "[bold]Items[/bold] in groups [/that] look like markup." in listed


def test_errors_show_it_as_it_is(recipe, tmp_path, capsys):
    sets = ("--set", "rewards=[{use: failing}]")
    shown = said(capsys, "run", recipe, "--out", tmp_path / "a", *sets, code=1)
    assert "ValueError: [bold]no[/x] face [/]" in shown and "[/id]" in shown
    facts = next((tmp_path / "a" / "failures").glob("*/facts.json"))
    assert all(id_.startswith("[/id]") for id_ in json.loads(facts.read_text())["ids"])
    shown = said(capsys, "check", recipe, "--set", "model.use=[/x]", code=2)
    assert "[/x]" in shown
    shown = said(capsys, "[/no] command", code=2)
    assert "[/no] command" in shown
    shown = said(capsys, "run", recipe, "--[/opt]", code=2)
    assert "--[/opt]" in shown


@pytest.mark.parametrize("text", [*GROUPS, "[link=x]", "[/]", "[@click=bell]"])
def test_tables_and_the_progress_line_on_a_terminal(text, monkeypatch, capsys):
    """A terminal gets styles of its own; none comes out of a name."""
    console = Console(force_terminal=True, width=200, no_color=True, highlight=False)
    monkeypatch.setattr(tables, "console", lambda: console)
    tables.print_table(text, (text, "b"), [(text, "1")])
    assert capsys.readouterr().out.count(text) == 3
    line = ProgressLine(0)
    line.console = console
    line.on_evaluation_end(None, 1, {text: 1.0}, [])
    assert f"{text} 1" in capsys.readouterr().out
