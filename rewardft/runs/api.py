"""Runs from Python: `rewardft.run`, `evaluate`, `sample` and `load_run`.

The command line is a layer over the same functions. What they return holds plain values and shows
itself as a table or a picture in a notebook.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rewardft.engine.session import Session
from rewardft.engine.summary import RunSummary
from rewardft.engine.train import train
from rewardft.errors import CheckpointError, RecipeError
from rewardft.evaluation.evaluate import Paired
from rewardft.files.json_text import nan_for_null, read_object, reading
from rewardft.files.paths import file_name, given_folder
from rewardft.plugins.resolve import open_recipe
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.recipe.shipped import find_recipe, run_to_continue
from rewardft.runs.export import export_run
from rewardft.runs.open import RunEvaluation, evaluate_run, load_trained, no_run, open_run
from rewardft.runs.samples import Drawn, sample_run
from rewardft.runs.strengths import columns, evaluate_scales
from rewardft.runs.table import Table, paired_table
from rewardft.storage.recorder import read_records

Overrides = Sequence[str] | Mapping[str, Any]


def as_settings(overrides: Overrides) -> list[str]:
    """`{"train.steps": 10}` or `["train.steps=10"]`, as after `--set`."""
    if isinstance(overrides, Mapping):
        # JSON is YAML, and quotes text that YAML would take for a number.
        return [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    # One text is one setting, not a setting for each of its letters.
    return [overrides] if isinstance(overrides, str) else list(overrides)


@dataclass(frozen=True)
class FinishedRun:
    """A run folder. Nothing is read before it is asked for.

    summary: how the run ended; None for one that has not ended.
    """

    folder: Path
    summary: RunSummary | None = None

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with every setting, as the run was made."""
        return load_recipe(self.folder / "recipe.yaml")

    @cached_property
    def metrics(self) -> Table:
        """One row for each logged optimizer step."""
        # Evaluations are lines of the same file; only optimizer steps have a gradient.
        rows = [nan_for_null(line) for line in read_records(self.folder / "metrics.jsonl")]
        return Table([row for row in rows if "gradient_norm" in row])

    @cached_property
    def evaluation(self) -> Table:
        """The final comparison with the model that the run began with, which is the base, or with
        `adapter.init` the start; empty where the run made none."""
        path = self.folder / "summary.json"
        if self.summary is not None:
            return paired_table(self.summary.evaluation, self.recipe.adapter.start)
        # The run is of an earlier process: its file has what `summary` would.
        how = "Delete it, and continue the run with --resume, which writes it anew."
        found = read_object(path, {}, how) if path.is_file() else {}
        with reading(path, how):
            rows = [Paired(**nan_for_null(row)) for row in found.get("evaluation", [])]
        return paired_table(rows, self.recipe.adapter.start)

    @cached_property
    def session(self) -> Session:
        """The model with its trained adapter, sampler and rewards; built on first use."""
        session = open_run(self.folder)
        load_trained(session, self.folder)
        return session

    @property
    def model(self) -> Any:
        """The model with the trained weights in it."""
        return self.session.model

    @property
    def adapter(self) -> Any:
        """What was trained; `with run.adapter.disabled():` is the base model."""
        return self.session.adapter

    def __repr__(self) -> str:
        ended = f", {self.summary.status} at step {self.summary.step}" if self.summary else ""
        return f"FinishedRun({str(self.folder)!r}{ended})"

    def _repr_html_(self) -> str:
        # A run that is still going has metrics and no end.
        ended = "" if self.summary is None else f", {self.summary.status} at {self.summary.step}"
        # Something to see, also for a run that evaluates nothing.
        table = self.evaluation if len(self.evaluation) else Table(list(self.metrics)[-5:])
        return f"<p><b>{self.folder}</b>{ended}</p>{table._repr_html_()}"


@dataclass(frozen=True)
class Samples:
    """The same samples of the base and of the tuned model, and the files that hold them."""

    drawn: Drawn
    files: Sequence[Path]

    def _repr_html_(self) -> str:
        pictures = [path for path in self.files if path.suffix == ".png"]
        if not pictures:
            return f"<p>{len(self.drawn.ids)} samples: {', '.join(map(str, self.files))}</p>"
        # Embedded: a link to a file would break as soon as the notebook is moved.
        data = base64.b64encode(pictures[0].read_bytes()).decode()
        return f'<img alt="base and tuned samples" src="data:image/png;base64,{data}"/>'


