"""Sub-commands of installed plugins: `rewardft NAME ...` loads the plugin installed as NAME,
and no other."""

from __future__ import annotations

import typer

from rewardft.errors import PluginError


def installed_names() -> list[str]:
    """Names of the installed plugins; none is imported."""
    from rewardft.plugins.sources import installed

    return sorted(points[0].name for points in installed().values())


def add_plugin_commands(app: typer.Typer, name: str) -> None:
    """Add the command group of the installed plugin called `name`; an unknown name is left for the
    usage error.

    Raises `PluginError` when the plugin cannot be used or has no commands of its name.
    """
    # The library's own message lists the commands that there are.
    if name.casefold() not in {known.casefold() for known in installed_names()}:
        return
    from rewardft.plugins.loading import load_installed

    plugins = load_installed(name)
    commands = {
        key: value
        for _, found in plugins.registrations("register_commands")
        for key, value in found.items()
    }
    # Only the one of its own name, or a plugin could take a word that belongs to another.
    mine = [value for key, value in commands.items() if key.casefold() == name.casefold()]
    if not mine:
        offered = (
            f" It registers {', '.join(commands)}: a plugin's commands go by the plugin's name."
            if commands
            else ""
        )
        raise PluginError(f"plugin {name!r} ({plugins.loaded[0].file}) has no commands.{offered}")
    if isinstance(mine[0], typer.Typer):
        app.add_typer(mine[0], name=name)
    else:
        app.command(name)(mine[0])
