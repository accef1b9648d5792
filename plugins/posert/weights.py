"""Read and write the plugin's networks: float16 safetensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from safetensors.torch import load_file, save

from rewardft.errors import ComponentError
from rewardft.files import weights
from rewardft.files.atomic import write_bytes

ASSETS = Path(__file__).parent / "assets"
SHIPPED = "shipped"


def find(given: str, shipped: str) -> Path:
    """The path that an option names: a file of the plugin's, or the user's."""
    return ASSETS / shipped if given == SHIPPED else Path(given).expanduser()


load_weights = partial(weights.load_weights, made_by="a command under `rewardft posert`")
save_weights = weights.save_weights


def export_run(run: Path, out: Path, average: bool) -> None:
    """The trained network of a run folder, or its average, as a float16 weight file.

    Raises ComponentError when the run has not been trained in full.
    """
    folders = ["adapter_ema", "adapter"] if average else ["adapter"]
    files = [run / folder / "model.safetensors" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ComponentError(
            f"{run}: expected a finished run with `adapter: {{kind: full}}`, whose weights are in "
            f"{files[-1]}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, save({name: value.half() for name, value in load_file(found).items()}))
