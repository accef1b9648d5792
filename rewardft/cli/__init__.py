"""The command line: an expected error is one message on stderr and exit code 2;
any other has a traceback, and 1."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rewardft.errors import RewardftError

UNEXPECTED_ERROR, EXPECTED_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Plugins are left alone, so that a broken one cannot break `rewardft --help`: only a first word
    that is not a command of the core loads a plugin, the one installed under that name.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows ASCII alone ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        from rewardft.cli.app import build_app

        build_app(words)(args=words, prog_name="rewardft")
    except RewardftError as error:
        print("\n".join([f"error: {error}", *getattr(error, "__notes__", [])]), file=sys.stderr)
        return EXPECTED_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
    except Exception as error:
        from rewardft.cli.tracebacks import first_of_plugin, format_unexpected

        if (
            isinstance(error, OSError)
            and error.filename
            and not first_of_plugin(error.__traceback__)
        ):
            print(f"error: {error.filename}: {error.strerror or error}.", file=sys.stderr)
            return EXPECTED_ERROR
        print(format_unexpected(error), file=sys.stderr)
        return UNEXPECTED_ERROR
    return 0
