"""The main job in one command: data set, reward fine-tuning, a before/after picture and the metric
table."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rewardft_plugins.drpose.commands.verdict import results_table, sentence
from rewardft_plugins.drpose.data.acrobatic import acrobatic_batch
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.drpose.pictures import save_showcase, unmirror
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from rewardft.runs.open import load_trained, open_run, run_recipe_file
from rewardft.types import Batch, Plan

SHOWN = (2, 3, 4)  # right, back, left: what the given picture does not show
CONSOLE = Console(stderr=True, markup=False)
# Headings per training frame: they make up for the small number of shipped clips.
YAWS = 4


def quickstart(data: Path, out: Path, overrides: Sequence[str]) -> Any:
    """Build the data set if it is not there, run `drpose_mini`, and show the result. Returns the
    run's summary."""
    build_data(data)
    recipe = Path(str(files("rewardft_recipes") / "drpose_mini.yaml"))
    out = free_folder(out)
    # Overrides of the user come last, so that they win.
    summary = run_recipe_file(recipe, out, [f"data.root={data}", *overrides])
    if summary.status == "interrupted":
        CONSOLE.print(f"interrupted at step {summary.step}; what was learned is in {out}")
        return summary
    picture = paint(out)
    CONSOLE.print(results_table(summary.evaluation))
    CONSOLE.print(sentence(summary.evaluation), highlight=False)
    CONSOLE.print(
        f"before, after, mesh and truth of held-out acrobatic poses: {picture}",
        highlight=False,
        soft_wrap=True,
    )
    return summary


def build_data(root: Path) -> None:
    from rewardft_plugins.drpose.data.build import build_dataset
    from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
    from rewardft_plugins.humans.body import describe_body, load_body
    from rewardft_plugins.humans.motion import shipped_clips

    body = load_body(None)
    CONSOLE.print(describe_body(body), highlight=False, soft_wrap=True)
    # The manifest is written last, so a folder with one is complete.
    if (root / "manifest.json").is_file():
        CONSOLE.print(f"data set: {root}", highlight=False)
        return
    with Progress(
        TextColumn("building the data set (once)"),
        BarColumn(),
        MofNCompleteColumn(),
        console=CONSOLE,
    ) as bar:
        task = bar.add_task("rendering", total=None)
        build_dataset(
            root,
            plan_splits(shipped_clips(), Sampling(yaws=YAWS)),
            body,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def free_folder(out: Path) -> Path:
    """`out`, or `out-2`, `out-3`, ... when there is a run in it already: no run is overwritten."""
    # A run that somebody waited for is never overwritten.
    candidate, number = out, 1
    while (candidate / "recipe.yaml").exists():
        number += 1
        candidate = out.with_name(f"{out.name}-{number}")
    return candidate


def paint(folder: Path, count: int = 5) -> Path:
    """`before_after.png` in the run folder: held-out acrobatic samples as the base and the tuned
    model generate them, the truth, and the body that was fitted to the tuned model's views, each
    from the right, from behind and from the left."""
    session = open_run(folder)
    ctx = session.evaluation_context()
    batch = acrobatic_batch(session.resolved.eval_dataset.build(), count)
    # The same noise twice: what differs between the two rows is the fine-tuning alone.
    _, before = sample_views(ctx, batch)
    load_trained(session, folder)
    normals, after = sample_views(ctx, batch)
    views = {"before fine-tuning": before, "after": after, "truth": batch["colours"]}
    shown = [(title, unmirror(colours)[:, list(SHOWN)]) for title, colours in views.items()]
    path = folder / "before_after.png"
    groups = [*shown[:2], ("mesh of after", mesh_views(normals, after)), shown[2]]
    save_showcase(path, batch["image"], groups)
    return path


def mesh_views(normals: Tensor, colours: Tensor) -> Tensor:
    """Bodies fitted to views `(n, 6, 3, s, s)`, from the directions `SHOWN`: `(n, 3, 3, s, s)`."""
    from rewardft_plugins.drpose.mesh.reconstruct import Reconstructor
    from rewardft_plugins.humans.mesh import turntable

    turned = [
        turntable(mesh, 4, normals.shape[-1])[1:]  # azimuths 90, 180 and 270
        for mesh in Reconstructor()(normals, colours).meshes
    ]
    return torch.from_numpy(np.stack(turned)).float() / 255


def sample_views(ctx: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Normals and colours `(b, 6, 3, s, s)` of finished samples, as stored."""
    rollout = ctx.rollout(batch, Plan(stop=ctx.sampler.steps))
    with torch.no_grad():
        return split_domains(rollout.decoded.float().cpu())
