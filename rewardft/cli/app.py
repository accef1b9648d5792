"""The application: the core's commands, and a plugin's where one is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from rewardft.cli.compare_command import compare, report, watch
from rewardft.cli.discovery_commands import cp, doctor, ls, new, plugins, schema, show
from rewardft.cli.merging import soup
from rewardft.cli.plugin_commands import add_plugin_commands, installed_names
from rewardft.cli.run_commands import check, evaluate, export, plan, run, sample

# `--help` lists them in this order: the one in which a newcomer needs them.
COMMANDS = (
    ls,
    cp,
    show,
    check,
    plan,
    run,
    evaluate,
    sample,
    soup,
    export,
    compare,
    watch,
    report,
    new,
    schema,
    plugins,
    doctor,
)


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
    for command in COMMANDS:
        app.command(short_help=headline(command))(command)
    # The first word that is no option is the command.
    first = next((word for word in words if not word.startswith("-")), None)
    if first is not None and first not in {command.__name__ for command in COMMANDS}:
        add_plugin_commands(app, first)
    return app


def headline(command: Callable[..., None]) -> str:
    """The first paragraph of a command's help on one line; the list of commands would break it
    where the source does."""
    first = (inspect.getdoc(command) or "").partition("\n\n")[0]
    return " ".join(first.split())


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
