"""The HTML of DrPose's report section: static, without scripts, pictures inside as data URIs."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rewardft_plugins.humans.body import JOINTS, PARENTS
from rewardft_plugins.humans.camera import MIRRORED, VIEWS

Floats = NDArray[np.floating[Any]]

OVERLAYS = 3  # samples that are drawn
DRAWN = (0, 2, 3)  # front, right and back: more would be too small on a phone
TRUE, FOUND = "#0b5fa5", "#c2410c"  # blue and orange, told apart by dashes as well


@dataclass(frozen=True)
class Shown:
    """A variant's run, see `report.Looked` and `report.Poses`."""

    name: str
    seed: int
    ids: Sequence[str]
    truth: Any
    base: Any
    tuned: Any


def section_html(shown: Sequence[Shown]) -> str:
    """Introduction, a row of overlays for each sample, and the table of joint errors."""
    seeds = ", ".join(f"{s.name} {s.seed}" for s in shown)
    introduction = (
        f"<p>What the judge reads off the generated normals of {len(shown[0].ids)} held-out "
        "acrobatic samples, base and tuned with the same noise. Runs (seed): "
        f"{html.escape(seeds)}. The judge is a network with errors of its own: read differences. "
        "So few samples show what changed; the intervals are in the tables of the report.</p>"
    )
    return introduction + overlays_html(shown) + table_html(shown)


# -- overlays --------------------------------------------------------------------------------------


def overlays_html(shown: Sequence[Shown]) -> str:
    legend = (
        "<p>Front, right and back view. "
        f'<span style="border-bottom:2px solid {TRUE}">Solid blue</span>: the true skeleton. '
        f'<span style="border-bottom:2px dashed {FOUND}">Dashed orange</span>: what the judge '
        "finds. The number is the mean error of the joints in mm, pelvis to pelvis.</p>"
    )
    return (
        "<h3>Skeletons</h3>"
        + legend
        + "".join(sample_html(shown, row) for row in range(drawn(shown)))
    )


def drawn(shown: Sequence[Shown]) -> int:
    return min(OVERLAYS, *(len(s.ids) for s in shown))


def sample_html(shown: Sequence[Shown], row: int) -> str:
    """One held-out sample: the base of the first variant, then every variant."""
    first = shown[0]
    cells = [cell_html("base", first.truth, first.base, row)]
    for s in shown[1:]:
        # Another sampler, or another base
        # Bases are compared by what they generate.
        if not np.array_equal(s.base.normals, first.base.normals):
            cells.append(cell_html(f"base of {s.name}", s.truth, s.base, row))
    cells += [cell_html(s.name, s.truth, s.tuned, row) for s in shown]
    style = "display:flex;flex-wrap:wrap;gap:0.75rem;margin:0.5rem 0 1.5rem"
    return f'<h4>{html.escape(first.ids[row])}</h4><div style="{style}">{"".join(cells)}</div>'


def cell_html(name: str, truth: Any, poses: Any, row: int) -> str:
    error = joint_errors(truth, poses)[row].mean()
    label = (
        f"{name}: true and found skeleton in front, right and back view, mean error {error:.0f} mm"
    )
    picture = overlay_svg(poses.normals[row], truth.places[row], poses.places[row], label)
    caption = f"<figcaption>{html.escape(name)}, {error:.0f} mm</figcaption>"
    return f'<figure style="margin:0;flex:0 1 18rem;min-width:0">{picture}{caption}</figure>'


def overlay_svg(normals: NDArray[np.uint8], truth: Floats, found: Floats, label: str) -> str:
    """Views `(6, 3, s, s)` with skeletons `(6, 23, 2)`, both as stored: side by side, turned as a
    viewer expects."""
    size = normals.shape[-1]
    parts = []
    for column, view in enumerate(DRAWN):
        # Picture and skeleton are turned back together.
        sign = -1.0 if MIRRORED[view] else 1.0
        picture = normals[view][..., ::-1] if MIRRORED[view] else normals[view]
        parts.append(
            f'<g transform="translate({column * size} 0)"><title>{VIEWS[view]}</title>'
            f'<image href="{png_uri(picture)}" width="{size}" height="{size}" '
            'style="image-rendering:pixelated"/>'
            f"{skeleton_path(truth[view] * (sign, 1.0), size, TRUE, '')}"
            f"{skeleton_path(found[view] * (sign, 1.0), size, FOUND, '1.6 1.1')}</g>"
        )
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" '
        f'viewBox="0 0 {size * len(DRAWN)} {size}" '
        f'style="width:100%;height:auto;display:block;background:#fff">{"".join(parts)}</svg>'
    )


def skeleton_path(places: Floats, size: int, colour: str, dashes: str) -> str:
    """Bones from each joint to its parent; places `(23, 2)` in [-1, 1]."""
    at = (places + 1) / 2 * size
    bones = [
        f"M{at[joint, 0]:.1f} {at[joint, 1]:.1f}L{at[parent, 0]:.1f} {at[parent, 1]:.1f}"
        for joint, parent in enumerate(PARENTS)
        if parent >= 0
    ]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{"".join(bones)}" fill="none" stroke="{colour}" stroke-width="0.9"{dashed}/>'


def png_uri(picture: NDArray[np.uint8]) -> str:
    """`(3, h, w)` -> a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0))).save(
        buffer, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


# -- joint errors ----------------------------------------------------------------------------------


def joint_errors(truth: Any, poses: Any) -> Floats:
    """Distance of each joint in millimetres, pelvis to pelvis: `(n, 23)`."""
    # (n, 23, 3) metres.
    difference = (poses.joints - poses.joints[:, :1]) - (truth.joints - truth.joints[:, :1])
    distance: Floats = 1000 * np.linalg.norm(difference, axis=-1)
    return distance


def limbs() -> dict[str, list[int]]:
    """Joints by name, left and right together; without the pelvis, which everything is measured
    from."""
    rows: dict[str, list[int]] = {}
    for index, joint in enumerate(JOINTS[1:], 1):
        rows.setdefault(joint.removeprefix("left_").removeprefix("right_"), []).append(index)
    return rows


def table_html(shown: Sequence[Shown]) -> str:
    """A row for each joint, a column for each variant: base, tuned and their difference in mm."""
    errors = [
        (joint_errors(s.truth, s.base).mean(0), joint_errors(s.truth, s.tuned).mean(0))
        for s in shown
    ]
    head = "".join(f'<th scope="col">{html.escape(s.name)}</th>' for s in shown)
    rows = [
        row_html(name, [(base[joints].mean(), tuned[joints].mean()) for base, tuned in errors])
        for name, joints in limbs().items()
    ]
    rows.append(row_html("mean of all 23", [(base.mean(), tuned.mean()) for base, tuned in errors]))
    # Scrolls by itself: a table of many variants would widen the page.
    count = len(shown[0].ids)
    return (
        '<h3>Error of each joint</h3><div style="overflow-x:auto" tabindex="0" role="region" '
        'aria-label="Error of each joint by variant"><table><caption>Millimetres: base, tuned, '
        f"difference; mean over {count} held-out acrobatic samples; left and right together. "
        "Lower is better.</caption><thead><tr><th "
        f'scope="col">joint</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def row_html(name: str, pairs: Iterable[tuple[float, float]]) -> str:
    cells = "".join(
        f"<td>{base:.0f} → {tuned:.0f} ({tuned - base:+.0f})</td>" for base, tuned in pairs
    )
    return f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th>{cells}</tr>'
