"""Errors that a user can act on.

Every message says what was expected, what was got, where, and how to fix it. The command line
prints a `RewardftError` as one message on stderr and exits with code 2; anything else is a bug and
keeps its traceback.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable, Sequence
from typing import Any


class RewardftError(Exception):
    """Base of all expected errors."""


class RecipeError(RewardftError):
    """A recipe cannot be run. Carries every problem that was found, not only the first."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source = source
        self.problems = list(problems)
        count = f"{len(self.problems)} problem" + ("s" if len(self.problems) != 1 else "")
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {p}" for p in self.problems))

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process makes the same error of; a pool would wait forever without it."""
        # An exception is otherwise made again from its message alone.
        return type(self), (self.source, self.problems), self.__dict__


class PluginError(RewardftError):
    """A requested plugin cannot be used: names the plugin, the hook, the file and the fix.

    entry: its place in `plugins:`, where one is to blame.
    """

    entry: int | None = None


class ComponentError(RewardftError):
    """A component (model, sampler, reward, ...) broke its contract."""


class RewardError(RewardftError):
    """A reward raised or returned a value that cannot be learned from."""


class NonFiniteError(RewardftError):
    """A number that is NaN or infinite came out of the denoiser, the decoder or a gradient."""


class PeerError(RewardftError):
    """Another process of the run has failed, and this one cannot go on without it."""


class AuditError(RewardftError):
    """The start-up audit found that the run would not train what it claims to train."""


class CheckpointError(RewardftError):
    """A checkpoint is missing, incomplete or does not fit the run."""


class DataError(RewardftError):
    """Input data is missing, truncated or of the wrong shape."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """' Did you mean ...?' for a close match, else ' Choose one of: ...'; '' without choices."""
    known = sorted(choices)
    if not known:
        return ""
    # Names are case-insensitive everywhere, so case must not count as a difference.
    folded = {c.casefold(): c for c in known}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=3, cutoff=0.6)
    if close:  # letters that changed places are the likeliest slip
        best = min(close, key=lambda one: sorted(one) != sorted(name.casefold()))
        return f" Did you mean {folded[best]!r}?"
    return f" Choose one of: {', '.join(known)}."


def in_full(error: BaseException) -> str:
    """What an expected error says to a user: the message, and each of its notes on a line."""
    return "\n".join([f"error: {error}", *getattr(error, "__notes__", [])])


def exit_called(stop: SystemExit) -> str:
    """The message for code that calls `sys.exit` instead of raising an error."""
    called = "" if stop.code is None else repr(stop.code)
    return (
        f"sys.exit({called}) was called at {place_of_error(stop)}. What fails must raise an error "
        "that says what is wrong."
    )


def ends_commands(error: BaseException) -> bool:
    """Whether it is the exception by which command-line libraries end a command, even with
    success."""
    # By name: the core imports no such library to run a recipe.
    library = type(error).__module__.partition(".")[0] in ("click", "typer")
    return library and type(error).__name__ in ("Exit", "Abort")


def ended_by(error: BaseException) -> str:
    """The same of an exception that ends commands, or stands for Ctrl-C, raised by other code."""
    return (
        f"{type(error).__name__} was raised at {place_of_error(error)}, and nobody has interrupted "
        "the command. What fails must raise an error that says what is wrong."
    )


def place_of_error(error: BaseException) -> str:
    """'file:line' of the innermost frame that raised it; 'an unknown place' where it has none."""
    frames = traceback.extract_tb(error.__traceback__)
    # The last frame of a traceback is where it was raised, the first where it was caught.
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
