"""Hypotheses to look at: over their pictures and from the side, after every evaluation and in
reports."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from rewardft_plugins.adhmr.dataset import SHIPPED, find_root, read_pictures, read_split
from rewardft_plugins.adhmr.show import many, over_picture

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.types import Plan

if TYPE_CHECKING:
    from rewardft import Run
    from rewardft.contracts.records import ComparisonRecord, Section

HYPOTHESES = 10
COUNT = 6  # pictures, tilted ones first
SIDE = 192


def save_figure(run: Run, step: int) -> Path | None:
    """`samples/step-N.png`: each row a picture, the hypotheses over it, and the same from the
    camera's right. None where the data set keeps no pictures."""
    recipe = run.recipe
    options = {**recipe.data.options, **recipe.evaluate.data}
    root, split = find_root(str(options.get("root", SHIPPED))), str(options.get("split", "train"))
    pictures = read_pictures(root, split)
    if not pictures or recipe.model.options.get("condition") == "image":
        return None
    whole = read_split(root, split)
    rows = [whole.ids.index(id_) for id_ in list(pictures)[:COUNT]]
    joints = draw(run, [whole.item(row) for row in rows], recipe.evaluate.seed)
    sheet = Image.new("RGB", (3 * SIDE, SIDE * len(rows)), "white")
    for place, row in enumerate(rows):
        picture = pictures[whole.ids[row]]
        cells = [
            Image.fromarray(picture),
            over_picture(picture, joints[place], whole.centres[row]),
            many(joints[place], SIDE),
        ]
        for column, cell in enumerate(cells):
            sheet.paste(cell.resize((SIDE, SIDE)), (column * SIDE, place * SIDE))
    path = run.folder / "samples" / f"step-{step:08d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


@torch.no_grad()
def draw(run: Run, items: list[Any], seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Joints `(n, m, 27, 3)` of hypotheses of the run's model as it is now."""
    batch = make_batch(items, [0] * len(items)).repeat(HYPOTHESES)
    noise = Noise(seed, batch.ids, batch.epochs)
    plan = Plan(stop=run.sampler.steps)
    rollout = run.sampler.rollout(run.model, run.model.encode(batch), plan, noise)
    joints = run.model.decode(rollout.x0)["joints"].unflatten(0, (-1, HYPOTHESES))
    found: np.ndarray[Any, np.dtype[np.float32]] = joints.float().cpu().numpy()
    return found


def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    """The figure of each variant's first run that has one."""
    from rewardft.contracts.records import Section

    shown = []
    for variant in record.variants:
        figures = [path for run in variant.runs if (path := newest_figure(folder / run.folder))]
        if figures:
            data = base64.b64encode(figures[0].read_bytes()).decode()
            image = f'<img alt="hypotheses" src="data:image/png;base64,{data}">'
            shown.append(f"<figure><figcaption>{variant.name}</figcaption>{image}</figure>")
    if not shown:
        return []
    text = (
        f"<p>{HYPOTHESES} hypotheses over held-out pictures, and the same from the camera's right; "
        "the person's left is red, the right blue.</p>"
    )
    return [Section(title="Hypotheses", html=text + "".join(shown), plugin="adhmr")]


def newest_figure(run: Path) -> Path | None:
    """The figure of a run's last evaluation."""
    figures = sorted((run / "samples").glob("step-*.png"))
    return figures[-1] if figures else None
