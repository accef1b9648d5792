"""`rewardft posert ...`: retrievers, captions, and the weights of a trained base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rewardft_plugins.humans.console import say
from rewardft_plugins.humans.export_base import export_base

app = typer.Typer(
    help="Pose-RFT: retrievers of captions and poses, captions of motions, exported weights.",
    no_args_is_help=True,
)


@app.command("train-retriever")
def train_retriever_command(
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    motions: Annotated[str, typer.Option(help="Motion file, or `shipped`.")] = "shipped",
    judge: Annotated[
        bool,
        typer.Option(
            "--judge", help="Train B, the judge, on joints and the other half of the clips."
        ),
    ] = False,
    every_clip: Annotated[
        bool, typer.Option("--every-clip", help="Train on all clips, not on half of them.")
    ] = False,
    said: Annotated[int, typer.Option(help="Phrases per caption.", min=1, max=12)] = 4,
    steps: Annotated[int, typer.Option(min=1)] = 800,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train a retriever on captions and poses of motion clips."""
    from rewardft_plugins.posert.retriever import JUDGE, REWARD
    from rewardft_plugins.posert.training import RetrieverSettings, recall, train_retriever

    # The judge must share nothing with the reward that it judges: features, hashes, clips.
    features, salt = JUDGE if judge else REWARD
    half = None if every_clip else int(judge)
    settings = RetrieverSettings(features, salt, half, said, steps, seed=seed)
    retriever = train_retriever(motions, settings, say)
    retriever.save(out)
    # On held-out clips: on those of the training it would show memory.
    poses, texts = recall(retriever, motions)
    say(
        f"{out}: {out.stat().st_size / 1000:.0f} kB; recall@10 on val: {poses:.2f} of poses for "
        f"captions, {texts:.2f} of captions for poses"
    )


app.command("export-base")(export_base())


@app.command("captions")
def captions_command(
    motions: Annotated[str, typer.Option(help="Motion file, or `shipped`.")] = "shipped",
    split: Annotated[str, typer.Option()] = "val",
    count: Annotated[int, typer.Option(min=1)] = 10,
) -> None:
    """Print captions of some frames, as `pose_dialogues` gives them."""
    from rewardft_plugins.posert.dataset import PoseDialogues

    # From the data set itself: what is printed is what a training reads.
    data = PoseDialogues(("text",), motions=motions, split=split, limit=count)
    for item in (data[i] for i in range(len(data))):
        typer.echo(f"{item['id']}: {item['caption']}")
