"""The commands about comparisons: `compare`, `watch`, which also shows a run, and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewardft.cli.arguments import Overrides

# Options of `compare`.
Vary = Annotated[
    list[str],
    typer.Option(
        "--vary", metavar="KEY=A,B,...", help="All values of a key: algorithm=drtune,refl"
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=1000,
        help="Runs per variant, with the recipe's seed and those after it; default: 1.",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(help="What each run may spend: 10m, 5000-calls, 2000-rewards, 300-steps, ..."),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs at a time, which share this machine's cores; default: 1. With another "
        "launcher there is no limit by default.",
    ),
]
Launcher = Annotated[
    str,
    typer.Option(
        help="Where to run: local, or a plugin's launcher (rewardft ls launchers) or file."
    ),
]
LauncherOptions = Annotated[
    list[str],
    typer.Option(
        "--launcher-option", metavar="NAME=VALUE", help="An option of the launcher; repeatable."
    ),
]
Pictures = Annotated[
    int, typer.Option(min=0, help="Held-out samples per variant that the report shows.")
]
Match = Annotated[
    str | None,
    typer.Option(
        metavar="divergence[=LEVEL]",
        help="Also compare at equal divergence from the base, read between each run's evaluations.",
    ),
]
Tune = Annotated[
    list[str],
    typer.Option(
        "--tune", metavar="KEY=A,B,...", help="First find each variant's best value; repeatable."
    ),
]
TuneBudget = Annotated[
    str | None, typer.Option(help="What each run of that search may spend, as --budget.")
]


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE|RUN...", help="Recipes, run folders, or one comparison file."
        ),
    ],
    vary: Vary = [],
    overrides: Overrides = [],
    seeds: Seeds = None,
    budget: Budget = None,
    jobs: Jobs = None,
    launcher: Launcher = "local",
    launcher_options: LauncherOptions = [],
    pictures: Pictures = 6,
    match: Match = None,
    tune: Tune = [],
    tune_budget: TuneBudget = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; default: runs/compare-...")
    ] = None,
) -> None:
    """Run recipes to equal budgets over several seeds,
    and report what can and what cannot be told apart."""
    # Here, as in the other commands: torch would add seconds to `--help`.
    from rewardft.cli.comparing import compare_sources
    from rewardft.comparisons.api import Options
    from rewardft.comparisons.launching import find_launch, parse_options

    launch = find_launch(launcher, parse_options(launcher_options), jobs)
    options = Options(vary, overrides, seeds, budget, pictures, match, tune, tune_budget)
    compare_sources(sources, options, launch, out)


def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN|COMPARISON", help="A run folder or a comparison's.")
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Of 127.0.0.1; 0: any that is free.")
    ] = 8008,
    once: Annotated[
        bool, typer.Option("--once", help="Write the page to watch.html and end.")
    ] = False,
) -> None:
    """Show a run or a comparison in the browser while it goes on: curves, samples, alarms, and why
    a run failed. Only this machine can see it."""
    from rewardft.cli.watching import watch_folder

    watch_folder(folder, port, once)


def report(
    comparison: Annotated[
        Path, typer.Argument(metavar="COMPARISON", help="The folder of a comparison.")
    ],
    paper: Annotated[
        Path | None,
        typer.Option(help="Also write figures (PDF, SVG, PNG) and tables (LaTeX, Markdown) here."),
    ] = None,
    width: Annotated[float, typer.Option(help="Of the figures, in inches.")] = 3.35,
) -> None:
    """Write a comparison's report again, and with --paper what a paper needs of it."""
    from rewardft.cli.comparing import write_again

    write_again(comparison, paper, width)
