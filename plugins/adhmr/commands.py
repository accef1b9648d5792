"""`rewardft adhmr ...`: data sets of pictures and preferences, and the scorer's training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rewardft_plugins.humans.console import CONSOLE, say
from rewardft_plugins.humans.export_base import export_base

from rewardft.files.paths import Place

app = typer.Typer(
    help="ADHMR: data sets, preferences and the scorer of the pose diffusion plugin.",
    no_args_is_help=True,
)


@app.command("build-dataset")
def build_dataset_command(
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    motions: Annotated[
        list[Path] | None,
        typer.Option(help="Motion file; may be repeated. Without it: the shipped clips."),
    ] = None,
    body: Annotated[
        str | None, typer.Option(help="Folder with SMPLX_NEUTRAL.npz, or a shipped body.")
    ] = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="BlazePose as ONNX; default: the variable REWARDFT_BLAZEPOSE."),
    ] = None,
    plain: Annotated[int, typer.Option(help="Training pictures of upright frames.", min=0)] = 1200,
    tilted: Annotated[int, typer.Option(help="Training pictures of tilted frames.", min=0)] = 1200,
    synthetic: Annotated[
        int, typer.Option(help="Training pictures of frames that are turned over.", min=0)
    ] = 1200,
    val: Annotated[int, typer.Option(help="Held-out pictures of each kind.", min=1)] = 330,
    seed: Annotated[int, typer.Option(help="Seed of frames, cameras, looks and occluders.")] = 0,
) -> None:
    """Photograph poses of motion clips, find landmarks on the pictures, split by clip."""
    # Imported inside the commands, so that the help shows without loading torch.
    from rewardft_plugins.adhmr.build import Amounts, build_dataset
    from rewardft_plugins.humans.blazepose import BlazePose, find_model
    from rewardft_plugins.humans.body import describe_body, load_body
    from rewardft_plugins.humans.motion import read_clips

    model, network = load_body(body), BlazePose(find_model(detector))
    say(describe_body(model))
    amounts = Amounts(plain, tilted, synthetic, val)
    with CONSOLE.status("photographing") as status:
        manifest = build_dataset(
            out,
            read_clips(motions),
            model,
            network,
            amounts,
            seed,
            lambda done, total: status.update(f"photographed {done} of {total}"),
        )
    say_counts(out, manifest)


@app.command("import")
def import_command(
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    images: Annotated[
        Path, typer.Option(help="Folder that the annotations' names are relative to.")
    ],
    train: Annotated[
        Path | None, typer.Option(help="HumanData (.npz) or ScoreHypo (.json).")
    ] = None,
    val: Annotated[Path | None, typer.Option(help="The same for the held-out split.")] = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="BlazePose as ONNX; default: the variable REWARDFT_BLAZEPOSE."),
    ] = None,
) -> None:
    """Find landmarks of the people in other data sets' annotations."""
    from rewardft_plugins.adhmr.importing import import_annotations
    from rewardft_plugins.humans.blazepose import BlazePose, find_model

    given = {name: file for name, file in (("train", train), ("val", val)) if file is not None}
    if not given:
        raise typer.BadParameter("give annotations with --train, --val, or both")
    network = BlazePose(find_model(detector))
    with CONSOLE.status("reading") as status:
        manifest = import_annotations(
            out,
            given,
            images,
            network,
            lambda split, done, total: status.update(f"{split}: {done} of {total}"),
        )
    say_counts(out, manifest)


@app.command("train-scorer")
def train_scorer_command(
    out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
    data: Annotated[str, typer.Option(help="Data set of pictures, or `shipped`.")] = "shipped",
    base: Annotated[str, typer.Option(help="The base's weights, or `shipped`.")] = "shipped",
    hypotheses: Annotated[int, typer.Option(help="Hypotheses per picture.", min=2)] = 10,
    on_noise: Annotated[
        bool,
        typer.Option("--on-noise", help="Train on noise around the truth, as in the paper."),
    ] = False,
    limit: Annotated[int | None, typer.Option(help="Pictures of each group.", min=1)] = None,
    steps: Annotated[int, typer.Option(min=1)] = 2000,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Train the scorer to rank hypotheses by their four errors (RankNet)."""
    from rewardft_plugins.adhmr.dataset import PosePictures
    from rewardft_plugins.adhmr.model import PoseDiffusion
    from rewardft_plugins.adhmr.training import ScorerSettings, train_scorer

    settings = ScorerSettings(hypotheses, on_noise, steps, seed=seed)
    # Held-out pictures measure the runs that the scorer serves, so it must not see them.
    pictures = PosePictures(data, "train", limit=limit)
    scorer = train_scorer(pictures, PoseDiffusion(base), settings, say)
    scorer.save(out)
    say(f"{out}: {out.stat().st_size / 1000:.0f} kB")


@app.command("build-pairs")
def build_pairs_command(
    out: Annotated[Path, typer.Argument(help="The .npz file to write.")],
    data: Annotated[str, typer.Option(help="Data set of pictures, or `shipped`.")] = "shipped",
    split: Annotated[str, typer.Option()] = "train",
    base: Annotated[str, typer.Option(help="The base's weights, or `shipped`.")] = "shipped",
    scorer: Annotated[str, typer.Option(help="The scorer's weights, or `shipped`.")] = "shipped",
    hypotheses: Annotated[int, typer.Option(help="Hypotheses per picture.")] = 20,
    pairing: Annotated[str, typer.Option(help="best_worst, top_bottom or truth.")] = "best_worst",
    pairs: Annotated[int, typer.Option(help="Pairs per picture with top_bottom.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the hypotheses.")] = 0,
) -> None:
    """Draw hypotheses from the base, rank them with the scorer and write them as preferences."""
    from rewardft_plugins.adhmr.preferences import (
        Making,
        make_preferences,
        pairing_named,
        save_preferences,
    )

    kind = pairing_named(pairing)
    # The file says what it was made of, and may be read from any folder.
    data, base, scorer = (whole_path(place) for place in (data, base, scorer))
    making = Making(data, split, base, scorer, hypotheses, kind, pairs, seed)
    made = make_preferences(making)
    save_preferences(out, made, making)
    say(f"{out}: {len(made.rows)} pairs; the winner is truly better in {made.right:.1%} of them")


# A run keeps the denoiser alone; weight files name it beside the condition network.
app.command("export-base")(export_base(prefix="denoiser."))


@app.command("table")
def table_command(
    comparison: Annotated[Path, typer.Argument(help="Folder that `rewardft compare` has written.")],
) -> None:
    """Print a comparison's errors as Markdown, tilted and plain pictures separately."""
    from rewardft_plugins.adhmr.table import tables

    from rewardft.contracts.records import load_comparison

    typer.echo(tables(load_comparison(comparison / "comparison.json")))


def say_counts(out: Path, manifest: Mapping[str, Any]) -> None:
    """How many pictures of each group a data set has, a line for each split."""
    for name, split in manifest["splits"].items():
        counts = ", ".join(f"{count} {group}" for group, count in split["groups"].items())
        say(f"{out}: {name}: {counts}")


def whole_path(place: str) -> str:
    """The path as recipes give it: absolute, so that it works from any folder, or `shipped`."""
    return Place(words=("shipped",)).anchored(place, Path.cwd())
