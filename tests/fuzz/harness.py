"""One input, in this process: what it ended with, and whether it changed a file that it may not.

An input is good when it ends as it should (exit code 0, or 2 with a sentence), within ten seconds,
and leaves everything outside its folder as it was.
"""

import contextlib
import hashlib
import io
import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from pathlib import Path

from rewardft.cli import main
from rewardft.errors import RewardftError

SECONDS = 10
ENDS: Counter[str] = Counter()  # how inputs ended, for the table of `python -m tests.fuzz`


class Hang(BaseException):
    """Raised by the timer; no `except Exception` catches it."""


@contextlib.contextmanager
def place():
    """The current folder for one input: OUTER/inside, with things beside it that must stay."""
    before, environment = Path.cwd(), dict(os.environ)
    outer = Path(tempfile.mkdtemp(prefix="rewardft-fuzz-"))
    try:
        (outer / "inside").mkdir()
        (outer / "beside").mkdir()
        (outer / "beside" / "precious.txt").write_text("precious")
        (outer / "a.yaml").write_text("precious")
        os.chdir(outer / "inside")
        os.environ["XDG_CACHE_HOME"] = str(outer / "inside" / "cache")
        seen = contents(outer)
        yield outer / "inside"
        assert contents(outer) == seen, "a file outside the folder was changed"
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(outer)


def contents(outer):
    """Everything below `outer` but `inside`, by name."""
    found = {}
    for path in sorted(outer.rglob("*")):
        name = path.relative_to(outer)
        if name.parts[0] != "inside":
            found[str(name)] = path.read_bytes() if path.is_file() else None
    return found


@contextlib.contextmanager
def in_time():
    """Raises Hang after SECONDS of processor time, which a busy machine does not shorten."""

    def ring(number, frame):
        raise Hang(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def command(kind, *words, codes=(0, 2)):
    """Run a command line; it ends with one of the codes, of which 2 has a sentence."""
    out, err = io.StringIO(), io.StringIO()
    with in_time(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    said = err.getvalue()
    assert code in codes, f"exit code {code}\n{said}"
    assert "Traceback" not in said and "plugin's code raised" not in said, said
    if code == 2:
        sentence(said)
    ENDS[f"{kind}: exit {code}"] += 1
    return code, out.getvalue(), said


def call(kind, function, *arguments, errors=(RewardftError,)):
    """Call a function that reads a file; it returns, or raises an expected error with a sentence."""
    try:
        with in_time():
            result = function(*arguments)
    except errors as error:
        sentence(str(error))
        ENDS[f"{kind}: refused"] += 1
        return None
    ENDS[f"{kind}: read"] += 1
    return result


def sentence(text):
    """A message of words, neither empty nor a page of internals."""
    assert any(word.isalpha() for word in text.replace(":", " ").split()), repr(text)
    assert len(text) < 20_000, f"a message of {len(text)} characters"
    for inner in ("<frozen ", "object at 0x", "pydantic", "NoneType"):
        assert inner not in text, text


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def explain(error):
    return "".join(traceback.format_exception(error))
