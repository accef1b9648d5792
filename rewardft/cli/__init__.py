"""The command line: an expected error is one message on stderr and exit code 2; any other has a
traceback, and exit code 1."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rewardft.errors import (
    ComponentError,
    PeerError,
    RewardftError,
    ended_by,
    ends_commands,
    exit_called,
    in_full,
)
from rewardft.files.streams import forgive

UNEXPECTED_ERROR, EXPECTED_ERROR, INTERRUPTED = 1, 2, 130


class Carried(Exception):
    """What a command raised, past the library that reads the command line: it would end without a
    word on some exceptions, and call others a success."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Plugins are left alone, so that a broken one cannot break `rewardft --help`: only a first word
    that is not a command of the core loads a plugin, the one installed under that name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Before anything is printed: a closed pipe must not end a run that trains.
    forgive()
    try:
        os.getcwd()
    except OSError:
        say("error: the current folder does not exist any more; change to another one with cd.")
        return EXPECTED_ERROR
    with sigint_in_own_words():
        return run_command(words)


def run_command(words: list[str]) -> int:
    """The same, once streams and signals are as they should be."""
    try:
        import typer

        from rewardft.cli.app import build_app

        # Inside the `try`: a plugin's commands are loaded here, and may fail.
        command = typer.main.get_command(build_app(words))
        carry_errors(command)
        command.main(args=words, prog_name="rewardft")
    except Carried as carried:
        return report(carried.error)
    except SystemExit as stop:  # the library's own; one of a component is carried, or comes here
        # The library's own SystemExit comes of an exception of its own, such as a usage error.
        if type(stop.__context__).__module__.split(".")[0] in ("typer", "click"):
            from rewardft.cli.usage import settings_hint

            if hint := settings_hint(words, stop.__context__):
                say(hint)
            return stop.code if isinstance(stop.code, int) else 1
        return report(stop)
    except BaseException as error:
        return report(error)
    return 0


def carry_errors(command: Any) -> None:
    """Carry all that the command raises out, but what the library raises to end it."""
    invoke = command.invoke

    def invoke_and_carry(context: Any) -> Any:
        try:
            return invoke(context)
        except BaseException as error:
            library = type(error).__module__.split(".")[0] in ("typer", "click")
            if library and not (is_core(command, context) and is_foreign(error)):
                raise
            # click takes an EOFError for an abort, and some OSErrors for a closed pipe.
            raise Carried(error) from None

    command.invoke = invoke_and_carry


def is_core(command: Any, context: Any) -> bool:
    """Whether the command that was asked for is the core's, not a plugin's."""
    asked = command.commands.get(context.invoked_subcommand)
    # A plugin's group of commands has no callback of its own.
    home: str = getattr(getattr(asked, "callback", None), "__module__", "")
    return home.startswith("rewardft.cli.")


def is_foreign(error: BaseException) -> bool:
    """Whether other code than this package and the library that reads the command line has raised
    it."""
    if error.__traceback__ is None:
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in ("rewardft", "typer", "click")


@contextmanager
def sigint_in_own_words() -> Iterator[None]:
    """Ctrl-C raises its KeyboardInterrupt from code of this package, which tells it from one that
    a component raises."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # Python sets handlers in the main thread alone.
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def report(error: BaseException) -> int:
    """Say what happened in one message; returns the exit code."""
    if isinstance(error, SystemExit):
        error = ComponentError(exit_called(error))
    if is_foreign(error) and (isinstance(error, KeyboardInterrupt) or ends_commands(error)):
        error = ComponentError(ended_by(error))
    if isinstance(error, RewardftError):
        say(in_full(error))
        if isinstance(error, PeerError):  # the group of processes would wait for the lost one
            sys.stderr.flush()
            os._exit(EXPECTED_ERROR)
        return EXPECTED_ERROR
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    # Only now: an import that fails here must not hide an expected error above.
    from rewardft.cli.tracebacks import first_of_plugin, format_unexpected

    # A file that is missing or not readable is no bug, unless a plugin's code asked for it.
    named = isinstance(error, OSError) and error.filename
    if named and not first_of_plugin(error.__traceback__):
        assert isinstance(error, OSError)
        say(f"error: {error.filename}: {error.strerror or error}.")
        return EXPECTED_ERROR
    say(format_unexpected(error))
    return UNEXPECTED_ERROR


def say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr)