def run(
    recipe: Path | str,
    out: Path | str | None = None,
    overrides: Overrides = (),
    *,
    resume: bool = False,
    allow_changed_plugins: bool = False,
) -> FinishedRun:
    """Train as `rewardft run` does.

    Args:
        recipe: a file, or the name of a shipped recipe; with `resume` also a run folder.
        out: the run folder; default: `runs/NAME`. An existing run is never overwritten.
        overrides: `{"train.steps": 10}` or `["train.steps=10"]`.
        resume: continue from the newest checkpoint in `out`, or in the run folder that `recipe` is.
        allow_changed_plugins: resume although a file plugin was edited.

    Raises:
        RewardftError: what the command line would print.
    """
    check_is_name(recipe)
    continued = run_to_continue(recipe, None if out is None else Path(out)) if resume else None
    path = find_recipe(str(continued / "recipe.yaml" if continued else recipe))
    folder = run_folder(path, out or continued)
    opened = open_recipe(path, as_settings(overrides))
    return FinishedRun(folder, train(*opened, folder, resume, allow_changed_plugins))


def check_is_name(recipe: object) -> None:
    """Raises RecipeError for a recipe that is given as a mapping."""
    if not isinstance(recipe, (str, Path)):
        got = type(recipe).__name__
        problem = f"recipe: expected a file, or the name of a shipped recipe, got a {got}."
        raise RecipeError("recipe", [f"{problem} Write it to a file, or change one by overrides."])


def run_folder(recipe: Path, out: Path | str | None) -> Path:
    """`out`, or the folder where the command line and Python find each other's runs."""
    return Path("runs") / file_name(recipe.stem) if out is None else given_folder(out)


def load_run(folder: Path | str) -> FinishedRun:
    """A run that was made before. Raises CheckpointError for any other folder."""
    path = given_folder(folder)
    if not (path / "metrics.jsonl").is_file():
        raise CheckpointError(no_run(path, "metrics.jsonl"))
    return FinishedRun(path)


def evaluate(
    run: FinishedRun | Path | str, samples: int | None = None, overrides: Overrides = ()
) -> RunEvaluation:
    """Evaluate a run against its base model, as `rewardft evaluate` does."""
    return evaluate_run(folder_of(run), samples, as_settings(overrides))


@dataclass(frozen=True)
class Strengths:
    """A run's adapter at several strengths, on the same held-out samples and noise; strength 0 is
    the base model.

    step: of the weights.
    samples: how many there were.
    kl: the name of the divergence.
    points: one for each strength, see `rewardft.runs.strengths.evaluate_scales`.
    knee: the strength above which divergence buys little; None where there is none.
    verdict: the same in a sentence.
    """

    step: int
    samples: int
    kl: str
    points: Sequence[Mapping[str, Any]]
    knee: float | None
    verdict: str

    @property
    def table(self) -> Table:
        """A row for each strength: rewards, divergence, diversity."""
        names = columns(self.points, self.kl)
        means = [{name: p["means"][name] for name in names} for p in self.points]
        return Table([{"scale": p["scale"], **row} for p, row in zip(self.points, means)])

    def _repr_html_(self) -> str:
        return f"{self.table._repr_html_()}<p>{html.escape(self.verdict)}</p>"


def evaluate_strengths(
    run: FinishedRun | Path | str,
    scales: Sequence[float],
    samples: int | None = None,
    overrides: Overrides = (),
) -> Strengths:
    """Evaluate a run's adapter at several strengths, as `rewardft evaluate --adapter-scale` does.

    scales: of at least 0; 1 is as trained. Raises ComponentError for a run that trained all
    weights.
    """
    return Strengths(**evaluate_scales(folder_of(run), scales, samples, as_settings(overrides)))


def sample(
    run: FinishedRun | Path | str,
    count: int = 8,
    ids: Sequence[str] = (),
    scale: float = 1.0,
    out: Path | str | None = None,
    overrides: Overrides = (),
) -> Samples:
    """Draw the same samples from both models, as `rewardft sample` does.

    See `rewardft.runs.samples.sample_run` for the arguments.
    """
    target = None if out is None else given_folder(out)
    drawn = sample_run(folder_of(run), count, ids, scale, target, as_settings(overrides))
    return Samples(*drawn)


def export(
    run: FinishedRun | Path | str, to: str, out: Path | str | None = None, best: bool = False
) -> Path:
    """Write the trained weights for another program, as `rewardft export` does.

    See `rewardft.runs.export.export_run` for the arguments.
    """
    return export_run(folder_of(run), to, out, best)


def folder_of(run: FinishedRun | Path | str) -> Path:
    """The folder of a run, however it is given."""
    return run.folder if isinstance(run, FinishedRun) else given_folder(run)
