"""Working without training: open and evaluate finished runs, build a reward on its own."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.contracts.alarm import Alarm
from rewardft.engine.held_out import trained_values
from rewardft.engine.session import Session, build_session, run_evaluation
from rewardft.engine.summary import RunSummary
from rewardft.engine.train import train
from rewardft.errors import CheckpointError, RecipeError, did_you_mean
from rewardft.evaluation.alarms import find_alarms
from rewardft.evaluation.evaluate import Evaluation, Paired, compare
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode, read_object, reading
from rewardft.files.surroundings import put_back
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import Component, anchor_options, check_options
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import open_recipe
from rewardft.policy.adapter import load_adapter
from rewardft.policy.snapshots import Snapshot, load_snapshot
from rewardft.recipe.overrides import Origin, apply_override
from rewardft.runs.table import Table, paired_table
from rewardft.storage.checkpoint import (
    latest_checkpoint,
    read_state,
    read_tensors,
    step_of,
    trained_step,
)
from rewardft.types import Batch, Rollout


def run_recipe_file(
    path: Path,
    out: Path,
    overrides: Sequence[str] = (),
    resume: bool = False,
    allow_changed_plugins: bool = False,
) -> RunSummary:
    """Load, check and run a recipe."""
    recipe, plugins, resolved = open_recipe(path, overrides)
    return train(recipe, plugins, resolved, out, resume, allow_changed_plugins)


def recipe_of_run(folder: Path) -> Path:
    """The recipe in a run folder. Raises CheckpointError for what is none."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise CheckpointError(no_run(folder, "a recipe.yaml"))
    return path


def no_run(folder: Path, missing: str) -> str:
    """The message for what is no run folder, for want of the file `missing`."""
    if folder.is_file():
        return f"{folder}: expected a run folder, got a file; `rewardft run` makes runs of recipes"
    if not folder.exists():
        beside = [one.parent.name for one in folder.parent.glob("*/recipe.yaml")]
        return f"{folder}: there is no such folder.{did_you_mean(folder.name, beside)}"
    return f"{folder}: not a run folder; expected {missing} in it, as `rewardft run` writes it"


def open_run(folder: Path, overrides: Sequence[str] = ()) -> Session:
    """The session of a run with its base model; `load_trained` puts the trained weights in."""
    recipe, plugins, resolved = open_recipe(recipe_of_run(folder), overrides)
    # A new adapter changes nothing (B = 0), so this is the base model until weights are loaded.
    return build_session(recipe, resolved, best_device(), plugin_files=plugins.digests())


def load_trained(session: Session, folder: Path) -> int:
    """Load the newest weights of a run, from its end or from a checkpoint; returns their step.

    They are the last step's or the averaged ones, as `evaluate.weights` of the session's recipe
    says.
    """
    averaged = session.recipe.evaluate.weights == "ema"
    trained = folder / ("adapter_ema" if averaged else "adapter")
    # The newer of the two: a run that was cut off has only a checkpoint.
    checkpoint, final = latest_checkpoint(folder), step_of_trained(trained)
    if final is not None and (checkpoint is None or final >= step_of(checkpoint)):
        load_adapter(session.adapter, trained)
        return final
    if checkpoint is None:
        raise CheckpointError(
            f"{folder}: nothing trained is saved in it (no checkpoints/, and no {trained.name}/ "
            "with a step.json)"
        )
    # Checked by SHA-256 first: damaged weights would evaluate to plausible numbers.
    state = read_state(checkpoint)
    if averaged:
        load_snapshot(read_average(checkpoint, session.context.device), session.adapter)
    else:
        load_adapter(session.adapter, checkpoint)
    return int(state["step"])


def read_average(checkpoint: Path, device: torch.device) -> Snapshot:
    """The moving average of the weights in a checkpoint. Raises CheckpointError without one."""
    weights: Snapshot = read_tensors(checkpoint, device).get("ema", {})
    if not weights:
        raise CheckpointError(
            f"{checkpoint}: no averaged weights are saved in it; evaluate with evaluate.weights=raw"
        )
    return weights


def step_of_trained(folder: Path) -> int | None:
    """The step that the weights in `adapter/` are of; None when there are none."""
    return trained_step(folder, f"Delete {folder} to use the newest checkpoint.")


