"""Where the commands about people say what they do: standard error, apart from results."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

CONSOLE = Console(stderr=True)


def say(text: str) -> None:
    """A line as it is: neither markup nor numbers are coloured, and nothing is wrapped."""
    CONSOLE.print(escape(text), highlight=False, soft_wrap=True)
