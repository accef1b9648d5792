"""Soups: runs that were trained apart, merged into one that can be evaluated and sampled."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from rewardft.errors import CheckpointError, RewardftError
from rewardft.files.atomic import check_own, write_folder
from rewardft.files.json_text import encode, read_object
from rewardft.files.paths import given_folder
from rewardft.policy.lora import PEFT_PREFIX, PIPELINE_FILE, write_lora
from rewardft.policy.merge import IN, State, merge_full, merge_lora
from rewardft.policy.weights import read_weights
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.runs.open import recipe_of_run, step_of_trained
from rewardft.storage.checkpoint import as_disk_error, latest_checkpoint, step_of

MARK = "soup.json"
LARGEST_ALPHA = 1e12  # far above any that was trained with


@dataclass(frozen=True)
class Soup:
    """A merged run.

    folder: a run folder with `recipe.yaml` and `adapter/`, for `evaluate` and `sample`.
    weights: one for each run.
    rank: of its adapter; None for full fine-tuning.
    lost: the part of the merged update's squared norm that a lower rank left out; 0 if exact.
    """

    folder: Path
    weights: tuple[float, ...]
    rank: int | None
    lost: float


def soup(
    runs: Sequence[Path | str],
    out: Path | str,
    weights: Sequence[float] | None = None,
    rank: int | None = None,
) -> Soup:
    """Merge finished runs of one model: theta0 + sum of w_k (theta_k - theta0).

    Adapters are averaged as the products B A that they add to the weights, not factor by factor
    (`rewardft.policy.merge`). The merged run has the first one's recipe, and evaluates the rewards
    of all.

    Args:
        runs: two or more run folders; with `train.ema` their averaged weights are taken.
        out: a new folder.
        weights: one for each run, finite; None: all the same, with sum 1. For full fine-tuning they
            must add up to 1.
        rank: of the merged adapter; None: the sum of the ranks, which is exact.

    Raises:
        CheckpointError: a folder is no finished run, the runs have other models, or `out` exists.
    """
    folders = [given_folder(run) for run in runs]
    shares = checked_weights(len(folders), weights)
    recipes = [load_recipe(recipe_of_run(folder)) for folder in folders]
    check_models(folders, recipes)
    # Before the work: what cannot be written need not be merged.
    target = new_folder(out)
    trained = [trained_folder(folder, recipe) for folder, recipe in zip(folders, recipes)]
    merge = merge_full_runs if recipes[0].adapter.kind == "full" else merge_adapters
    state, made, lost = merge(trained, shares, rank)
    recipe = merged_recipe(recipes, made)
    facts = {"runs": [str(f.absolute()) for f in folders], "weights": shares, "rank": made}

    def fill(place: Path) -> None:
        (place / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        (place / MARK).write_text(encode(facts | {"lost": lost}), encoding="utf-8")
        with as_disk_error():
            write_weights(place / "adapter", state, trained[0], made)
        step = max(step_of_trained(folder) or 0 for folder in trained)
        (place / "adapter" / "step.json").write_text(json.dumps({"step": step}))

    write_folder(target, fill, mark=MARK)
    return Soup(target, tuple(shares), made, lost)


def merge_adapters(
    trained: Sequence[Path], weights: Sequence[float], rank: int | None
) -> tuple[State, int | None, float]:
    """Tensors, rank, and the part of the squared norm that the rank lost."""
    states = [read_weights(folder / "adapter_model.safetensors") for folder in trained]
    strengths = [w * strength(folder) for w, folder in zip(weights, trained)]
    merged, lost = merge_lora(states, strengths, rank)
    return merged, next(len(value) for name, value in merged.items() if IN in name), lost


def merge_full_runs(
    trained: Sequence[Path], weights: Sequence[float], rank: int | None
) -> tuple[State, int | None, float]:
    """The same for full fine-tuning, which has no rank. Raises RewardftError."""
    if rank is not None:
        raise RewardftError("rank: runs with full fine-tuning have no adapter whose rank it is")
    # All weights hold the base: with another sum the base itself would be scaled.
    if abs(math.fsum(weights) - 1) > 1e-9:
        raise RewardftError(
            "weights: runs with full fine-tuning need weights that add up to 1, got "
            f"{math.fsum(weights):g}"
        )
    states = [read_weights(folder / "model.safetensors") for folder in trained]
    return merge_full(states, weights), None, 0.0


def new_folder(out: Path | str) -> Path:
    """Raises CheckpointError for one with something in it."""
    folder = given_folder(out)
    check_own(folder, MARK)
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} already holds a merged run. Give another folder.")
    return folder


def checked_weights(count: int, weights: Sequence[float] | None) -> list[float]:
    """One finite weight for each of `count` >= 2 runs. Raises RewardftError."""
    if count < 2:
        raise RewardftError(f"expected two or more runs to merge, got {count}")
    if weights is None:
        return [1 / count] * count
    if len(weights) != count or not all(math.isfinite(w) for w in weights):
        raise RewardftError(
            f"weights: expected one number for each of the {count} runs, got "
            f"{', '.join(f'{w:g}' for w in weights) or 'none'}"
        )
    return list(weights)


def check_models(folders: Sequence[Path], recipes: Sequence[Recipe]) -> None:
    """Raises CheckpointError for runs whose weights belong to another base or kind."""
    first = recipes[0]
    for folder, recipe in zip(folders, recipes):
        for what, own, wanted in (
            ("model", recipe.model.as_options(), first.model.as_options()),
            ("adapter.kind", recipe.adapter.kind, first.adapter.kind),
        ):
            if own != wanted:
                raise CheckpointError(
                    f"{folder}: its {what} is {own}, and that of {folders[0]} is {wanted}. Only "
                    "runs from the same base can be merged."
                )


def trained_folder(folder: Path, recipe: Recipe) -> Path:
    """Where a finished run has the weights that it is evaluated by."""
    found = folder / ("adapter_ema" if recipe.evaluate.weights == "ema" else "adapter")
    step, checkpoint = step_of_trained(found), latest_checkpoint(folder)
    if step is None or (checkpoint is not None and step_of(checkpoint) > step):
        raise CheckpointError(
            f"{folder}: not a finished run; expected its weights in {found.name}/. Continue it "
            "with --resume."
        )
    return found


def strength(folder: Path) -> float:
    """alpha / rank of an adapter. Raises CheckpointError for a damaged configuration."""
    path, how = folder / "adapter_config.json", "It must be as peft writes it."
    found = read_object(path, {"r": int}, how)
    rank, alpha = found["r"], found.get("lora_alpha")
    # Compared, not converted: JSON's whole numbers may be too large for that, and has a NaN.
    if rank < 1 or not isinstance(alpha, (int, float)) or not abs(alpha) < LARGEST_ALPHA:
        raise CheckpointError(
            f"{path}: damaged: expected numbers for r, of at least 1, and lora_alpha, got {rank} "
            f"and {alpha!r:.60}. {how}"
        )
    return float(alpha) / int(rank)


def merged_recipe(recipes: Sequence[Recipe], rank: int | None) -> Recipe:
    """The first run's recipe around the merged weights, with the rewards of all runs."""
    first = recipes[0]
    held_out = [*(r.as_options() for r in first.evaluate.rewards), *further_rewards(recipes)]
    plugins = dict.fromkeys(name for recipe in recipes for name in recipe.dump()["plugins"])
    settings: dict[str, Any] = {
        "plugins": list(plugins),
        "evaluate.rewards": held_out,
        "evaluate.weights": "raw",
        "train.ema": None,
        "adapter.init": None,
    }
    if rank is not None:
        settings |= {"adapter.rank": rank, "adapter.alpha": float(rank), "adapter.dropout": 0.0}
    texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_recipe(first.source, texts)


