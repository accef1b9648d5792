"""Scenes from all around, as moving pictures: after every evaluation, and in reports."""

from __future__ import annotations

import base64
import html
import importlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rewardft_plugins.ddpo3d.scene_model import Scenes
from torch import Tensor

from rewardft.contracts.records import Section
from rewardft.errors import ComponentError
from rewardft.evaluation.videos import save_mp4
from rewardft.files.atomic import write_bytes

if TYPE_CHECKING:
    from rewardft import Run
    from rewardft.contracts.records import ComparisonRecord

FRAMES, SECONDS = 24, 0.1  # of a turn, and of a frame
SHOWN = 8  # scenes
SIDE = 96  # pixels; smaller pictures are enlarged


@torch.no_grad()
def turn(model: Scenes, scenes: Tensor, frames: int = FRAMES) -> Tensor:
    """`(frames, c, h, w)` in [0, 1]: the scenes `(n,)` beside each other; several pictures of one
    scene, normals and colours, one below the other."""
    azimuth = torch.arange(frames, device=scenes.device) * 360.0 / frames
    rows = []
    for scene in scenes.split(1):
        # One scene at a time: a turn of all of them may not fit into memory.
        level = torch.zeros_like(azimuth)[None]
        picture, _ = model.render(scene, azimuth[None], level, level.bool())
        parts = picture[0].split(list(model.channels.values()), 1)
        rows.append(torch.cat([shown(part) for part in parts], -2))
    return torch.cat(rows, -1)


def shown(picture: Tensor) -> Tensor:
    """`(frames, c, h, w)` with three channels, enlarged by whole pixels to at least `SIDE`."""
    factor = -(-SIDE // picture.shape[-1])
    wide = picture.expand(-1, 3, -1, -1) if picture.shape[1] == 1 else picture
    return wide.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def as_gif(frames: Tensor) -> bytes:
    """A picture that moves without end, of `(frames, 3, h, w)` in [0, 1]."""
    from PIL import Image

    array = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    first, *rest = [Image.fromarray(frame) for frame in array]
    buffer = BytesIO()
    options: dict[str, Any] = {"save_all": True, "append_images": rest, "loop": 0}
    first.save(buffer, "GIF", duration=round(1000 * SECONDS), **options)
    return buffer.getvalue()


def film_ending(path: Path) -> str:
    """`.gif` or `.mp4`; raises ComponentError for another one."""
    ending = path.suffix.lower()
    if ending not in (".gif", ".mp4"):
        raise ComponentError(f"{path}: expected a name that ends in .gif or .mp4")
    return ending


def save_film(frames: Tensor, path: Path) -> None:
    """Write `(frames, 3, h, w)` in [0, 1] as a `.gif`, or as an `.mp4` with the extra `video`.

    Raises ComponentError for another ending, and for an MP4 without PyAV.
    """
    if film_ending(path) == ".gif":
        write_bytes(path, as_gif(frames))
        return
    try:
        codecs = importlib.import_module("av")
    except ImportError as error:
        raise ComponentError(
            f"{path}: MP4s need PyAV, which is not installed: pip install 'rewardft[video]'. Or "
            "name a .gif."
        ) from error
    save_mp4(path, frames.clamp(0, 1).cpu(), 1 / SECONDS, codecs)


def save_turntable(run: Run, step: int) -> Path:
    """`samples/turntable-STEP.gif`: the first scenes of a run as they are now."""
    model: Any = run.model
    device = next(model.trainable.parameters()).device
    scenes = torch.arange(min(SHOWN, model.scenes), device=device)
    path = run.folder / "samples" / f"turntable-{step:08d}.gif"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, as_gif(turn(model, scenes)))
    return path


def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    """The newest turntable of each variant's first run that has one."""
    figures = []
    for variant in record.variants:
        found = [path for run in variant.runs if (path := newest(folder / run.folder))]
        if found:
            figures.append(figure(variant.name, found[0].read_bytes()))
    if not figures:
        return []
    text = "<p>The first scenes of each variant's first run, after training, from all around.</p>"
    return [Section(title="Turntables", html=text + "".join(figures), plugin="ddpo3d")]


def newest(run: Path) -> Path | None:
    """The turntable of a run's last evaluation."""
    found = sorted((run / "samples").glob("turntable-*.gif"))
    return found[-1] if found else None


def figure(name: str, gif: bytes) -> str:
    """A turntable inside the page: a report is one file that can be passed on."""
    data = base64.b64encode(gif).decode()
    label = html.escape(name, quote=True)
    image = f'<img alt="turntable of {label}" style="max-width:100%" '
    return (
        f'<figure>{image}src="data:image/gif;base64,{data}">'
        f"<figcaption>{label}</figcaption></figure>"
    )
