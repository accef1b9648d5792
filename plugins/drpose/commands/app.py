"""`rewardft drpose ...`: build and check data sets of (image, pose) pairs, and the quickstart."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rewardft_plugins.drpose.commands.meshes import app as meshes
from rewardft_plugins.drpose.commands.training import app as training
from rewardft_plugins.humans.console import CONSOLE, say
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(
    help="DrPose: data sets, networks and judges of the human multi-view plugin.",
    no_args_is_help=True,
)
app.add_typer(training)
app.add_typer(meshes)
# Messages go to stderr, so that a pipe gets results alone.


def _rendering(bar: Progress) -> Callable[[int, int], None]:
    """Samples done, and of how many."""
    task = bar.add_task("rendering", total=None)
    return lambda done, total: bar.update(task, completed=done, total=total)


# Options of `build-dataset`.
Out = Annotated[Path, typer.Argument(help="Folder to create.")]
Motions = Annotated[
    list[Path] | None,
    typer.Option(
        help="Motion file (.npz, .npy, .bvh, .txt); may be repeated. Default: shipped clips."
    ),
]
BodyModel = Annotated[
    str | None,
    typer.Option(help="Folder with SMPLX_NEUTRAL.npz, or a shipped body: anny_lowpoly, anny."),
]
Poses = Annotated[
    int, typer.Option(help="Poses that farthest-point sampling takes per training split.")
]
Neighbours = Annotated[int, typer.Option(help="Consecutive frames per pose, including its own.")]
Yaws = Annotated[int, typer.Option(help="Random headings per training frame.")]
Held = Annotated[int, typer.Option(help="Samples of each validation split.")]
Size = Annotated[
    int, typer.Option(help="Width and height of the pictures in pixels.", min=8, max=2048)
]
Seed = Annotated[int, typer.Option(help="Seed of headings, shapes, looks and order.")]
Background = Annotated[
    str, typer.Option(help="Background of the conditioning images: white or random.")
]
Tumble = Annotated[
    float, typer.Option(help="Fraction of the training samples turned at random about any axis.")
]
Targets = Annotated[
    str, typer.Option(help="Which splits also hold the six views: none, val or all.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a data set at OUT.")]


@app.command("build-dataset")
def build_dataset_command(
    out: Out,
    motions: Motions = None,
    body: BodyModel = None,
    poses: Poses = 1500,
    neighbours: Neighbours = 10,
    yaws: Yaws = 1,
    val_samples: Held = 128,
    size: Size = 64,
    seed: Seed = 0,
    background: Background = "white",
    tumble: Tumble = 0.0,
    targets: Targets = "val",
    overwrite: Overwrite = False,
) -> None:
    """Build (image, pose) pairs from motion clips: sample poses, render, split by clip."""
    # Imported here, so that the help shows without loading torch and scipy.
    from rewardft_plugins.drpose.data.build import build_dataset
    from rewardft_plugins.drpose.data.painter import RenderedPainter
    from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
    from rewardft_plugins.humans.body import describe_body, load_body
    from rewardft_plugins.humans.motion import read_clips

    # Checked before the body is loaded: an option that is wrong should be said at once.
    sampling = Sampling(poses, neighbours, yaws, val_samples, tumble, targets)
    plans = plan_splits(read_clips(motions), sampling)
    model = load_body(body)
    say(describe_body(model))
    started = time.monotonic()
    with _bar() as bar:
        manifest = build_dataset(
            out,
            plans,
            model,
            size=size,
            seed=seed,
            painter=RenderedPainter(background, seed),
            overwrite=overwrite,
            progress=_rendering(bar),
        )
    _report(out, manifest, time.monotonic() - started)


@app.command("quickstart")
def quickstart_command(
    data: Annotated[Path, typer.Option(help="Data set folder; built once.")] = Path(
        "data/drpose_mini"
    ),
    out: Annotated[
        Path, typer.Option(help="Run folder; a number is added if there is a run in it.")
    ] = Path("runs/drpose_mini"),
    sets: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key of the recipe.")
    ] = None,
) -> None:
    """Build the shipped data set, fine-tune on `crisp_pose`, and show the metrics and a picture of
    before and after."""
    from rewardft_plugins.drpose.commands.quickstart import quickstart

    # 130 is what shells report for Ctrl-C.
    if quickstart(data, out, sets or []).status == "interrupted":
        raise typer.Exit(130)


@app.command("verify-dataset")
def verify_dataset_command(
    root: Annotated[Path, typer.Argument(help="Folder of the data set.")],
) -> None:
    """Compare every file of a data set with the checksum in its manifest."""
    from rewardft_plugins.drpose.data.columns import read_manifest
    from rewardft_plugins.drpose.data.storage import verify_dataset

    say(read_manifest(root)["body"]["notice"])
    say(f"{root}: {verify_dataset(root)} files are as they were written.")


def _report(out: Path, manifest: dict[str, Any], seconds: float) -> None:
    count = sum(split["count"] for split in manifest["splits"].values())
    for name, split in manifest["splits"].items():
        views = "with six views" if split["targets"] else "pairs only"
        say(f"  {name}: {split['count']} samples of {len(split['clips'])} clips, {views}")
    spread = manifest["diversity"]
    say(f"joint locations vary by {spread['all'] * 100:.1f} cm (std){_ratio(spread['ratio'])}")
    # A pose that is cut off cannot be learned, and no later figure would show why.
    if manifest["cut_off"] > 0:
        say(
            f"warning: some bodies reach {manifest['cut_off'] * 100:.1f} cm beyond the picture and "
            "are cut off there"
        )
    say(f"{out}: {count} samples in {seconds:.0f} s ({count / seconds:.0f}/s)")


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f", {ratio:.2f} x the plain clips (DrPose15K: 1.73 x THuman2.1)"


def _bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=CONSOLE, transient=True)
