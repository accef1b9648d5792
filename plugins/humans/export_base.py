"""The command `export-base` of the plugins whose base is trained on labelled poses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def export_base(prefix: str = "") -> Callable[..., None]:
    """The command. prefix: before the names of the tensors, as the model's weight files have it."""

    def command(
        run: Annotated[Path, typer.Argument(help="Run folder of a supervised training.")],
        out: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
        average: Annotated[
            bool, typer.Option(help="Write the moving average, where there is one.")
        ] = True,
    ) -> None:
        """Write the network of a run with full fine-tuning as float16, for `model.weights`."""
        # Imported here, so that the help shows without loading torch.
        from rewardft.runs.export import export_weights

        export_weights(run, out, average, prefix)
        typer.echo(f"{out}: {out.stat().st_size / 1000:.0f} kB", err=True)

    return command
