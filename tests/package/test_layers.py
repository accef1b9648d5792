"""Imports go one way, and the core knows no plugin: neither by import nor by name."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "rewardft").rglob("*.py"))
REGISTERS = re.compile(
    r"register_(models|samplers|algorithms|rewards|regularizers|datasets|metrics|launchers|commands)$"
)
# Names that a plugin has or registers and the core may say: documented tags, and the kind of component that a plugin is
# named after. (A paper's name, `DrPose`, is no plugin's name.)
# Plain words of the core, too; `diversity` and `image_statistics` are how metrics name what alarms watch.
SHARED_WORDS = {
    "multiview",
    "rewards",
    "metrics",
    "digits",
    "remote",
    "diversity",
    "image_statistics",
    "video",
    "format",
}


def lint_imports(config, folder):
    command = [
        sys.executable,
        "-c",
        "import sys; from importlinter.cli import lint_imports_command as run; run()",
    ]
    arguments = ["--config", str(config), "--no-cache", "--no-logo"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )


def test_every_import_contract_is_kept():
    result = lint_imports(ROOT / "pyproject.toml", ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts: 5 kept, 0 broken." in result.stdout


def test_no_import_hides_from_the_contracts_behind_a_string():
    """The contracts see import statements, in functions too, and not `import_module("rewardft...")`."""
    files = [*CORE, *sorted((ROOT / "plugins").rglob("*.py"))]
    assert len(files) > 400
    by_name = re.compile(r"""(import_module|__import__)\(\s*f?["']rewardft""")
    found = [
        str(path.relative_to(ROOT))
        for path in files
        if by_name.search(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_broken_contract_is_noticed(tmp_path):
    """A copy of the configuration in which the errors module may import nothing but must come first."""
    text = (ROOT / "pyproject.toml").read_text()
    config = tmp_path / "pyproject.toml"
    config.write_text(
        text.replace('    "errors",\n]', "]").replace(
            '"cli | testing",', '"errors", "cli | testing",'
        )
    )
    result = lint_imports(config, ROOT)
    assert result.returncode == 1 and "rewardft.types" not in result.stdout.split("BROKEN")[0]
    assert "is not allowed to import rewardft.errors" in result.stdout


@functools.cache
def plugin_words():
    """Every plugin's folder name and every component that it registers."""
    words = {}
    for folder in (p for p in (ROOT / "plugins").iterdir() if (p / "__init__.py").exists()):
        words[folder.name] = f"the plugin {folder.name}"
        for node in ast.walk(ast.parse((folder / "__init__.py").read_text())):
            if isinstance(node, ast.FunctionDef) and REGISTERS.match(node.name):
                names = {
                    key.value for d in ast.walk(node) if isinstance(d, ast.Dict) for key in d.keys
                }
                words |= dict.fromkeys(names, f"{node.name} of {folder.name}")
    return words


def test_plugins_register_something_to_look_for():
    assert {
        "toy",
        "drpose",
        "brightness",
        "pose_score",
        "multiview_unet",
        "drpose15k",
    } <= plugin_words().keys()


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_core_file_names_a_plugin_or_its_components(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [
        f"line {number}: {word!r} ({plugin_words()[word]})"
        for number, line in enumerate(lines, 1)
        for word in forbidden_words().findall(line)
    ]
    assert found == []


@functools.cache
def forbidden_words():
    """As one expression: a search for each word in each line would take ten seconds."""
    words = sorted(plugin_words().keys() - SHARED_WORDS)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b")
