"""What a run of DrPose gained, for people who have not read the documentation: a table 80 columns
wide and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from rewardft import Paired

NAMES = {
    "pose_judge/iou": "silhouette overlap",
    "pose_judge/part_iou": "body part overlap",
    "pose_judge/mpjpe_mm": "joint error, mm (lower wins)",
    "pose_judge/sharpness": "sharpness (truth: 1)",
}
GROUPS = {
    "acrobatic": "acrobatic, unseen",
    "plain": "plain",
}


def gain(row: Paired) -> int:
    """1 better, -1 worse, 0 where the interval holds no change."""
    if not row.separable:
        return 0
    # Millimetres are errors: less is better.
    return 1 if (row.difference > 0) != row.name.endswith("_mm") else -1


def full_name(name: str) -> str:
    """`acrobatic/pose_judge/iou` -> words; a reward keeps its name."""
    value = name.split("/", 1)[1]
    return NAMES.get(value, value.replace("reward/", "reward: "))


def results_table(rows: Sequence[Paired]) -> Table:
    """Held-out values before and after, group by group, with the paired 95 % interval."""
    # Without padding at the edges, as the longest names and numbers need all of the 80 columns.
    table = Table(box=box.SIMPLE, padding=(0, 1), width=80, show_edge=False, pad_edge=False)
    table.collapse_padding = True
    for title in ("held-out people", "before", "after", "change (95 %)", ""):
        table.add_column(
            title, no_wrap=True, justify="left" if title in ("", "held-out people") else "right"
        )
    for group, words in GROUPS.items():
        members = [row for row in rows if row.name.startswith(f"{group}/")]
        if members:
            table.add_section()
            table.add_row(f"{words} ({members[0].count}):")
        for row in members:
            # The verdict in words as well: a reader may not know which way is better.
            # Infinite for a single pair.
            half = f" ± {row.half_width:.2g}" if math.isfinite(row.half_width) else ""
            change = f"{rounded(row.difference)}{half}"
            verdict = {1: "better", 0: "unclear", -1: "worse"}[gain(row)]
            values = (f"{value:.3g}" for value in (row.before, row.after))
            # A value may be named like markup.
            table.add_row(f"  {escape(full_name(row.name))}", *values, change, verdict)
    return table


def rounded(difference: float) -> str:
    """With its sign, in at most eight characters: the table has no more room."""
    # Small numbers have zeros before their digits.
    return f"{difference:+.2g}" if abs(difference) < 1e-3 else f"{difference:+.3g}"


def sentence(rows: Sequence[Paired]) -> str:
    """One sentence on what got better, what got worse, and where no difference shows."""
    judged = [
        row
        for row in rows
        if row.name.split("/", 1)[-1] in NAMES and row.name.split("/")[0] in GROUPS
    ]
    parts = []
    for sign, words in ((1, "Better"), (-1, "worse"), (0, "no clear change")):
        named = [_with_share(row, sign) for row in judged if gain(row) == sign]
        parts.append(f"{words}: {', '.join(named) or 'nothing'}")
    return "; ".join(parts) + "."


def _with_share(row: Paired, sign: int) -> str:
    group, value = row.name.split("/", 1)
    name = f"{NAMES[value].split(',')[0].split(' (')[0]} of {group} poses"
    return f"{name} ({100 * row.difference / row.before:+.0f} %)" if sign and row.before else name
