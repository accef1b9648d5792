"""The network that a run with full fine-tuning has trained, as a weight file."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save

from rewardft.errors import ComponentError
from rewardft.files.atomic import write_bytes


def export_weights(run: Path, out: Path, average: bool = True, prefix: str = "") -> None:
    """Write the trained network of a run folder, or its average, as float16.

    Args:
        average: the moving average where the run has one.
        prefix: before the names of the tensors.

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
    state = {prefix + name: value.half() for name, value in load_file(found).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, save(state))
