"""What a command line that cannot be read was likely meant to say."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from rewardft.cli.app import COMMANDS


def settings_hint(words: Sequence[str], error: BaseException | None) -> str:
    """How a value of a recipe is set, after `--set train.steps 5` or `--steps 5`; '' after anything
    else."""
    command = next((one for one in COMMANDS if words and one.__name__ == words[0]), None)
    # By name: which library reads the command line is the concern of `run_command` alone.
    slip = type(error).__name__ in ("NoSuchOption", "UsageError")
    # Another option was meant: the message has its name already.
    near = getattr(error, "possibilities", None) or ["--set"]
    slip = slip and "--set" in near
    if command is None or not slip or "overrides" not in inspect.signature(command).parameters:
        return ""
    return "A value of the recipe is set in one word, as in: --set train.steps=100"
