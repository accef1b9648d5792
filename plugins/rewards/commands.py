"""`rewardft rewards ...`: serve a reward to other processes, convert published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Reward models: serve one over HTTP, convert published weights.", no_args_is_help=True
)


@app.command()
def serve(
    name: Annotated[str, typer.Argument(help="Registered name of the reward, such as clip_score.")],
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="Plugin to load, as in a recipe; may be repeated. Default: rewards."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Option of the reward; may be repeated."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anyone who can reach it may use it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 picks a free port.")] = 8000,
    queue: Annotated[
        int, typer.Option(min=0, help="Requests that may wait; others are told to retry later.")
    ] = 16,
) -> None:
    """Serve any registered reward to the reward `remote` (docs/remote-reward.md)."""
    # Imported here, so that the help shows without loading torch.
    from rewardft.runs.open import open_reward

    from .server import RewardServer

    reward, differentiable = open_reward(name, plugin or ["rewards"], settings or [], Path.cwd())
    # The port is shown after binding, as 0 asks for any free one.
    with RewardServer(reward, name, differentiable, (host, port), queue) as server:
        typer.echo(f"serving {name} at http://{host}:{server.server_port}/ (stop with Ctrl-C)")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("stopped")


@app.command("convert-hps")
def convert_hps_command(
    source: Annotated[
        Path, typer.Argument(help="HPSv2's state dict as .safetensors (docs/rewards.md).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    base: Annotated[
        str, typer.Option(help="Folder or hub id with the configuration and tokenizer of its CLIP.")
    ] = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
) -> None:
    """Convert HPSv2's open_clip weights to the layout that the reward hps_v2 loads."""
    from .convert import convert_hps

    convert_hps(source, out, base)
    typer.echo(f"wrote {out}: rewards: [{{use: hps_v2, weights: {out}}}]")


@app.command("convert-image-reward")
def convert_image_reward_command(
    source: Annotated[
        Path, typer.Argument(help="ImageReward's state dict as .safetensors (docs/rewards.md).")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    tokenizer: Annotated[
        str, typer.Option(help="Folder or hub id of BERT's tokenizer.")
    ] = "bert-base-uncased",
) -> None:
    """Convert ImageReward's weights to the layout that the reward image_reward loads."""
    from .convert import convert_image_reward

    convert_image_reward(source, out, tokenizer)
    typer.echo(f"wrote {out}: rewards: [{{use: image_reward, weights: {out}}}]")
