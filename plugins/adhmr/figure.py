"""Pictures of hypotheses: over their photographs, from the side and in space; kept after every
evaluation, shown in reports."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.space import unpack
from rewardft_plugins.adhmr.sticks import green, sticks
from rewardft_plugins.humans.poses.pictures import (
    SHIPPED,
    Split,
    find_root,
    read_pictures,
)
from rewardft_plugins.humans.poses.show import many, over_picture
from rewardft_plugins.humans.viewer import Row, rows_html

from rewardft.files.atomic import make_folder, write_bytes
from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.types import Plan

if TYPE_CHECKING:
    from rewardft import Run
    from rewardft.contracts.records import ComparisonRecord, Section

HYPOTHESES = 10
SHOWN = {"tilted": 4, "plain": 2}  # pictures
SIDE = 192


@dataclass(frozen=True)
class Kept:
    """What an evaluation keeps of n pictures.

    ids; pictures `(n, s, s, 3)` and where their centres are, `(n, 3)` metres from the pelvis;
    joints `(n, m, 27, 3)` of the hypotheses and `(n, 27, 3)` of the truth, metres.
    """

    ids: NDArray[np.str_]
    pictures: NDArray[np.uint8]
    centres: NDArray[np.float32]
    joints: NDArray[np.float32]
    truth: NDArray[np.float32]


def save_figure(run: Run, step: int) -> Path | None:
    """`samples/step-N.png`, each row a picture, the hypotheses over it, and the same from the
    camera's right; `samples/hypotheses-N.npz`, the same as numbers. None where the data set keeps
    no pictures."""
    recipe = run.recipe
    options = {**recipe.data.options, **recipe.evaluate.data}
    root, split = find_root(str(options.get("root", SHIPPED))), str(options.get("split", "train"))
    # Annotated or photographed data keep no small pictures beside their columns.
    if "file" in recipe.evaluate.data or recipe.model.options.get("condition") == "image":
        return None
    pictures = read_pictures(root, split)
    if not pictures:
        return None
    data = PosePictures(str(root), split)
    whole = data.split
    rows = rows_shown(whole, list(pictures))
    joints = draw(run, [data[row] for row in rows], recipe.evaluate.seed)
    ids = np.array([whole.ids[row] for row in rows])
    kept = Kept(
        ids,
        np.stack([pictures[id_] for id_ in ids.tolist()]),
        whole.centres[rows],
        joints,
        unpack(data.pose[rows])["joints"].numpy(),
    )
    path = run.folder / "samples" / f"step-{step:08d}.png"
    make_folder(path.parent)
    image, numbers = BytesIO(), BytesIO()
    sheet([picture_row(kept, i) for i in range(len(rows))]).save(image, "PNG")
    np.savez_compressed(numbers, **vars(kept))
    # Numbers first: where the figure exists, they do.
    write_bytes(path.with_name(f"hypotheses-{step:08d}.npz"), numbers.getvalue())
    write_bytes(path, image.getvalue())
    return path


def rows_shown(whole: Split, ids: list[str]) -> list[int]:
    """Rows of the first pictures of each group, tilted ones first."""
    rows = [whole.ids.index(id_) for id_ in ids]
    return [
        row
        for name, count in SHOWN.items()
        for row in [row for row in rows if whole.groups[row] == name][:count]
    ]


@torch.no_grad()
def draw(run: Run, items: list[Any], seed: int) -> NDArray[np.float32]:
    """Joints `(n, m, 27, 3)` of hypotheses of the run's model as it is now."""
    # Epoch 0 always, so that figures of different steps show the same noise.
    batch = make_batch(items, [0] * len(items)).repeat(HYPOTHESES)
    device = next(run.model.trainable.parameters()).device
    batch = batch.to(device)
    # The evaluation's seed, so that base and tuned model start from the same noise.
    noise = Noise(seed, batch.ids, batch.epochs, device)
    plan = Plan(stop=run.sampler.steps)
    rollout = run.sampler.rollout(run.model, run.model.encode(batch), plan, noise)
    joints = run.model.decode(rollout.x0)["joints"].unflatten(0, (-1, HYPOTHESES))
    found: NDArray[np.float32] = joints.float().cpu().numpy()
    return found


