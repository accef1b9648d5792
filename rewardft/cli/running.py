"""`run`, `evaluate` and `sample`: from names on the command line to the engine."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from rewardft.cli.tables import print_comparison, print_table
from rewardft.comparisons.settings import as_words, key_of
from rewardft.comparisons.sources import is_comparison
from rewardft.errors import RecipeError, RewardftError
from rewardft.files.paths import given_folder
from rewardft.plugins.manager import Plugins
from rewardft.plugins.resolve import Resolved, open_recipe
from rewardft.recipe.recipe import Recipe, load_recipe
from rewardft.recipe.shipped import find_recipe, run_to_continue

if TYPE_CHECKING:
    from rewardft.contracts.alarm import Alarm
    from rewardft.engine.summary import RunSummary


@dataclass(frozen=True)
class Ready:
    """A recipe that was checked, with its plugins and components."""

    path: Path
    recipe: Recipe
    plugins: Plugins
    resolved: Resolved


def prepare(name: str, overrides: Sequence[str]) -> Ready:
    """Read, load and resolve a recipe; builds nothing. Raises `RewardftError`."""
    path = find_recipe(name)
    # A likely slip, as both are shipped under names.
    if is_comparison(path):
        raise RecipeError(
            name, [f"{name} compares several recipes; run it with: rewardft compare {name}"]
        )
    ready = Ready(path, *open_recipe(path, overrides))
    if ready.recipe.train.report_to:
        from rewardft.storage.recorder import check_trackers

        # Also on `check`, which must find what would stop the run.
        check_trackers(ready.recipe.where("train", "report_to"), ready.recipe.train.report_to)
    return ready


def run_recipe(
    name: str, overrides: Sequence[str], out: Path | None, resume: bool, allow_changed_plugins: bool
) -> None:
    """Train; an interrupted run says how to continue and exits with 130."""
    continued = run_to_continue(name, out) if resume else None
    ready = prepare(str(continued / "recipe.yaml") if continued else name, overrides)
    # After `prepare`: a wrong recipe is reported without waiting for torch.
    from rewardft.engine.processes import is_printing
    from rewardft.engine.train import train
    from rewardft.runs.api import run_folder

    folder = run_folder(ready.path, out or continued)
    is_main = is_printing(os.environ)  # under a launcher every process comes here
    try:
        summary = train(
            ready.recipe, ready.plugins, ready.resolved, folder, resume, allow_changed_plugins
        )
    except KeyboardInterrupt:  # at once: before the training, or a second Ctrl-C
        # Without a manifest the run has not begun, and there is nothing to continue.
        if is_main and (folder / "manifest.json").exists():
            print(f"interrupted at once; {what_is_saved(folder)}: {folder}")
            print(how_to_continue(name, overrides, folder))
        raise
    # Each line once, not once a process.
    if not is_main:
        return
    say_weights(ready.recipe.evaluate.weights if summary.evaluation else None)
    if summary.evaluation or summary.of_sets:
        say_start(ready.recipe, folder)
    print_comparison(
        [vars(row) for row in summary.evaluation],
        [vars(value) for value in summary.of_sets],
        ready.recipe.adapter.start,
    )
    print_alarms(summary.alarms)
    if summary.not_compared:
        print(f"no comparison with the base model: {summary.not_compared}")
    best = summary.best or {}
    if best.get("step") is not None:
        where = f"at step {best['step']}, weights in adapter_best/"
        print(f"best {best['name']}: {best['value']:.4g} {where}")
    print(f"{how_it_ended(summary)}: {folder}")
    if summary.status == "interrupted":
        print(how_to_continue(name, overrides, folder))
        raise typer.Exit(130)


def say_weights(weights: str | None) -> None:
    """Where what is called tuned is not what the last step left."""
    if weights == "ema":
        print(
            "tuned: the moving average of the weights (train.ema); evaluate.weights=raw evaluates "
            "the last ones"
        )


def say_start(recipe: Recipe, folder: Path) -> None:
    """Where the tuned model is not compared with the base."""
    if recipe.adapter.init is not None:
        other = shlex.join(["rewardft", "evaluate", str(folder)])
        print(
            f"start: the weights of {recipe.adapter.init} (adapter.init); `{other}` compares with "
            "the base"
        )


def how_it_ended(summary: RunSummary) -> str:
    """'finished at step 9 (REASON)', 'interrupted by SIGINT at step 9'."""
    status, reason, step = summary.status, summary.reason or "", summary.step
    # "interrupted by SIGINT" says both.
    if reason.startswith(status):
        return f"{reason} at step {step}"
    return f"{status} at step {step}" + (f" ({reason})" if reason else "")


def print_alarms(alarms: Sequence[Alarm]) -> None:
    """A line for each."""
    for alarm in alarms:
        print(f"alarm: {alarm.sentence}")


def what_is_saved(folder: Path) -> str:
    """From where a run that ended at once can be resumed."""
    from rewardft.storage.checkpoint import latest_checkpoint, step_of

    path = latest_checkpoint(folder)
    return (
        "no checkpoint was saved yet"
        if path is None
        else f"its newest checkpoint is of step {step_of(path)}"
    )


def how_to_continue(name: str, overrides: Sequence[str], folder: Path) -> str:
    """The command that resumes a run, ready to paste."""
    words = ["rewardft", "run", name, *as_words(overrides), "--out", str(folder), "--resume"]
    return f"continue with: {shlex.join(words)}"


def evaluate_folder(folder: Path, samples: int | None, overrides: Sequence[str]) -> None:
    """Evaluate a run against its base model and print the table."""
    from rewardft.evaluation.evaluate import compare_sets
    from rewardft.runs.api import evaluate

    result = evaluate(folder, samples, overrides)
    if samples is not None and result.samples < samples:
        print(f"requested {samples} held-out samples, only {result.samples} available")
    for file in result.changed_plugins:
        print(f"edited since the run: {file}; the values are those of the new code")
    say_weights(result.weights)
    of_sets = compare_sets(result.base, result.tuned)
    print_comparison([vars(row) for row in result.rows], [vars(value) for value in of_sets])
    print_alarms(result.alarms)
    if not result.rows:
        print(
            "nothing to compare: the recipe has neither rewards nor evaluate.metrics with values "
            "per sample."
        )


def evaluate_strengths(
    folder: Path, text: str, samples: int | None, overrides: Sequence[str]
) -> None:
    """Evaluate the adapter at each strength; print rewards,
    divergence and diversity, and the knee."""
    scales = parse_scales(text)
    from rewardft.runs.strength_curve import draw_strengths
    from rewardft.runs.strengths import columns, evaluate_scales

    folder = given_folder(folder)
    result = evaluate_scales(folder, scales, samples, overrides)
    names = columns(result["points"], result["kl"])
    rows = [
        (f"{p['scale']:g}", *(f"{p['means'][name]:.4g}" for name in names))
        for p in result["points"]
    ]
    print_table("adapter strengths, same samples and noise", ("scale", *names), rows)
    print(result["verdict"])
    figure = draw_strengths(result, folder / "adapter_scales.html")
    print(f"figure: {figure}" if figure else "for a figure: pip install 'rewardft[report]'")
    if not any(name.startswith("diversity/") for name in names):
        print(f"with diversity as well: {with_diversity(folder, text, samples, overrides)}")


def with_diversity(folder: Path, text: str, samples: int | None, overrides: Sequence[str]) -> str:
    """The same command with the diversity of the samples beside their rewards."""
    recipe = load_recipe(folder / "recipe.yaml", overrides)
    # The recipe's own first, and `metrics` once.
    plugins = json.dumps(list(dict.fromkeys([*recipe.plugins, "metrics"])))
    metrics = json.dumps([*(m.as_options() for m in recipe.evaluate.metrics), {"use": "diversity"}])
    others = [text for text in overrides if key_of(text) not in ("plugins", "evaluate.metrics")]
    added = [*others, f"plugins={plugins}", f"evaluate.metrics={metrics}"]
    count = [] if samples is None else ["--samples", str(samples)]
    words = ["rewardft", "evaluate", str(folder), "--adapter-scale", text, *count]
    return shlex.join([*words, *as_words(added)])


def parse_scales(text: str) -> list[float]:
    """Numbers with commas between. Raises RewardftError for anything else."""
    try:
        scales = [float(word) for word in text.split(",")]
    except ValueError:
        # Refused below, with the same message as any other number that will not do.
        scales = [math.nan]
    # NaN fails the comparison too.
    if not all(0 <= scale < math.inf for scale in scales):
        raise RewardftError(
            "--adapter-scale: expected numbers of at least 0 with commas between, such as "
            f"0,0.5,1, got {text!r}"
        )
    return scales


def sample_folder(
    folder: Path,
    count: int,
    ids: Sequence[str],
    scale: float,
    out: Path | None,
    overrides: Sequence[str],
) -> None:
    """Draw samples of both models and say where they are."""
    from rewardft.runs.api import sample

    samples = sample(folder, count, ids, scale, out, overrides)
    drawn, files = samples.drawn, samples.files
    if not ids and len(drawn.ids) < count:
        print(f"requested {count} held-out samples, only {len(drawn.ids)} available")
    print(
        f"{len(drawn.ids)} samples of the base and of {drawn.name}, adapter scale {scale:g}, same "
        "noise:"
    )
    for path in files:
        print(f"  {path}")
    if not any(path.suffix == ".png" for path in files):
        # Said, because a missing grid looks like a fault.
        shape = "no tensors" if drawn.base_shown is None else tuple(drawn.base_shown.shape[1:])
        wanted = "(c, h, w) or (v, c, h, w), c = 1 or 3"
        print(f"no pictures: decoded samples are pictures when they are {wanted}, not {shape}")
