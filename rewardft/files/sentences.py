"""What lists show of a longer text."""

from __future__ import annotations

import re


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph, in one line; '' of an empty text."""
    paragraph = " ".join(re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0].split())
    # A sentence begins with a capital or with code, which keeps '2.5 max' and 'e.g. this' whole.
    return re.split(r"(?<=\.)(?<!et al\.) (?=[A-Z`])", paragraph, maxsplit=1)[0]
