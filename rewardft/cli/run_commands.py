"""The commands about one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rewardft.cli.arguments import Overrides, RecipeName


def check(
    recipes: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE...", help="Recipe files or names of shipped ones."),
    ],
    overrides: Overrides = [],
) -> None:
    """Check recipes without loading any weights;
    exit code 2 and all problems when one cannot be run."""
    from rewardft.cli.checking import check_recipes

    check_recipes(recipes, overrides)


def plan(
    recipe: RecipeName,
    device: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Memory of the device, such as 24GiB: say what fits it."),
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Tell the memory that training needs, by part, without loading weights;
    and the settings that fit a device."""
    from rewardft.cli.planning import plan_recipe

    plan_recipe(recipe, device, overrides)


def run(
    recipe: RecipeName,
    overrides: Overrides = [],
    out: Annotated[
        Path | None, typer.Option(help="The run folder; default: runs/ and the recipe's name.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the run in the folder from its newest checkpoint. The folder alone, "
            "in the place of a recipe, is enough.",
        ),
    ] = False,
    allow_changed_plugins: Annotated[
        bool,
        typer.Option(
            "--allow-changed-plugins", help="Resume although plugin files have been edited since."
        ),
    ] = False,
) -> None:
    """Run a recipe."""
    from rewardft.cli.running import run_recipe

    run_recipe(recipe, overrides, out, resume, allow_changed_plugins)


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    samples: Annotated[
        int | None, typer.Option(min=1, help="Held-out samples; default: as the recipe says.")
    ] = None,
    adapter_scale: Annotated[
        str | None,
        typer.Option(
            metavar="0,0.5,1,...",
            help="Evaluate the adapter at these strengths, and name the knee.",
        ),
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Compare a run's model with its base model on held-out samples and the same noise."""
    from rewardft.cli.running import evaluate_folder, evaluate_strengths

    # One strength or several is one question to the user, and two functions behind it.
    if adapter_scale is None:
        evaluate_folder(run, samples, overrides)
    else:
        evaluate_strengths(run, adapter_scale, samples, overrides)


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    count: Annotated[int, typer.Option(min=1, help="How many of the first held-out samples.")] = 8,
    samples: Annotated[
        list[str],
        typer.Option("--samples", metavar="ID", help="These held-out samples instead; repeatable."),
    ] = [],
    adapter_scale: Annotated[
        float, typer.Option(min=0.0, help="Strength of the adapter; 1 is as trained.")
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; default: `samples` in the run's.")
    ] = None,
    overrides: Overrides = [],
) -> None:
    """Draw samples of a run's base and tuned model, with the same noise,
    and write them side by side."""
    from rewardft.cli.running import sample_folder

    sample_folder(run, count, samples, adapter_scale, out, overrides)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    to: Annotated[str, typer.Option(help="diffusers, peft, kohya (ComfyUI) or merged.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: export/ in the run's.")
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="The weights that `save.best` kept, not the last ones.")
    ] = False,
) -> None:
    """Write a run's trained weights for another program, with a model card."""
    from rewardft.runs.export import export_run

    folder = export_run(run, to, out, best)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        # The mark of a folder that may be replaced.
        if not file.name.startswith("."):
            print(file)
