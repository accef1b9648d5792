"""Options that the plugin's algorithms share: a recipe is checked against these ranges."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt

Group = Annotated[int, Ge(2)]  # samples per prompt
Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
Weight = Annotated[float, Ge(0)]  # 0 leaves the term out
# Whose rewards give the deviation: those of all samples of the batch, or of each group.
Deviation = Literal["global", "group"]
