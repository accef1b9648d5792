"""What a trained adapter is worth at other strengths: reward against divergence and diversity, and
the knee.

The knee is the point of the rising part of the curve, from the base to the highest reward, that
lies farthest above the chord between its ends, both axes scaled to [0, 1] (Satopaa, Albrecht, Irwin
& Raghavan 2011, "Finding a 'Kneedle' in a Haystack"; without their smoothing, for there are few
points). Beyond it, divergence buys less reward than on average.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rewardft.engine.session import run_evaluation
from rewardft.errors import ComponentError
from rewardft.evaluation.alarms import DIVERSITY
from rewardft.evaluation.evaluate import Evaluation, compare
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode
from rewardft.files.surroundings import put_back
from rewardft.recipe.recipe import Recipe
from rewardft.runs.open import load_trained, open_run

LEAST_HEIGHT = 0.05  # above the chord, in units of the axes; less is a straight line with noise


@put_back()
def evaluate_scales(
    folder: Path, scales: Sequence[float], samples: int | None = None, overrides: Sequence[str] = ()
) -> dict[str, Any]:
    """Evaluate each strength on the same held-out samples and noise; written to
    `adapter_scales.json`.

    Args:
        scales: 1 is as trained; 0, the base model, is always among them. Each is evaluated once, in
            rising order.
        samples, overrides: as for `rewardft.runs.open.evaluate_run`.

    Returns:
        {"step": of the weights, "samples": how many there were, "kl": name of the divergence,
        "points": a dictionary for each scale (`scale`, `reward`, `kl`, `means` by name,
        `versus_base` as rows of `rewardft.evaluation.evaluate.Paired`), "knee": its scale or None,
        "verdict": a sentence}.

    Raises ComponentError for a run that trained all weights, or for a strength below 0.
    """
    if not all(0 <= scale < math.inf for scale in scales):
        raise ComponentError(f"strengths are numbers of at least 0, got {list(scales)}")
    # Absolute: a component may change the current folder before the file is written.
    folder = folder.absolute()
    # Whatever the recipe says: the divergence is the axis that strengths are compared on.
    session = open_run(folder, [*overrides, "evaluate.kl=true"])
    # First, because full fine-tuning raises here, before minutes of evaluation.
    session.adapter.scale(0.0)
    step = load_trained(session, folder)
    count = samples or session.recipe.evaluate.samples
    found: list[tuple[float, Evaluation]] = []
    # In order, base first: `find_knee` reads the points as a curve.
    for scale in sorted({0.0, *scales}):
        session.adapter.scale(scale)
        found.append((scale, run_evaluation(session, count)))
    points = [point(session.recipe, scale, result, found[0][1]) for scale, result in found]
    place, verdict = find_knee(points)
    name = next(name for name in found[0][1].per_sample if name.startswith("kl/"))
    result = {
        "step": step,
        "samples": len(found[0][1].ids),
        "kl": name,
        "points": points,
        "knee": place,
        "verdict": verdict,
    }
    write_text(folder / "adapter_scales.json", encode(result, indent=1))
    return result


def point(recipe: Recipe, scale: float, result: Evaluation, base: Evaluation) -> dict[str, Any]:
    """One strength: the weighted total of the rewards, the divergence, all means, and the
    differences from the base."""
    means = result.means()
    # Algorithms that learn from labelled pairs train for no reward; held-out ones stand in.
    rewards = [r for r in recipe.rewards if r.weight != 0] or recipe.evaluate.rewards
    total = sum(r.weight * means[f"reward/{r.name}"] for r in rewards) if rewards else math.nan
    kl = next(means[name] for name in result.per_sample if name.startswith("kl/"))
    rows = [{**asdict(row), "separable": row.separable} for row in compare(base, result)]
    return {"scale": scale, "reward": total, "kl": kl, "means": means, "versus_base": rows}


def find_knee(points: Sequence[dict[str, Any]]) -> tuple[float | None, str]:
    """(scale, sentence): the knee of reward over divergence among points in the order of their
    scales, base first."""
    rewards, kls = [p["reward"] for p in points], [p["kl"] for p in points]
    if any(map(math.isnan, rewards)):
        return None, "no knee: the recipe has no reward that applies to these samples"
    # Behind the highest reward the curve falls, and the chord would mean nothing.
    top = max(range(len(points)), key=lambda i: rewards[i])
    gain, cost = rewards[top] - rewards[0], kls[top] - kls[0]
    if gain <= 0 or cost <= 0:
        return None, "no knee: no scale has a higher reward than the base"
    if top == 1:
        highest = f"{points[top]['scale']:g}, which has the highest reward"
        return None, f"no knee: no scale lies between the base and {highest}"
    # Both axes scaled to [0, 1] between the base and the highest reward.
    shares = [((kls[i] - kls[0]) / cost, (rewards[i] - rewards[0]) / gain) for i in range(1, top)]
    best = max(range(len(shares)), key=lambda i: shares[i][1] - shares[i][0])
    spent, earned = shares[best]
    if earned - spent < LEAST_HEIGHT:
        return None, (
            f"no knee: up to scale {points[top]['scale']:g}, which has the highest reward, the "
            "reward does not rise faster than the divergence at first"
        )
    scale = points[best + 1]["scale"]
    return scale, (
        f"knee at scale {scale:g}: {earned:.0%} of the highest gain in reward (scale "
        f"{points[top]['scale']:g}) for {spent:.0%} of its divergence"
    )


def columns(points: Sequence[Mapping[str, Any]], kl: str) -> list[str]:
    """The means that show the trade-off: rewards, the divergence and diversity."""
    names = list(points[0]["means"])
    return [
        *(n for n in names if n.startswith("reward/")),
        kl,
        *(n for n in names if n.startswith(DIVERSITY)),
    ]
