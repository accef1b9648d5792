"""Meshes in a web page that needs no network. They can be turned, all of a row together."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.camera import HALF_EXTENT
from rewardft_plugins.humans.mesh import CLAY, Mesh

Row = tuple[str, Sequence[tuple[str, Mesh]]]
"""A heading, and meshes with a caption each."""

_SIZE = 280  # pixels of a canvas
_STEPS = 32767


def rows_html(rows: Sequence[Row]) -> str:
    """Rows of meshes, with the script that shows them: a fragment for a page or a report."""
    # Inside the page, so that a report works without a network.
    script = (files("rewardft_plugins.humans") / "viewer.js").read_text(encoding="utf-8")
    start = (
        'document.querySelectorAll(".mesh-row:not(.shown)").forEach((row) => '
        '{ row.classList.add("shown"); MeshView.show(row); });'
    )
    body = "".join(_row_html(heading, meshes) for heading, meshes in rows)
    return (
        "<p>Drag to turn a row, or use the arrow keys on a picture.</p>"
        f"{body}<script>(() => {{\n{script}\n{start}\n}})();</script>"
    )


def page_html(title: str, rows: Sequence[Row]) -> str:
    """A page of its own."""
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>body{{font:1rem/1.5 system-ui,sans-serif;"
        "max-width:70rem;margin:2rem auto;padding:0 1rem}</style>"
        f"<h1>{html.escape(title)}</h1>{rows_html(rows)}</html>\n"
    )


def encode(mesh: Mesh) -> dict[str, Any]:
    """Positions in steps of 1/32767 of the extent, colours as bytes: what viewer.js decodes."""
    # One scale for all meshes of usual size, so that bodies beside each other compare.
    extent = max(HALF_EXTENT, float(np.abs(mesh.vertices).max()))
    colours = mesh.colours
    if colours is None:
        colours = np.broadcast_to(np.asarray(CLAY, np.float32), mesh.vertices.shape)
    return {
        "extent": extent,
        # Little-endian, as the typed arrays of every browser.
        "vertices": _text((mesh.vertices / extent * _STEPS).round().astype("<i2")),
        "colours": _text((255 * colours.clip(0, 1) + 0.5).astype(np.uint8)),
        "faces": _text(mesh.faces.astype("<u4")),
    }


def _row_html(heading: str, meshes: Sequence[tuple[str, Mesh]]) -> str:
    figures = "".join(_figure_html(heading, caption) for caption, _ in meshes)
    data = json.dumps([encode(mesh) for _, mesh in meshes])
    style = "display:flex;flex-wrap:wrap;gap:0.75rem;margin:0.5rem 0 1.5rem"
    return (
        f'<h4>{html.escape(heading)}</h4><div class="mesh-row" style="{style}">{figures}'
        f'<script type="application/json">{data}</script></div>'
    )


def _figure_html(heading: str, caption: str) -> str:
    label = html.escape(f"{heading}, {caption}: a mesh; arrow keys turn it", quote=True)
    return (
        f'<figure style="margin:0"><canvas width="{_SIZE}" height="{_SIZE}" tabindex="0" '
        f'role="img" aria-label="{label}" style="background:#fff;border:1px solid #ccc;'
        'max-width:100%;touch-action:none;cursor:grab"></canvas>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
