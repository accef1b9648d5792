"""`compare`: from the command line to the comparison and its report."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from rewardft.cli.tables import print_table
from rewardft.comparisons.api import (
    Options,
    build_request,
    comparison_row,
    default_folder,
    finish,
    require_report,
)
from rewardft.comparisons.comparison import variant_problems
from rewardft.comparisons.fairness import unfair
from rewardft.comparisons.members import Member, expand
from rewardft.comparisons.report.verdicts import focus
from rewardft.comparisons.runner import Launch
from rewardft.comparisons.tuning import said_of, tuned
from rewardft.contracts.records import ComparisonRecord, RunRecord, load_comparison
from rewardft.errors import CheckpointError
from rewardft.files.paths import given_folder


def compare_sources(
    names: Sequence[str], options: Options, launch: Launch, out: Path | None
) -> None:
    """Run, collect and report; exit code 1 when a run failed, 130 after Ctrl-C."""
    # First: a missing package must not come out after hours of runs.
    require_report()
    search = options.search
    request = build_request(names, options)
    folder = given_folder(out) if out else default_folder(names)
    command = shlex.join(["rewardft", *sys.argv[1:]])
    try:
        with sigterm_as_interrupt():
            if search:
                request = tuned(request, search, folder, launch, Progress())
                said = [*map(said_of, request.searches), *request.notes]
                print("\n".join(said), file=sys.stderr)
            members = expand(request, folder)
            say_what_is_done(members)
            say_what_is_replaced(folder, members)
            for sentence in unfair(members, request.pareto is not None, request.match is not None):
                print(f"not fair: {sentence}", file=sys.stderr)
            done = finish(request, members, folder, launch, Progress(), command, options.pictures)
    except KeyboardInterrupt:
        # The same command: runs that are done are recognised by their digest.
        print(f"interrupted; finished runs are kept. Continue with: {command}")
        raise
    record = done.record
    show(record)
    print("\n".join(str(path) for path in done.files))
    # The report is written all the same; the exit code is for scripts.
    failed = [run for variant in record.variants for run in variant.runs if not run.has_ended]
    if failed:
        print(
            f"{len(failed)} of {sum(len(v.runs) for v in record.variants)} runs have no result; "
            "the report says why."
        )
        raise typer.Exit(1)


def write_again(comparison: Path, paper: Path | None, width: float) -> None:
    """The report from `comparison.json`, and the paper's files; nothing is run or read again."""
    from rewardft.comparisons.paper import write_paper
    from rewardft.comparisons.report import write_report

    folder = given_folder(comparison)
    if not (folder / "comparison.json").is_file():
        raise CheckpointError(
            f"{folder}: not the folder of a comparison; expected comparison.json in it, as "
            "`rewardft compare` writes it"
        )
    record = load_comparison(folder / "comparison.json")
    files = write_report(record, folder)
    if paper is not None:
        files += write_paper(record, given_folder(paper), width)
    print("\n".join(str(path) for path in files))


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does: running runs save and end,
    and the user is told how to continue."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # A cluster ends jobs by SIGTERM, which by default kills Python before it can stop its runs.
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say_what_is_done(members: Sequence[Member]) -> None:
    """Before a comparison that is continued;
    and which of its variants cannot be run at all."""
    done = sum(member.problem is None and member.is_done for member in members)
    if done:
        print(f"{done} of {len(members)} runs are finished and are not repeated", file=sys.stderr)
    # Where none can be, the error itself has their problems.
    if any(member.problem is None for member in members):
        for problem in variant_problems(members):
            print(f"cannot be run: {problem}", file=sys.stderr)


def say_what_is_replaced(folder: Path, members: Sequence[Member]) -> None:
    """Where another comparison has left its report: two of one recipe share the default folder."""
    path = folder / "comparison.json"
    if not path.is_file():
        return
    try:
        before = load_comparison(path)
    except CheckpointError as error:
        print(f"{error}; it is replaced", file=sys.stderr)
        return
    there = {(folder / run.folder).resolve() for v in before.variants for run in v.runs}
    others = len(there - {member.folder.resolve() for member in members})
    if others:
        print(
            f"the report in {folder} was made by `{before.command}`, of {len(there)} runs, "
            f"{others} of which are not in this comparison: it is replaced, and the runs are kept. "
            "--out FOLDER keeps both reports.",
            file=sys.stderr,
        )


class Progress:
    """A line when a run begins and one when it ends, with what is left."""

    def __init__(self) -> None:
        self.total, self.ended, self.began = 0, 0, time.monotonic()
        self.starts: dict[str, float] = {}

    def __call__(self, member: Member, code: int | None, total: int) -> None:
        self.total = total
        if code is None:
            self.starts[member.label] = time.monotonic()
            print(f"{member.label}: started", file=sys.stderr)
            return
        self.ended += 1
        now = time.monotonic()
        took = now - self.starts.get(member.label, self.began)
        # By runs that have ended, several of which may have run at once.
        left = (now - self.began) / self.ended * (self.total - self.ended)
        # From its folder, which knows more than an exit code.
        seen = run_record(member)
        state = "done" if code == 0 else f"FAILED: {seen.reason}"
        alarms = f", {len(seen.alarms)} alarms" if seen.alarms else ""
        print(
            f"{member.label}: {state}{alarms}, {took:.0f} s ({self.ended}/{self.total} runs, "
            f"about {left:.0f} s left)",
            file=sys.stderr,
        )


def run_record(member: Member) -> RunRecord:
    """How the run ended, and the alarms of its last evaluation."""
    from rewardft.comparisons.read_runs import read_run

    return read_run(member, Path()).record


def show(record: ComparisonRecord) -> None:
    """What the report is about in one table."""
    name = focus(record)
    *columns, last = (
        "variant",
        record.start,
        "tuned",
        "difference (95 %)",
        "to the best other (95 %)",
    )
    found = [comparison_row(variant, name, record.start) for variant in record.variants]
    # Why there is no value stands in the last column, which has the room.
    rows = [
        [*(in_cell(row.get(column)) for column in columns), row.get("no result") or row[last]]
        for row in found
    ]
    print_table(name or "held-out values", [*columns, last], rows)
    # Under the table, as they limit what it says.
    for note in record.notes:
        print(note)
    for variant in record.variants:
        for alarm in variant.alarms:
            print(f"alarm, {variant.name}: {alarm}")


def in_cell(value: str | float | None) -> str:
    """A name or a difference as it is, an estimate with four digits; '' where there is none."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.4g}"