@dataclass(frozen=True)
class RunEvaluation:
    """A run's tuned model against its base model, on the same held-out samples and noise.

    step: of the tuned weights.
    samples: how many there were.
    weights: raw or ema.
    changed_plugins: files that were edited since the run.
    base, tuned: the values per sample.
    """

    step: int
    samples: int
    weights: str
    rows: Sequence[Paired]
    alarms: Sequence[Alarm]
    changed_plugins: Sequence[str]
    base: Evaluation
    tuned: Evaluation

    @property
    def table(self) -> Table:
        """A row for each value and group."""
        return paired_table(self.rows)

    def _repr_html_(self) -> str:
        alarms = "".join(f"<p>alarm: {html.escape(alarm.sentence)}</p>" for alarm in self.alarms)
        return self.table._repr_html_() + alarms

    def to_json(self) -> dict[str, Any]:
        """What `evaluation.json` holds."""
        return {
            "step": self.step,
            "samples": self.samples,
            "weights": self.weights,
            "rows": [{**asdict(row), "separable": row.separable} for row in self.rows],
            "alarms": [vars(alarm) for alarm in self.alarms],
            "changed_plugins": list(self.changed_plugins),
            "base": self.base.to_json(),
            "tuned": self.tuned.to_json(),
        }


@put_back()
def evaluate_run(
    folder: Path, samples: int | None = None, overrides: Sequence[str] = ()
) -> RunEvaluation:
    """Evaluate the base and the tuned model of a run; written to `evaluation.json`.

    Args:
        folder: a run folder.
        samples: how many held-out samples; None: as the recipe says. There may be fewer.
        overrides: `key=value` for the recipe's `evaluate` section.
    """
    # Absolute: a component may change the current folder before the file is written.
    folder = folder.absolute()
    session = open_run(folder, overrides)
    recipe = session.recipe
    count = samples or recipe.evaluate.samples
    # The base first: full fine-tuning overwrites it by loading.
    before = run_evaluation(session, count)
    step = load_trained(session, folder)
    after = run_evaluation(session, count, step)
    result = RunEvaluation(
        step=step,
        samples=len(before.ids),
        weights=recipe.evaluate.weights or "raw",
        # The same samples and noise in both, so differences are paired.
        rows=compare(before, after),
        alarms=find_alarms(before, after, trained_values(recipe), recipe.evaluate.min_diversity),
        changed_plugins=changed_plugins(session, folder),
        base=before,
        tuned=after,
    )
    write_text(folder / "evaluation.json", encode(result.to_json()))
    return result


def changed_plugins(session: Session, folder: Path) -> list[str]:
    """File plugins whose code is not that which the run was made with, as its manifest has it."""
    path = folder / "manifest.json"
    how = "Delete it: the run is then taken to have been made with the present plugins."
    with reading(path, how):
        listed = read_object(path, {}, how).get("plugins", []) if path.is_file() else []
        before = {plugin.get("file"): plugin.get("sha256") for plugin in listed}
    # A plugin that the manifest does not list is not taken for an edited one.
    return [file for file, sha in session.plugin_files.items() if before.get(file, sha) != sha]


def open_reward(
    use: str, plugins: Sequence[str], settings: Sequence[str] = (), base: Path = Path()
) -> tuple[Callable[[Rollout, Batch], Tensor], bool]:
    """A reward outside a run, frozen and on the best device, and whether it has a gradient.

    Args:
        use: its registered name.
        plugins: as a recipe lists them; paths are relative to `base`.
        settings: options as `key=value`.

    Raises PluginError for an unknown plugin or name, RecipeError with all problems of the options.
    """
    options: dict[str, Any] = {}
    # Stands for a recipe's file in messages.
    origin = Origin(f"reward {use!r}")
    problems = [problem for text in settings for problem in apply_override(options, text, origin)]
    catalog = build_catalog(load_plugins(list(plugins), base))
    entry = catalog.get("rewards", use)
    anchored, wrong = anchor_options(catalog, entry, options, lambda _: base.absolute())
    values, found = check_options(catalog, entry, anchored, ())
    found = [*wrong, *found]
    if problems or found:
        raise RecipeError(origin.source, problems + [message for _, message in found])
    component = Component(entry, values)
    reward = component.build()
    # As in a session: a reward network is frozen, though gradients run through it.
    if isinstance(reward, nn.Module):
        reward.requires_grad_(False).eval().to(best_device())
    return reward, "reward_gradient" in component.tags("provides", "tags")


def best_device() -> torch.device:
    """The first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
