"""Size and tidiness of the code: short files, short functions, documented and annotated public names, no loose ends."""

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = sorted((ROOT / "rewardft").rglob("*.py"))
SHIPPED = CORE + sorted((ROOT / "plugins").rglob("*.py"))
ALL = [
    *SHIPPED,
    *sorted((ROOT / "recipes").rglob("*.py")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
]
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def name_of(path):
    return str(path.relative_to(ROOT))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTION)]


def length(node, text):
    """Lines of a function from `def` to its end, without those that are a comment alone."""
    lines = text[node.lineno - 1 : node.end_lineno]
    return sum(not line.lstrip().startswith("#") for line in lines)


def test_files_have_at_most_300_lines_of_at_most_100():
    texts = {name_of(p): p.read_text(encoding="utf-8").splitlines() for p in SHIPPED}
    assert {name: len(text) for name, text in texts.items() if len(text) > 300} == {}
    long = (
        f"{name}:{i}"
        for name, text in texts.items()
        for i, line in enumerate(text, 1)
        if len(line.partition("  # type: ignore")[0]) > 100
    )
    assert [*long] == []


def test_functions_are_short():
    """At most 45 lines, docstring included, nine of ten at most 20, and half of them at most 8."""
    lengths = {
        f"{name_of(p)}:{f.lineno} {f.name}": length(f, p.read_text(encoding="utf-8").splitlines())
        for p in SHIPPED
        for f in functions(tree_of(p))
    }
    assert {name: count for name, count in lengths.items() if count > 45} == {}
    assert statistics.median(lengths.values()) <= 8
    assert statistics.quantiles(lengths.values(), n=10)[-1] <= 20


def test_no_file_is_a_drawer():
    assert [
        name_of(p) for p in ALL if p.stem in ("utils", "util", "helpers", "misc", "common")
    ] == []


def public_nodes(tree):
    """Public functions and classes of a module, and the public methods of public classes."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node, False
            if isinstance(node, ast.ClassDef):
                methods = (
                    n for n in node.body if isinstance(n, FUNCTION) and not n.name.startswith("_")
                )
                yield from ((f"{node.name}.{m.name}", m, True) for m in methods)


def decorators(node):
    """Last words of the decorators' names: `hookimpl` for `@hookimpl(trylast=True)`, `njit` for `@numba.njit`."""
    called = [getattr(d, "func", d) for d in node.decorator_list]
    return [getattr(d, "attr", getattr(d, "id", "")) for d in called]


PROTOCOLS = {
    m.name
    for c in tree_of(ROOT / "rewardft" / "contracts" / "protocols.py").body
    for m in getattr(c, "body", [])
    if isinstance(m, FUNCTION)
}


def is_said_elsewhere(node, is_method):
    """Hook implementations and the methods of protocols are documented where they are declared."""
    return "hookimpl" in decorators(node) or (is_method and node.name in PROTOCOLS)


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_public_names_have_docstrings(path):
    """A method of five lines or fewer whose name says it all may go without."""
    tree, text = tree_of(path), path.read_text(encoding="utf-8").splitlines()
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for name, node, is_method in public_nodes(tree):
        short = is_method and length(node, text) <= 5
        if not (ast.get_docstring(node) or is_said_elsewhere(node, is_method) or short):
            missing.append(f"line {node.lineno}: {name}")
    assert missing == []


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_every_function_is_annotated(path):
    """But for numba's kernels, whose types are those that they are compiled for."""
    missing = []
    for node in (f for f in functions(tree_of(path)) if "njit" not in decorators(f)):
        given = node.args
        arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [
            a.arg for a in arguments if a and a.annotation is None and a.arg not in ("self", "cls")
        ]
        if bare or node.returns is None:
            missing.append(
                f"line {node.lineno}: {node.name}({', '.join(bare)}){'' if node.returns else ' -> ?'}"
            )
    assert missing == []


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_nothing_is_left_for_later(path):
    words = re.compile(
        r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b"
    )
    text = path.read_text(encoding="utf-8")
    assert [
        f"line {i}: {line}" for i, line in enumerate(text.splitlines(), 1) if words.search(line)
    ] == []


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_no_exception_is_swallowed(path):
    """A handler names what it catches, and does something about it."""
    swallowed = []
    for node in ast.walk(tree_of(path)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        idle = all(
            isinstance(n, ast.Pass)
            or (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))
            for n in node.body
        )
        if node.type is None or idle:
            swallowed.append(f"line {node.lineno}")
    assert swallowed == []


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_random_numbers_come_from_a_seed(path):
    """numpy's and Python's global generators are not used."""
    calls = re.compile(
        r"\bnp\.random\.(rand|randn|randint|seed|choice|shuffle|normal|uniform)\(|\brandom\.(random|seed|choice|shuffle)\("
    )
    assert [
        line for line in path.read_text(encoding="utf-8").splitlines() if calls.search(line)
    ] == []
