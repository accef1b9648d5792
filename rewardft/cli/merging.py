"""`soup`: merge runs that were trained apart."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def soup(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Finished run folders.")],
    out: Annotated[Path, typer.Option(help="A new folder for the merged run.")],
    weights: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="One for each run; default: the same, with sum 1."),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=1, help="Of the merged adapter; default: the sum, which is exact."),
    ] = None,
) -> None:
    """Merge the weights of runs that were trained apart, one reward each, into a run that can be
    evaluated and sampled."""
    # Here, as in the other commands: torch would add seconds to `--help`.
    from rewardft.runs.soup import soup as merge

    made = merge(runs, out, None if weights is None else parse_weights(weights), rank)
    if made.rank is not None:
        exact = "exact" if made.lost == 0 else f"{made.lost:.2%} of its squared norm left out"
        print(f"adapter of rank {made.rank}: the sum of the products B A, {exact}")
    shares = ", ".join(f"{weight:g}" for weight in made.weights)
    print(f"{len(runs)} runs merged with weights {shares}: {made.folder}")
    print(f"evaluate it with: rewardft evaluate {made.folder}")


def parse_weights(text: str) -> list[float]:
    """Numbers with commas between. Raises RewardftError for anything else."""
    from rewardft.errors import RewardftError

    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise RewardftError(
            f"--weights: expected numbers with commas between, such as 0.5,0.5, got {text!r}"
        ) from None
