"""`rewardft ddpo3d turntable | export-ply`: the scenes of a run, to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rewardft_plugins.ddpo3d.scene_model import Scenes

app = typer.Typer(help="The scenes of a run, to look at.", no_args_is_help=True)

Run = Annotated[
    Path, typer.Argument(help="Folder of a run with the model gaussian_scene or voxel_scene.")
]


@app.command("turntable")
def turntable_command(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The GIF or MP4 to write, by its ending.")],
    scenes: Annotated[str, typer.Option(help="Numbers of scenes, as 0,3,7.")] = "0",
    frames: Annotated[int, typer.Option(min=1, max=3600, help="Pictures of a full turn.")] = 48,
) -> None:
    """Write scenes of a run as they turn."""
    # Imported here, so that the help shows without loading torch.
    from rewardft_plugins.ddpo3d.turntable import film_ending, save_film, turn

    film_ending(out)  # before the scenes are rendered
    model = open_scenes(run)
    save_film(turn(model, numbers(scenes, model.scenes), frames), out)
    typer.echo(f"{out}: {frames} pictures")


@app.command("export-ply")
def export_ply_command(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The .ply file to write.")],
    scene: Annotated[int, typer.Option(min=0, help="Number of the scene.")] = 0,
    picture: Annotated[
        str | None,
        typer.Option(help="Which colours: of the first picture, or of this one (`colours`)."),
    ] = None,
) -> None:
    """Write a scene for viewers of Gaussian splats."""
    from dataclasses import replace

    from rewardft_plugins.ddpo3d.model import GaussianScene
    from rewardft_plugins.ddpo3d.ply import save_ply
    from rewardft_plugins.ddpo3d.rasterise import LEAST

    from rewardft.errors import ComponentError, did_you_mean

    model = open_scenes(run)
    if not isinstance(model, GaussianScene):
        raise ComponentError(f"{run}: a .ply file holds Gaussians, and these scenes have none")
    names = list(model.channels)
    if picture is not None and picture not in names:
        raise ComponentError(f"no picture {picture!r} in this run.{did_you_mean(picture, names)}")
    gaussians = model.trainable(numbers(str(scene), model.scenes))
    # Not those that no picture sees, such as the free places of a scene that grows.
    gaussians = gaussians.only(gaussians.opacity[0] >= LEAST)
    parts = gaussians.colour.split(list(model.channels.values()), -1)
    save_ply(replace(gaussians, colour=parts[names.index(picture or names[0])]), out)
    typer.echo(f"{out}: {gaussians.position.shape[1]} Gaussians")


def open_scenes(run: Path) -> Scenes:
    """The model of a run with what was trained. Raises ComponentError for another model."""
    from rewardft_plugins.ddpo3d.scene_model import Scenes

    from rewardft.errors import ComponentError
    from rewardft.runs.open import load_trained, open_run

    session = open_run(run)
    if not isinstance(session.model, Scenes):
        raise ComponentError(
            f"{run}: expected a run of gaussian_scene or voxel_scene, got one of "
            f"{session.recipe.model.use}"
        )
    load_trained(session, run)
    return session.model


def numbers(text: str, count: int) -> Any:
    """`0,3,7` as a tensor of scenes; raises ComponentError for what is none of them."""
    import torch

    from rewardft.errors import ComponentError

    words = text.split(",")
    if not all(word.strip().isdecimal() and int(word) < count for word in words):
        raise ComponentError(f"expected numbers of scenes below {count}, as 0,3,7; got {text!r}")
    return torch.tensor([int(word) for word in words])
