"""The network that a run has trained, in the files that other programs read.

`export_run` is the command `rewardft export`. Plugins use the two functions below it: one for a
weight file of a base that they ship, one for a whole checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save, save_file
from torch import Tensor

from rewardft.engine.session import Session
from rewardft.errors import CheckpointError, ComponentError, did_you_mean
from rewardft.files.atomic import make_folder, write_bytes, write_folder
from rewardft.files.paths import file_name, given_folder, local_path
from rewardft.files.surroundings import put_back
from rewardft.policy.adapter import load_adapter
from rewardft.policy.layouts import kohya_state, merged_state
from rewardft.policy.lora import PIPELINE_FILE, Lora, pipeline_state
from rewardft.policy.weights import read_weights, to_cpu
from rewardft.runs.model_card import model_card
from rewardft.runs.open import load_trained, open_run
from rewardft.storage.checkpoint import BEST, best_step

PLAIN = {"format": "pt"}


@put_back()
def export_run(run: Path | str, to: str, out: Path | str | None = None, best: bool = False) -> Path:
    """Write a run's trained weights and a model card; returns their folder.

    Args:
        run: a run folder; of its weights those are taken that its evaluations are of.
        to: `diffusers`, `peft`, `kohya` or `merged`.
        out: default: `export/LAYOUT` in the run's folder. An earlier export there is replaced.
        best: the weights of the best evaluation, which `save.best` keeps.

    Raises ComponentError for another layout, or one that the model or its adapter has not.
    """
    if to not in LAYOUTS:
        raise ComponentError(f"there is no layout {to!r}.{did_you_mean(to, LAYOUTS)}")
    # Absolute: a component may change the current folder while it is built.
    folder = given_folder(run).absolute()
    target = folder / "export" / to if out is None else given_folder(out).absolute()
    session = open_run(folder)
    step = load_best(session, folder) if best else load_trained(session, folder)
    # By the folder, as one tells files of other programs apart by their names.
    name = file_name(folder.resolve().name)

    def fill(place: Path) -> None:
        LAYOUTS[to](session, place, name)
        whole = to != "merged" or hasattr(session.model, "write_checkpoint")
        card = model_card(session.recipe, folder, to, step, name, whole)
        (place / "README.md").write_text(card, encoding="utf-8")

    write_folder(target, fill)
    return target


def load_best(session: Session, run: Path) -> int:
    """Load the weights of a run's best evaluation; returns their step. Raises CheckpointError where
    none are kept."""
    place, step = run / BEST, best_step(run)
    if step is None:
        raise CheckpointError(
            f"{run}: no weights of a best evaluation are in it (no {place.name}/). A recipe keeps "
            "them with `save: {best: VALUE}`, such as reward/NAME."
        )
    load_adapter(session.adapter, place)
    return step


def to_diffusers(session: Session, folder: Path, name: str) -> None:
    """One file, for `pipe.load_lora_weights(folder)`."""
    adapter = lora_of(session, "diffusers")
    if adapter.pipeline_part is None:
        raise ComponentError(
            f"model {session.recipe.model.use!r} names no part of a diffusers pipeline "
            "(`pipeline_part`) that could load its adapter. peft loads it: --to peft."
        )
    strength = adapter.config.lora_alpha / adapter.config.r
    state = pipeline_state(adapter.state_dict(), adapter.pipeline_part, strength)
    save_file(to_cpu(state), folder / PIPELINE_FILE, metadata=PLAIN)


def to_peft(session: Session, folder: Path, name: str) -> None:
    """Two files, for `PeftModel.from_pretrained(network, folder)`."""
    lora_of(session, "peft").save(folder)
    # `save` adds the pipeline's file, which this layout does not need.
    (folder / PIPELINE_FILE).unlink(missing_ok=True)


def to_kohya(session: Session, folder: Path, name: str) -> None:
    """One file, named as the run, for ComfyUI and the programs that read kohya's layout."""
    adapter = lora_of(session, "kohya")
    prefix = getattr(session.model, "kohya_prefix", None)
    if prefix is None:
        raise ComponentError(
            f"model {session.recipe.model.use!r} does not say how other programs name its layers "
            "(`kohya_prefix`). peft loads its adapter: --to peft."
        )
    facts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(adapter.config.r),
        "ss_network_alpha": str(adapter.config.lora_alpha),
    }
    state = to_cpu(kohya_state(adapter, prefix))
    save_file(state, folder / f"{name}.safetensors", metadata={**PLAIN, **facts})


