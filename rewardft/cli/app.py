"""The commands and their options.

Each imports what it runs when it is called, so that `--help` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rewardft.cli.merging import soup
from rewardft.cli.plugin_commands import add_plugin_commands, installed_names

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    list[str],
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a value, e.g. rewards.0.weight=0.5; repeatable.",
    ),
]


def build_app(words: Sequence[str]) -> typer.Typer:
    """The application for this command line: the core's commands, and a plugin's when the first
    word asks for one."""
    # Names alone: no plugin is imported for `--help`.
    names = ", ".join(installed_names())
    app = typer.Typer(
        help="Reward fine-tuning of generative models: one YAML recipe, any reward, any algorithm.",
        epilog="Installed plugins, which may have commands of their own "
        f"(rewardft NAME --help): {names}"
        if names
        else "",
        no_args_is_help=True,
        invoke_without_command=True,
        add_completion=False,
        # Tracebacks are ours, see `rewardft.cli.tracebacks`.
        pretty_exceptions_enable=False,
    )
    app.callback()(about)
    # `--help` lists them in this order: the one in which a newcomer needs them.
    commands = (ls, cp, show, check, run, evaluate, sample, soup, compare, plugins)
    for command in commands:
        app.command()(command)
    # The first word that is no option is the command.
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in {command.__name__ for command in commands}:
        add_plugin_commands(app, first)
    return app


def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Reward fine-tuning of generative models: one YAML recipe, any reward, any algorithm."""
    if version:
        from rewardft import __version__

        print(f"rewardft {__version__}")
        # Eager: `--version` is answered before a command is asked for.
        raise typer.Exit


def ls(
    kind: Annotated[
        str | None,
        typer.Argument(help="List only this kind: recipes, comparisons, rewards, algorithms, ..."),
    ] = None,
    plugin: Annotated[
        list[str],
        typer.Option(
            "--plugin", "-p", help="List these only: a name, a file, a folder; repeatable."
        ),
    ] = [],
) -> None:
    """List the shipped recipes, then the components by kind."""
    from rewardft.cli.listing import list_everything

    list_everything(plugin, kind)


def cp(
    recipe: RecipeName,
    dest: Annotated[Path, typer.Argument(help="File or folder to copy it to; never overwritten.")],
) -> None:
    """Copy a recipe, to edit it."""
    from rewardft.cli.listing import copy_recipe

    copy_recipe(recipe, dest)


def show(
    recipe: RecipeName,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]", help="If RECIPE is a kind: the component of that kind to show."
        ),
    ] = None,
    overrides: Overrides = [],
    load: Annotated[
        bool,
        typer.Option(
            "--load/--no-load", help="Build the model to count parameters and estimate memory."
        ),
    ] = True,
) -> None:
    """Show what each name in a recipe refers to, with all options, and what would be trained; or
    describe one component, as in `rewardft show algorithm drtune`."""
    if name is not None:
        from rewardft.cli.component_help import show_component

        # Two words are a kind and a name: `recipe` is then no recipe.
        return show_component(recipe, name)
    from rewardft.cli.showing import show_recipe

    show_recipe(recipe, overrides, load)


def check(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE...", help="Recipe files or names of shipped ones."),
    ],
    overrides: Overrides = [],
) -> None:
    """Check recipes without loading any weights;
    exit code 2 and all problems when one cannot be run."""
    from rewardft.cli.running import check_recipes

    check_recipes(recipes, overrides)


def run(
    recipe: RecipeName,
    overrides: Overrides = [],
    out: Annotated[
        Path | None, typer.Option(help="The run folder; default: runs/ and the recipe's name.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in the folder from its newest checkpoint."),
    ] = False,
    allow_changed_plugins: Annotated[
        bool,
        typer.Option(
            "--allow-changed-plugins", help="Resume although plugin files have been edited since."
        ),
    ] = False,
) -> None:
    """Run a recipe."""
    from rewardft.cli.running import run_recipe

    run_recipe(recipe, overrides, out, resume, allow_changed_plugins)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    samples: Annotated[
        int | None, typer.Option(min=1, help="Held-out samples; default: as the recipe says.")
    ] = None,
    adapter_scale: Annotated[
        str | None,
        typer.Option(
            metavar="0,0.5,1,...",
            help="Evaluate the adapter at these strengths, and name the knee.",
        ),
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Compare a run's model with its base model on held-out samples and the same noise."""
    from rewardft.cli.running import evaluate_folder, evaluate_strengths

    # One strength or several is one question to the user, and two functions behind it.
    if adapter_scale is None:
        evaluate_folder(run, samples, overrides)
    else:
        evaluate_strengths(run, adapter_scale, samples, overrides)


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    count: Annotated[int, typer.Option(min=1, help="How many of the first held-out samples.")] = 8,
    samples: Annotated[
        list[str],
        typer.Option("--samples", metavar="ID", help="These held-out samples instead; repeatable."),
    ] = [],
    adapter_scale: Annotated[
        float, typer.Option(min=0.0, help="Strength of the adapter; 1 is as trained.")
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; default: `samples` in the run's.")
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Draw samples of a run's base and tuned model, with the same noise,
    and write them side by side."""
    from rewardft.cli.running import sample_folder

    sample_folder(run, count, samples, adapter_scale, out, overrides)


# Options of `compare`.
Vary = Annotated[
    list[str],
    typer.Option(
        "--vary", metavar="KEY=A,B,...", help="All values of a key: algorithm=drtune,refl"
    ),
]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Runs per variant, with the recipe's seed and up.")
]
Budget = Annotated[
    str | None,
    typer.Option(help="What each run may spend: 10m, 5000-calls, 2000-rewards, 300-steps, ..."),
]
Jobs = Annotated[
    int, typer.Option(min=1, help="Concurrent runs; the cores are divided among them.")
]
Launcher = Annotated[str, typer.Option(help="Where to run: local, slurm or ray.")]
LauncherOptions = Annotated[
    list[str],
    typer.Option("--launcher-option", help="For sbatch, e.g. --gres=gpu:1; repeatable."),
]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of each run with --launcher ray.")]
Pictures = Annotated[
    int, typer.Option(min=0, help="Held-out samples per variant that the report shows.")
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
    jobs: Jobs = 1,
    launcher: Launcher = "local",
    launcher_options: LauncherOptions = [],
    gpus: Gpus = 0.0,
    pictures: Pictures = 6,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the comparison; default: runs/compare-...")
    ] = None,
) -> None:
    """Run recipes to equal budgets over several seeds,
    and report what can and what cannot be told apart."""
    # Here, as everywhere in this file: torch would add seconds to `--help`.
    from rewardft.cli.comparing import compare_sources
    from rewardft.comparisons.api import Options
    from rewardft.comparisons.comparison import Launch

    launch = Launch(launcher, jobs, tuple(launcher_options), gpus)
    compare_sources(sources, Options(vary, overrides, seeds, budget, pictures), launch, out)


def plugins() -> None:
    """List installed plugins and report any that fail to load."""
    from rewardft.cli.listing import list_plugins

    list_plugins()