def further_rewards(recipes: Sequence[Recipe]) -> list[dict[str, Any]]:
    """The rewards that the first run does not have. Where a name is taken by a reward with other
    options, the number of the run is added to it."""
    known: dict[str, dict[str, Any]] = {}
    for number, recipe in enumerate(recipes, 1):
        for reward in [*recipe.rewards, *recipe.evaluate.rewards]:
            name, options = reward.name or reward.use, reward.as_options()
            while name in known and measured(options) != measured(known[name]):
                name = f"{name}_{number}"
            known.setdefault(name, options | {"name": name})
    first = [r.name for r in [*recipes[0].rewards, *recipes[0].evaluate.rewards]]
    return [options for name, options in known.items() if name not in first]


def measured(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the values of a reward depend on."""
    return {k: v for k, v in options.items() if k not in ("name", "weight", "on_error")}


def write_weights(place: Path, state: State, source: Path, rank: int | None) -> None:
    """In the layout of the folder `source`."""
    place.mkdir()
    if rank is None:
        contiguous = {name: value.contiguous() for name, value in state.items()}
        save_file(contiguous, place / "model.safetensors", metadata={"format": "pt"})
        return
    config = read_object(source / "adapter_config.json", {"r": int}, "")
    config |= {"r": rank, "lora_alpha": float(rank), "lora_dropout": 0.0}
    write_lora(place, state, config, pipeline_part(source))


def pipeline_part(folder: Path) -> str | None:
    """The part of a diffusers pipeline that an adapter's names for pipelines begin with."""
    path = folder / PIPELINE_FILE
    if not path.is_file():
        return None
    own = next(iter(read_weights(folder / "adapter_model.safetensors")))
    plain = own.removeprefix(PEFT_PREFIX)
    return next(n.removesuffix(f".{plain}") for n in read_weights(path) if n.endswith(f".{plain}"))