def to_merged(session: Session, folder: Path, name: str) -> None:
    """The whole checkpoint with the tuned weights in place of the base's; of a model that has none,
    the trained network alone as `model.safetensors`."""
    state = to_cpu(merged_state(session.adapter))
    write = getattr(session.model, "write_checkpoint", None)
    if write is None:
        save_file(state, folder / "model.safetensors", metadata=PLAIN)
    else:
        write(folder, state)


LAYOUTS: Mapping[str, Callable[[Session, Path, str], None]] = {
    "diffusers": to_diffusers,
    "peft": to_peft,
    "kohya": to_kohya,
    "merged": to_merged,
}


def lora_of(session: Session, to: str) -> Lora:
    """The run's adapter. Raises ComponentError for a run that trained all weights."""
    adapter = session.adapter
    if not isinstance(adapter, Lora):
        raise ComponentError(
            f"--to {to} is for low-rank adapters, and this run trained all weights "
            "(`adapter: {kind: full}`). Write --to merged."
        )
    return adapter


def copy_checkpoint(
    origin: Path, folder: Path, part: str, state: Mapping[str, Tensor], variant: str | None = None
) -> None:
    """A checkpoint in diffusers' layout with other weights of one part.

    Args:
        origin: the base's checkpoint.
        part: the subfolder of the network.
        state: its weights.
        variant: as in the names of the base's weight files, such as fp16.
    """
    # The base's own weights of the part, and whole models that some repositories have beside them.
    weights = shutil.ignore_patterns("*.safetensors", "*.bin", "*.ckpt", "*.index*.json", ".*")

    def left_out(place: str, names: list[str]) -> set[str]:
        return weights(place, names) if Path(place) in (origin, origin / part) else set()

    # A copy of the checkpoint with the copy in it would have no end.
    if folder.resolve().is_relative_to(origin.resolve()):
        raise ComponentError(
            f"{folder.parent} is in the base's checkpoint ({origin}), which is copied. Give "
            "another folder with --out."
        )
    shutil.copytree(origin, folder, ignore=left_out, dirs_exist_ok=True)
    middle = f".{variant}" if variant else ""
    file = folder / part / f"diffusion_pytorch_model{middle}.safetensors"
    save_file(dict(state), file, metadata=PLAIN)


def export_weights(run: Path, out: Path, average: bool = True, prefix: str = "") -> None:
    """Write the trained network of a run folder, or its average, as float16.

    Args:
        average: the moving average where the run has one.
        prefix: before the names of the tensors.

    Raises ComponentError when the run has not been trained in full, or has weights that float16
    cannot hold.
    """
    run, out = given_folder(run), local_path(out, Path.cwd())
    folders = ["adapter_ema", "adapter"] if average else ["adapter"]
    files = [run / folder / "model.safetensors" for folder in folders]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise ComponentError(
            f"{run}: expected a finished run with `adapter: {{kind: full}}`, whose weights are in "
            f"{files[-1]}"
        )
    state = {prefix + name: value.half() for name, value in read_weights(found).items()}
    if large := [name for name, value in state.items() if not value.isfinite().all()]:
        raise ComponentError(
            f"{found}: {large[0]} has weights that float16 cannot hold: not finite, or beyond 65504"
        )
    make_folder(out.parent)
    write_bytes(out, save(state))
