"""`rewardft digits train-classifiers | save-base`: how the shipped networks were made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the plugin's small networks.", no_args_is_help=True)

Out = Annotated[Path, typer.Argument(help="Folder for the weights.")]


@app.command("train-classifiers")
def train_classifiers_command(
    out: Out,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps for each network.")] = 1500,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and noise.")] = 0,
) -> None:
    """Train the reward's classifier and the judge, each on its half of the images; prints their
    accuracy on the other half."""
    # Imported here, so that the help shows without loading torch.
    import torch

    from .classifiers import Convolutional, Fit, Perceptron, quality, train_classifier
    from .weights import load_weights, save_weights

    figures = {}
    for name, build, odd in (("likelihood", Convolutional, True), ("judge", Perceptron, False)):
        torch.manual_seed(seed)
        network = train_classifier(build(), odd, Fit(steps=steps, seed=seed), typer.echo)
        save_weights(network, out / f"{name}.safetensors")
        load_weights(network, out / f"{name}.safetensors")  # the figures are of what is on disk
        figures[name] = quality(network, not odd)
        typer.echo(f"{name}, on the half that it has not seen: {figures[name]}")
    (out / "quality.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@app.command("save-base")
def save_base_command(
    run: Annotated[Path, typer.Argument(help="Folder of a run of digits_pretrain.")],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
) -> None:
    """Write a pre-trained base as float16, for `model.weights`."""
    from .model import DigitUNet

    model = DigitUNet(weights=str(run / "adapter" / "model.safetensors"))
    model.save(out)
    typer.echo(f"{out}: {out.stat().st_size / 1000:.0f} kB")
