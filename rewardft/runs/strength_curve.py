"""The figure of `rewardft evaluate --adapter-scale`: what more reward costs in divergence and in
diversity."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.evaluation.alarms import DIVERSITY
from rewardft.files.atomic import write_text


def draw_strengths(result: Mapping[str, Any], path: Path) -> Path | None:
    """Write one HTML file that needs no network; None where plotly is not installed.

    Args:
        result: of `rewardft.runs.strengths.evaluate_scales`.
    """
    if importlib.util.find_spec("plotly") is None:
        return None
    from plotly.subplots import make_subplots

    points = result["points"]
    # The costs: what more reward is paid for with.
    across = [result["kl"], *(name for name in points[0]["means"] if name.startswith(DIVERSITY))]
    figure = make_subplots(rows=1, cols=len(across), shared_yaxes=True, horizontal_spacing=0.04)
    for column, name in enumerate(across, start=1):
        figure.add_trace(curve(points, name, result["knee"]), row=1, col=column)
        figure.update_xaxes(title_text=name, row=1, col=column)
    figure.update_yaxes(title_text="reward, change from the base", row=1, col=1)
    figure.update_layout(
        title_text=f"Adapter strengths at step {result['step']}, "
        f"{result['samples']} held-out samples<br><sub>{result['verdict']}<br>"
        "Numbers are strengths, a star is the knee; bars are 95 % intervals.</sub>",
        showlegend=False,
        template="plotly_white",
        margin={"t": 120},
    )
    # The library goes into the file, which then opens anywhere.
    write_text(path, figure.to_html(include_plotlyjs=True, full_html=True))
    return path


def curve(points: Sequence[Mapping[str, Any]], name: str, knee: float | None) -> Any:
    """Gain in reward over one of the means, strengths in order, the knee as a star."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=[point["means"][name] for point in points],
        y=[point["reward"] - points[0]["reward"] for point in points],
        text=[f"{point['scale']:g}" for point in points],
        mode="lines+markers+text",
        textposition="top left",
        error_y={"array": [half_width(point) for point in points], "thickness": 1},
        line={"color": "#1f5fa8"},
        marker={
            "symbol": ["star" if point["scale"] == knee else "circle" for point in points],
            "size": [16 if point["scale"] == knee else 8 for point in points],
        },
        hovertemplate="strength %{text}<br>reward %{y:+.4g}<br>"
        f"{name} %{{x:.4g}}<extra></extra>",
    )


def half_width(point: Mapping[str, Any]) -> float | None:
    """Of the 95 % interval of the change from the base, where the total is one reward;
    None for a sum of several."""
    # For a sum of rewards the interval would need their covariance, which is not kept.
    rows = [row for row in point["versus_base"] if row["name"].startswith("reward/")]
    if len(rows) != 1 or not rows[0]["difference"]:
        return None
    # total = weight * value, so the interval is scaled by the weight.
    return float(abs(rows[0]["half_width"] * (point["reward"] / rows[0]["after"])))
