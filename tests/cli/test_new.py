"""`rewardft new`: what it writes passes its own tests, which can fail."""

import re
import sys

import pytest

from rewardft.cli import main
from tests import processes


def run_pytest(folder):
    """In a process of its own: the tests of a folder, as its author would run them."""
    import pytest

    return pytest.main([folder, "-q", "-p", "no:cacheprovider", "--rootdir", folder])


def outcome(folder):
    return processes.Running(run_pytest, str(folder), cwd=folder).wait()


def break_it(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BROKEN = {
    "reward": (
        "my_thing.py",
        "rollout.decoded.flatten(1).std(1)",
        "rollout.decoded.std().expand(len(batch))",
    ),
    "algorithm": ("my_thing.py", "step=k == visits[-1]", "step=False"),
    "sampler": ("my_thing.py", "(2 - (1 - beta) ** 0.5)", "(1 + beta)"),
    "regularizer": ("my_thing.py", "(2 * sigma**2)", "(2 * sigma)"),
    "model": ("my_thing.py", "torch.sigmoid(2 * x0)", "torch.sigmoid(2 * x0).detach()"),
    "dataset": ("my_thing.py", '"label": label,', '"label": 3 - label,'),
    "metric": (
        "my_thing.py",
        "self.levels: list[Tensor] = []",
        "self.levels = getattr(self, 'levels', [])",
    ),
    "plugin": ("my_thing/rewardft_my_thing/__init__.py", "** power", "* power - 1"),
}


def begin(kind, tmp_path):
    assert main(["new", kind, "my_thing", "--out", str(tmp_path)]) == 0
    return tmp_path / "my_thing" if kind == "plugin" else tmp_path


@pytest.mark.parametrize("kind", BROKEN)
def test_its_own_tests_pass(kind, tmp_path, capsys):
    passed = outcome(begin(kind, tmp_path))
    assert passed.returncode == 0, passed.stdout
    assert str(tmp_path / BROKEN[kind][0]) in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_its_own_tests_find_a_fault(kind, tmp_path):
    folder = begin(kind, tmp_path)
    name, old, new = BROKEN[kind]
    break_it(tmp_path / name, old, new)
    failed = outcome(folder)
    assert failed.returncode == 1 and re.search(r"\d failed", failed.stdout), failed.stdout


def test_the_recipe_of_a_plugin_is_sound_and_its_package_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "plugin", "my_thing"]) == 0
    assert main(["check", "my_thing/my_thing.yaml"]) == 0
    project = (tmp_path / "my_thing" / "pyproject.toml").read_text()
    assert 'my_thing = "rewardft_my_thing"' in project and 'name = "rewardft-my-thing"' in project


def test_how_to_test_it_is_said(tmp_path, monkeypatch, capsys):
    begin("reward", tmp_path)
    said = capsys.readouterr().out.splitlines()
    assert said[-2:] == [
        f"Test it: pytest {tmp_path / 'test_my_thing.py'}",
        "In a recipe beside it: plugins: [..., ./my_thing.py]",
    ]
    monkeypatch.setitem(sys.modules, "pytest", None)
    begin("plugin", tmp_path)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"Test it: pip install pytest && pytest {tmp_path / 'my_thing'}"
    # The same where the file itself says it.
    first = {path: path.read_text().partition("\n")[0] for path in tmp_path.rglob("*.py")}
    assert first[tmp_path / "my_thing.py"].endswith('Test it with: pytest test_my_thing.py"""')
    module = tmp_path / "my_thing" / "rewardft_my_thing" / "__init__.py"
    assert first[module].endswith('Test it with: pytest"""')


REFUSED = {
    ("rewrd", "sharp"): "error: there is no template for 'rewrd'. Did you mean 'reward'?\n",
    ("reward", "My-Reward"): (
        "error: 'My-Reward' cannot be a name here: expected lower-case letters, digits and _, with a letter "
        "first, and no word of Python, such as my_reward.\n"
    ),
    ("reward", "json"): "error: 'json' is the name of an installed module; choose another.\n",
    ("reward", "brightness"): (
        "error: plugin 'toy' has a reward 'brightness' already; choose another name.\n"
    ),
    ("algorithm", "class"): (
        "error: 'class' cannot be a name here: expected lower-case letters, digits and _, with a letter "
        "first, and no word of Python, such as my_reward.\n"
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_name_that_will_not_do(words, tmp_path, capsys):
    assert main(["new", *words, "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == REFUSED[words]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, capsys):
    assert main(["new", "reward", "my_thing", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "my_thing.py").read_text()
    break_it(tmp_path / "my_thing.py", "power", "might")
    mine = (tmp_path / "my_thing.py").read_text()
    capsys.readouterr()
    assert main(["new", "reward", "my_thing", "--out", str(tmp_path)]) == 2
    assert "exists and is not overwritten; give another name or --out." in capsys.readouterr().err
    assert (tmp_path / "my_thing.py").read_text() == mine != before
    assert "my_thing" not in sys.modules
