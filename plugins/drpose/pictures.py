"""Pictures of multi-view samples: contact sheets, and before / after / truth side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from rewardft_plugins.drpose.model.sampler import split_domains
from torch import Tensor

from rewardft.files.atomic import make_folder, replacing

if TYPE_CHECKING:
    from rewardft import Rollout

MIRRORED = (3, 4)  # back and left are stored flipped


def unmirror(views: Tensor) -> Tensor:
    """`(..., 6, 3, s, s)` as stored -> as a viewer expects them."""
    # The caller's pictures stay as they are stored.
    views = views.clone()
    for view in MIRRORED:
        views[..., view, :, :, :] = views[..., view, :, :, :].flip(-1)
    return views


def strip(views: Tensor) -> Tensor:
    """`(v, 3, s, s)` -> `(3, s, v s)`."""
    return torch.cat(list(views), dim=-1)


def save_samples(path: Path, rollout: Rollout, count: int = 4) -> None:
    """Normals and colours of up to `count` samples, two strips each."""
    pixels = rollout.decoded[:count].detach().float().cpu()
    rows = [
        strip(unmirror(domain[i])) for i in range(len(pixels)) for domain in split_domains(pixels)
    ]
    save_png(path, torch.cat(rows, dim=-2))


def save_comparison(
    path: Path,
    condition: Tensor,
    rows: Sequence[tuple[str, Tensor]],
    scale: int,
    label_width: int,
) -> None:
    """One block per sample: the condition image, then a labelled strip of six normal views for each
    of `rows`.

    Args:
        condition: `(n, 3, s, s)` in [0, 1].
        rows: (label, normals `(n, 6, 3, s, s)` in [0, 1], as stored), e.g. before, after, truth.
    """
    blocks = []
    side = condition.shape[-1]
    for i in range(len(condition)):
        for j, (label, views) in enumerate(rows):
            # Beside the middle row, as it belongs to all of them.
            left = condition[i] if j == len(rows) // 2 else torch.ones_like(condition[i])
            blocks.append(
                torch.cat(
                    [caption(label, label_width, side), left, strip(unmirror(views[i]))], dim=-1
                )
            )
        blocks.append(torch.ones(3, side // 8, blocks[0].shape[-1]))
    save_png(path, torch.cat(blocks[:-1], dim=-2), scale)


def save_showcase(
    path: Path,
    pictures: Tensor,
    groups: Sequence[tuple[str, Tensor]],
) -> None:
    """A picture for newcomers: a row per person, the given picture, then each group under its
    title.

    Args:
        pictures: `(n, 3, s, s)` in [0, 1], what the model is given.
        groups: (title, pictures `(n, k, 3, s, s)` in [0, 1]), e.g. before, after, truth; drawn as
            they come, so that the caller turns mirrored views back.
    """
    scale, title_height = 2, 26
    side = pictures.shape[-1]
    columns = [("given", pictures[:, None]), *groups]
    rule = torch.full((3, len(pictures) * side, 2), 0.75)
    blocks = [torch.cat([strip(views) for views in column], dim=-2) for _, column in columns]
    body = blocks[0]
    for block in blocks[1:]:
        body = torch.cat([body, rule, block], dim=-1)
    titles = Image.new("RGB", (scale * body.shape[-1], title_height), "white")
    draw = ImageDraw.Draw(titles)
    left = 0
    for (title, _), block in zip(columns, blocks):
        draw.text((left + 6, 5), title, fill=(30, 30, 30), font=ImageFont.load_default(size=15))
        left += scale * (block.shape[-1] + rule.shape[-1])
    # Smoothed for readers; sheets of samples keep their pixels, as they may be read again.
    smooth = to_picture(body).resize(
        (scale * body.shape[-1], scale * body.shape[-2]), Image.Resampling.BICUBIC
    )
    sheet = Image.new("RGB", (smooth.width, title_height + smooth.height), "white")
    sheet.paste(titles, (0, 0))
    sheet.paste(smooth, (0, title_height))
    write_picture(path, sheet)


def caption(text: str, width: int, height: int) -> Tensor:
    """`(3, height, width)`: dark text on white."""
    image = Image.new("RGB", (width, height), "white")
    # In the middle of the row, as a strip is as high as a view.
    ImageDraw.Draw(image).text((4, height // 2 - 5), text, fill=(40, 40, 40))
    return (
        torch.tensor(list(image.tobytes()), dtype=torch.uint8)
        .view(height, width, 3)
        .permute(2, 0, 1)
        / 255
    )


def save_png(path: Path, image: Tensor, scale: int = 2) -> None:
    """`(3, h, w)` in [0, 1] -> a PNG, enlarged without smoothing."""
    picture = to_picture(image)
    size = (picture.width * scale, picture.height * scale)
    write_picture(path, picture.resize(size, Image.Resampling.NEAREST))


def to_picture(image: Tensor) -> Image.Image:
    """`(3, h, w)` in [0, 1], clamped -> a picture of 8 bits."""
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG, complete or not at all."""
    make_folder(path.parent)
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")
