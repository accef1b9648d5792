"""`rewardft text2image tiny`: a checkpoint to try recipes on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .tiny import FAMILIES, MODULAR, save

app = typer.Typer(help="Checkpoints of tiny random weights.", no_args_is_help=True)


@app.callback()
def text2image() -> None:
    """Checkpoints of tiny random weights, to try recipes on without a GPU."""


@app.command()
def tiny(
    family: Annotated[str, typer.Argument(help=f"{', '.join(FAMILIES + MODULAR)}.")],
    folder: Annotated[Path, typer.Argument(help="Folder for it, in diffusers' layout.")],
) -> None:
    """Make a checkpoint of a family as it is published, text encoders and tokenizers included, of
    random weights of about a megabyte. Its samples are noise."""
    save(family, folder)
    model = family if family in FAMILIES else "modular"
    typer.echo(f"In a recipe: model: {{use: {model}, weights: {folder}}}")
