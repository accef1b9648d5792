"""What the training commands take by name: data sets and the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rewardft_plugins.drpose.data.dataset import Drpose15k
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder


def open_sets(names: Sequence[str], targets: bool = True) -> list[Drpose15k]:
    from rewardft_plugins.drpose.data.dataset import Drpose15k

    opened = []
    for name in names:
        # From the right: a path may contain a colon.
        root, colon, split = name.rpartition(":")
        if not colon:
            raise typer.BadParameter(
                f"expected ROOT:SPLIT, for example data/drpose:train, got {name!r}"
            )
        opened.append(Drpose15k(root, split, targets=targets))
    return opened


def load_frozen(folder: str) -> LatentAutoencoder:
    """The autoencoder whose latents the other networks read; it does not learn with them."""
    from rewardft_plugins.drpose.model.autoencoder import LatentAutoencoder
    from rewardft_plugins.drpose.weights import freeze, locate

    encoder = LatentAutoencoder.load(locate(folder, "autoencoder"))
    freeze(encoder)
    return encoder


def measure(
    names: Sequence[str],
    quality: Callable[[Drpose15k], dict[str, Any]],
    unit: str = "",
    targets: bool = True,
) -> None:
    """Print the figures of `quality` for each held-out data set."""
    for name, dataset in zip(names, open_sets(names, targets)):
        said = (f"{key} {value:.4g} {unit}".rstrip() for key, value in quality(dataset).items())
        typer.echo(f"{name}: " + "  ".join(said))
