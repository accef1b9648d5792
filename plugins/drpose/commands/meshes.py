"""`rewardft drpose reconstruct | benchmark | estimate`: meshes, hard poses, the full size."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

BODY = Annotated[
    str | None,
    typer.Option(help="Folder with SMPLX_NEUTRAL.npz, or a shipped body: anny_lowpoly, anny."),
]


@app.command("reconstruct")
def reconstruct_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="A run, a sheet of samples, or a folder of normals_VIEW.png and colours_VIEW.png."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the meshes; by default RUN/meshes or ./meshes.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Held-out acrobatic samples of a run.")] = 4,
    body: BODY = None,
) -> None:
    """Fit coloured meshes to six views: .glb, .ply, a page to turn them, a picture of them."""
    from rewardft_plugins.drpose.mesh.make import from_pictures, from_run
    from rewardft_plugins.humans.body import describe_body, load_body

    typer.echo(describe_body(load_body(body)))
    # Only a run folder has one.
    if (source / "recipe.yaml").is_file():
        made = from_run(source, out or source / "meshes", samples, body)
    else:
        made = from_pictures(source, out or Path("meshes"), body)
    for line in made.lines:
        typer.echo(line)
    typer.echo(f"{made.count} meshes as .glb and .ply in {made.folder}")
    typer.echo(f"to turn them: {made.folder / 'meshes.html'}")


@app.command("benchmark")
def benchmark_command(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    data: Annotated[Path, typer.Option(help="Folder of the benchmark; built once.")] = Path(
        "data/hard_poses"
    ),
    samples: Annotated[int, typer.Option(min=1, help="How many of its 64 samples.")] = 64,
) -> None:
    """Base and tuned model on 64 held-out acrobatic poses: pose, geometry and appearance."""
    from rewardft_plugins.drpose.commands.verdict import results_table
    from rewardft_plugins.drpose.data.hard_poses import SPLIT, build_hard_poses
    from rich.console import Console

    from rewardft.runs.open import evaluate_run

    build_hard_poses(data)
    # The run's own settings with other data and judges, so that nothing else differs.
    overrides = [
        f"evaluate.data={{root: '{data.resolve()}', split: {SPLIT}, targets: true, limit: null}}",
        "evaluate.metrics=[{use: pose_judge}, {use: mesh_judge}]",
    ]
    Console().print(results_table(evaluate_run(run, samples, overrides).rows))


@app.command("estimate")
def estimate_command(
    size: Annotated[int, typer.Option(min=64, help="Size of the pictures in pixels.")] = 768,
    batch: Annotated[int, typer.Option(min=1, help="Samples per step.")] = 2,
    face: Annotated[bool, typer.Option(help="With face crops: 14 rows instead of 12.")] = True,
    teraflops: Annotated[
        float, typer.Option(min=0.001, help="What the card achieves per second in practice.")
    ] = 400.0,
) -> None:
    """Memory and time of a step at full size, counted without weights or a GPU."""
    from rewardft_plugins.drpose.model.estimate import describe, estimate

    for line in describe(estimate(size, face=face), batch=batch, teraflops=teraflops):
        typer.echo(line)
