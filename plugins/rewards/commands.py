"""`rewardft rewards ...`: serve a reward to other processes, convert published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Reward models: serve one by HTTP, convert published weights.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Keeps `serve` a sub-command when it is the only one."""


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="Registered name of the reward, such as clip_score.")],
    plugin: Annotated[
        list[str] | None, typer.Option(help="Plugin that has it, as in a recipe; may be repeated. Default: rewards.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Option of the reward; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; anyone who reaches it may ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    queue: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are told to come back.")] = 16,
) -> None:
    """Serve any registered reward to the reward `remote` (docs/remote-reward.md)."""
    from rewardft.runs import open_reward

    from .server import RewardServer

    reward, differentiable = open_reward(name, plugin or ["rewards"], settings or [], Path.cwd())
    with RewardServer(reward, name, differentiable, (host, port), queue) as server:
        typer.echo(f"serving {name} at http://{host}:{server.server_port}/ (stop with Ctrl-C)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")
