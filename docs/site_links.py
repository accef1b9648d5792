"""For the docs site: links that leave docs/ go to the repository, where those files are shown.

The repository's address is `repo_url` of mkdocs.yml, from the variable REPOSITORY_URL. Where it is
not set, such a link becomes plain text.
"""

from __future__ import annotations

import re
from typing import Any

OUT_OF_DOCS = re.compile(r"\[([^\]]*)\]\(\.\./([^)]+)\)")


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Rewrite `[TEXT](../FILE)`; pages in docs/ keep their relative links."""
    repository = config["repo_url"]
    link = rf"[\1]({repository}/blob/main/\2)" if repository else r"\1"
    return OUT_OF_DOCS.sub(link, markdown)
