"""What is wrong with text that is no YAML, with the commonest slips in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

# Levels of nesting: far more than a recipe has, far fewer than Python's recursion bears.
DEEPEST = 50


@dataclass(frozen=True)
class Problem:
    """Something wrong with the text. `line` counts from 1; None when the text as a whole is
    meant."""

    line: int | None
    message: str


class TooDeep(yaml.MarkedYAMLError):
    """Brackets within brackets, far beyond what any recipe needs."""


def syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """The place and the reason of PyYAML's error."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return Problem(line, f"not YAML: the character {chr(error.character)!r} is not allowed.")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    at = mark.line + 1 if mark else None
    if isinstance(error, TooDeep):
        return Problem(at, f"nested more than {DEEPEST} levels deep; a recipe needs a handful.")
    # PyYAML's words, with the commonest slips in plainer ones.
    what = getattr(error, "problem", None) or str(error)
    if "could not find expected ':'" in what:
        context = getattr(error, "context_mark", None)
        at = context.line + 1 if context else at
        return Problem(at, "expected `key: value`, with a space after the colon.")
    if "mapping values are not allowed" in what:
        why = "is a space missing after a colon, here or on the line before?"
        return Problem(at, f"a `key: value` cannot begin here; {why}")
    if "'\\t'" in what:
        return Problem(at, "a tab character cannot be used here; indent with spaces.")
    if "document" in what:
        return Problem(
            at, "a second document starts here; one file holds one recipe: remove the '---'."
        )
    if isinstance(error, yaml.MarkedYAMLError) and "parsing a flow" in (error.context or ""):
        return _unclosed(error, what, at)
    return Problem(at, f"not YAML: {what}.")


def _unclosed(error: yaml.MarkedYAMLError, what: str, at: int | None) -> Problem:
    """A bracket that is not closed, or a comma or a value that is missing inside of it."""
    begins = error.context_mark.line + 1 if error.context_mark else at
    if "node content" in what and "<stream end>" in what:
        return Problem(begins, "a '[' or '{' is not closed before the end.")
    if "node content" in what:
        return Problem(at, f"expected a value, got {what.rpartition('found ')[2]}.")
    opening, closing = "[]" if "']'" in what else "{}"
    if "<stream end>" in what:
        # Where it begins: the end of the file may be far away.
        return Problem(begins, f"the {opening!r} is not closed before the end.")
    place = f"the {opening!r} of line {begins} is not closed."
    if at == begins:
        place = f"is a comma missing, or the {opening!r} not closed?"
    return Problem(at, f"expected ',' or {closing!r}: {place}")
