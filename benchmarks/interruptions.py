"""End runs and comparisons at random moments, resume them, compare with one left alone, bit by bit.

    python benchmarks/interruptions.py FOLDER [--runs 30] [--compares 15] [--disks 10] [--seed 0]

Each moment takes one of SIGKILL, SIGTERM, SIGHUP and a closed pipe in turn. `--disks` mounts small
file systems in memory, which takes the rights of root.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NoReturn

from rewardft.cli import main
from rewardft.storage.folder import is_held

KINDS = ("SIGKILL", "SIGTERM", "SIGHUP", "pipe")
SETS = ["train.steps=30", "train.log_every=1", "save.every=4", "evaluate.every=15"]
TIMED = ("seconds", "memory", "per_second")


class Started:
    """`python -m rewardft WORDS` in a process and a session of its own, without the seconds that
    imports take: it is forked off this process, which has done them. `text`: what it prints."""

    def __init__(self, words: list[str], text: Path | None) -> None:
        self.reader: int | None = None
        if text is None:
            self.reader, writer = os.pipe()
        else:
            writer = os.open(text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.pid = os.fork()
        if self.pid == 0:
            become(words, writer)
        os.close(writer)

    def wait(self) -> int:
        """Its exit code; minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def become(words: list[str], output: int) -> NoReturn:
    """What a new interpreter would do with the command line."""
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["rewardft", *words]
    code = 70
    try:
        code = main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def finish(words: list[str], text: Path) -> tuple[int, str]:
    """Run a command line to its end; its exit code and what it printed."""
    code = Started(words, text).wait()
    return code, text.read_text(errors="replace")


def command(name: str, out: Path, *words: str) -> list[str]:
    """The command line of a run or a comparison of the toy recipe."""
    sets = [word for text in SETS for word in ("--set", text)]
    more = ["--seeds", "2", "--pictures", "0"] if name == "compare" else []
    return [name, "toy_drtune", *sets, *more, "--out", str(out), *words]


def result(out: Path) -> list[object]:
    """Metrics and evaluations of all runs below a folder, without timings, and the digests of the
    trained weights."""
    files = sorted([*out.rglob("metrics.jsonl"), *out.rglob("evaluations/*.json")])
    weights = sorted(out.rglob("adapter/adapter_model.safetensors"))
    found: list[object] = [digest(file) for file in weights]
    for file in files:
        records = [json.loads(line) for line in file.read_text().splitlines()]
        found.append(
            [{k: v for k, v in r.items() if not any(t in k for t in TIMED)} for r in records]
        )
    return [[str(f.relative_to(out)) for f in files], found]


def digest(weights: Path) -> str:
    """SHA-256 of a safetensors file after its header, which is written in no fixed order."""
    raw = weights.read_bytes()
    return hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()


def interrupt(name: str, out: Path, kind: str, delay: float) -> int | None:
    """Start it and end it after `delay` seconds; returns the exit code."""
    text = None if kind == "pipe" else out.parent / f"{out.name}.txt"
    process = Started(command(name, out), text)
    time.sleep(delay)
    if process.reader is not None:
        os.close(process.reader)
    else:
        os.kill(process.pid, getattr(signal, kind))
    return process.wait()


def go_on(name: str, out: Path) -> int:
    """Resume what was interrupted; a comparison resumes by itself."""
    if name == "run" and not (out / "recipe.yaml").exists():  # it was ended before it had begun
        return finish(command(name, out), out.parent / "again.txt")[0]
    summary = out / "summary.json"
    if name == "run" and summary.exists():
        status = json.loads(summary.read_text())["status"]
        if status == "finished":
            return 0
    words = ["--resume"] if name == "run" else []
    code, said = finish(command(name, out, *words), out.parent / "again.txt")
    if code:
        print(said[-500:])
    return code


def settle(out: Path) -> None:
    """Wait until no run of a killed comparison holds its folder."""
    while any(is_held(path.parent) for path in out.rglob("recipe.yaml")):
        time.sleep(0.2)


def interruptions(folder: Path, name: str, count: int, rng: random.Random) -> int:
    """Returns how many resumed results differ."""
    lasts = min(left_alone(folder, name, f"{name}-{word}") for word in ("timed", "whole"))
    expected = result(folder / f"{name}-whole")
    different = 0
    spread = Counter[str]()
    for number in range(count):
        kind, out = KINDS[number % len(KINDS)], folder / f"{name}-{number}"
        delay = rng.uniform(0.1, 0.85) * lasts
        code = interrupt(name, out, kind, delay)
        settle(out)
        found = where(out)
        spread[found] += 1
        again = go_on(name, out)
        same = again == 0 and result(out) == expected
        different += not same
        print(
            f"{name} {number}: {kind} after {delay:.1f} s of {lasts:.1f}, exit {code}, {found}, "
            f"then {again}: {'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
        shutil.rmtree(out, ignore_errors=True)
    print(f"{name}: {count} moments, {different} differ; {dict(spread)}", flush=True)
    return different


def left_alone(folder: Path, name: str, called: str) -> float:
    """Run it to its end; returns the seconds that it took."""
    began = time.monotonic()
    assert finish(command(name, folder / called), folder / f"{called}.txt")[0] == 0
    return time.monotonic() - began


def where(out: Path) -> str:
    """How far the first run below a folder had come."""
    (metrics, *_) = sorted(out.rglob("metrics.jsonl")) or [None]
    if metrics is None:
        return "before step 1"
    summary = metrics.parent / "summary.json"
    ended = summary.exists() and json.loads(summary.read_text())["status"] == "finished"
    return "after the first run" if ended else "amid the first run"


def full_disks(folder: Path, sizes: list[int]) -> int:
    """Run into file systems of so many KiB, move what is there elsewhere and resume; returns how
    many differ."""
    expected, different = result(folder / "run-whole"), 0
    for size in sizes:
        disk = folder / f"disk-{size}"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", disk], check=True)
        try:
            code, said = finish(command("run", disk / "run"), folder / f"disk-{size}.txt")
            errors = [line for line in said.splitlines() if line.startswith("error:")]
            line = errors[0] if errors else "no message"
            out = folder / f"moved-{size}"
            if (disk / "run").exists():
                shutil.copytree(disk / "run", out)
        finally:
            subprocess.run(["umount", disk], check=True)
        again = go_on("run", out)
        same = again == 0 and result(out) == expected and "Traceback" not in said
        different += not same
        print(
            f"disk of {size} KiB: exit {code}, {line[:110]}: {'equal' if same else 'DIFFERENT'}",
            flush=True,
        )
    return different


def measure() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--compares", type=int, default=15)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    # Whatever a run imports is imported now, once for all of them.
    assert main(command("run", given.folder / "first")) == 0
    rng = random.Random(given.seed)
    different = interruptions(given.folder, "run", given.runs, rng)
    if given.compares:
        different += interruptions(given.folder, "compare", given.compares, rng)
    if given.disks:
        largest = sum(f.stat().st_size for f in (given.folder / "run-whole").rglob("*")) // 1024
        sizes = sorted(
            {max(8, round(largest * rng.uniform(0.03, 0.9))) for _ in range(given.disks)}
        )
        different += full_disks(given.folder, sizes)
    print(f"{different} differ")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(measure())
