"""The commands that say what there is, and begin something new.

As in all modules of commands, what a command runs is imported when it is called, so that `--help`
stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewardft.cli.arguments import Overrides, RecipeName

Plugins = Annotated[
    list[str],
    typer.Option("--plugin", "-p", help="A plugin's name, file or folder; repeatable."),
]


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
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")] = False,
) -> None:
    """List the shipped recipes, then the components by kind."""
    from rewardft.cli.listing import list_everything, list_json

    if json:
        return list_json(plugin, kind)
    list_everything(plugin, kind)


def cp(
    recipe: RecipeName,
    dest: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="File or folder to copy it to; never overwritten."),
    ] = Path(),
) -> None:
    """Copy a recipe, to edit it."""
    from rewardft.cli.listing import copy_recipe

    copy_recipe(recipe, dest)


def show(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE|KIND",
            help="A recipe file, the name of a shipped recipe, or a kind of component.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="After a kind: the component of that kind to show."),
    ] = None,
    overrides: Overrides = [],
    load: Annotated[
        bool | None,
        typer.Option(
            "--load/--no-load",
            help="Build a recipe's model to count parameters and estimate memory; the default.",
        ),
    ] = None,
    plugin: Plugins = [],
) -> None:
    """Show what each name in a recipe refers to, with all options, and what would be trained; or
    describe one component, as in `rewardft show algorithm drtune`."""
    from rewardft.cli.component_help import check_words, show_component

    check_words(recipe, name, overrides, plugin, load)
    # Two words are a kind and a name: `recipe` is then no recipe.
    if name is not None:
        return show_component(recipe, name, plugin)
    from rewardft.cli.showing import show_recipe

    show_recipe(recipe, overrides, load is not False)


def schema(
    out: Annotated[Path | None, typer.Option(help="File to write; default: printed.")] = None,
    plugin: Plugins = [],
) -> None:
    """Print the JSON Schema of recipes and comparison files, with the options of all installed
    plugins: an editor checks and completes them with it."""
    from rewardft.cli.schemas import write_schema

    write_schema(plugin, out)


def new(
    kind: Annotated[
        str,
        typer.Argument(
            help="reward, regularizer, algorithm, sampler, model, dataset, metric or plugin."
        ),
    ],
    name: Annotated[str, typer.Argument(help="Its name, such as sharpness.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
) -> None:
    """Write a component that works, with its test, to change it: a file beside a recipe, or with
    `plugin` a package to install."""
    from rewardft.cli.scaffolds import begin

    begin(kind, name, out)


def doctor() -> None:
    """Report versions, devices and extras, and what does not go together; exit code 1 if something
    is wrong."""
    from rewardft.cli.diagnosis import diagnose

    diagnose()


def plugins() -> None:
    """List installed plugins and report any that fail to load."""
    from rewardft.cli.listing import list_plugins

    list_plugins()