def picture_row(kept: Kept, row: int) -> list[Image.Image]:
    """A picture, the hypotheses over it, and the same from the camera's right."""
    picture, joints = kept.pictures[row], kept.joints[row]
    over = over_picture(picture, joints, kept.centres[row])
    return [Image.fromarray(picture), over, many(joints, SIDE)]


def sheet(rows: list[list[Image.Image]]) -> Image.Image:
    """Cells of one size in rows."""
    found = Image.new("RGB", (SIDE * len(rows[0]), SIDE * len(rows)), "white")
    for place, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            found.paste(cell.resize((SIDE, SIDE)), (column * SIDE, place * SIDE))
    return found


def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    """Of each variant's first run that kept hypotheses: those of base and tuned model over the
    pictures, and of one tilted and one plain picture in space."""
    from rewardft.contracts.records import Section

    figures, rows = [], list[Row]()
    for variant in record.variants:
        found = [kept for run in variant.runs if (kept := first_and_last(folder / run.folder))]
        if found:
            base, tuned = found[0]
            # One row per picture: base and tuned beside each other, over the same noise.
            figures.append(figure_html(variant.name, base, tuned))
            rows += in_space(variant.name, base, tuned)
    if not figures:
        return []
    text = (
        f"<p>{HYPOTHESES} hypotheses of held-out pictures with the same noise. Of each variant: "
        "the picture; hypotheses of the base over it and from the camera's right; those of the "
        "tuned model. The person's left is red, the right blue.</p>"
    )
    space = "<h3>In space</h3><p>The same of two pictures, beside the truth in green.</p>"
    body = text + "".join(figures) + space + rows_html(rows)
    return [Section(title="Hypotheses", html=body, plugin="adhmr")]


def first_and_last(run: Path) -> tuple[Kept, Kept] | None:
    """What the first and the last evaluation of a run kept."""
    files = sorted((run / "samples").glob("hypotheses-*.npz"))
    # The first evaluation comes before any step, so it shows the base.
    return (read_kept(files[0]), read_kept(files[-1])) if len(files) > 1 else None


def read_kept(path: Path) -> Kept:
    """What `save_figure` wrote."""
    with np.load(path, allow_pickle=False) as archive:
        return Kept(**{name: archive[name] for name in archive.files})


def figure_html(name: str, base: Kept, tuned: Kept) -> str:
    """One picture with all cells of a variant."""
    rows = [picture_row(base, i) + picture_row(tuned, i)[1:] for i in range(len(base.ids))]
    buffer = BytesIO()
    sheet(rows).save(buffer, "PNG", optimize=True)
    # Inside the page: a report is one file that can be passed on.
    data = base64.b64encode(buffer.getvalue()).decode()
    label = html.escape(f"hypotheses of the base and of {name}", quote=True)
    image = f'<img alt="{label}" style="max-width:100%" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{html.escape(name)}</figcaption></figure>"


def in_space(name: str, base: Kept, tuned: Kept) -> list[Row]:
    """Skeletons that can be turned: of the first picture of each group."""
    rows = list[Row]()
    # The first is tilted, the last is plain.
    for place in (0, len(base.ids) - 1):
        meshes = [
            ("base", sticks(base.joints[place])),
            (name, sticks(tuned.joints[place])),
            ("truth", sticks(base.truth[place][None], green)),
        ]
        rows.append((f"{name}: {base.ids[place]}", meshes))
    return rows


def newest_figure(run: Path) -> Path | None:
    """The figure of a run's last evaluation."""
    figures = sorted((run / "samples").glob("step-*.png"))
    return figures[-1] if figures else None
