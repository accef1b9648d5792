"""DrPose's part of a comparison report: skeletons over held-out views, and the error of each joint
by variant.

Everything comes from the judge, which shares nothing with the rewards, on a few held-out acrobatic
samples of each variant's first finished run, base and tuned with the same noise. The results are
kept in the run's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from rewardft_plugins.drpose.data.acrobatic import acrobatic_batch
from rewardft_plugins.drpose.judges.pose_judge import JudgeNet
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.drpose.report.damage import damage_told
from rewardft_plugins.drpose.report.html import Shown, section_html
from rewardft_plugins.drpose.weights import SHIPPED, freeze, locate
from torch import Tensor

from rewardft.runs.open import load_trained, open_run, step_of_trained
from rewardft.types import Plan

if TYPE_CHECKING:
    from rewardft.contracts.records import ComparisonRecord, RunRecord, Section
    from rewardft.types import Batch

SAMPLES = 16  # whose joint errors are averaged
CACHE = "pose_report.npz"
MODELS = frozenset({"multiview_unet", "multiview_compact"})


@dataclass(frozen=True)
class Poses:
    """What the judge finds in n samples of one model.

    joints: `(n, 23, 3)` metres.
    places: `(n, 6, 23, 2)` in the stored views, [-1, 1].
    normals: `(n, 6, 3, s, s)` uint8.
    """

    joints: NDArray[np.float32]
    places: NDArray[np.float32]
    normals: NDArray[np.uint8]


@dataclass(frozen=True)
class Looked:
    """Base and tuned samples of a run beside the truth (its normals are left out). ids: of the
    samples."""

    ids: list[str]
    truth: Poses
    base: Poses
    tuned: Poses


def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    """A section about the variants that have a finished run of the miniature multi-view model, if
    there are any.

    Variants that were evaluated on other samples have a section of their own.
    """
    from rewardft.contracts.records import Section

    alike: dict[tuple[str, ...], list[Shown]] = {}
    for variant in record.variants:
        run = next((run for run in variant.runs if has_poses(run, folder)), None)
        if run is not None:
            shown = Shown(variant.name, run.seed, **vars(look(folder / run.folder)))
            # Errors compare only over the same samples.
            alike.setdefault(tuple(shown.ids), []).append(shown)
    return [
        Section(title="Poses", html=section_html(group), plugin="drpose")
        for group in alike.values()
    ]


def has_poses(run: RunRecord, folder: Path) -> bool:
    """Whether the run finished and trained a miniature multi-view model."""
    from rewardft import load_recipe

    path = folder / run.folder / "recipe.yaml"
    if not run.has_ended or not path.is_file():
        return False
    # At full size sampling for a report would take hours.
    model = load_recipe(path).model
    return model.use.casefold() in MODELS and model.options.get("size", "mini") == "mini"


def look(folder: Path, count: int = SAMPLES) -> Looked:
    """Sample `count` held-out acrobatic poses from base and tuned model, or read what was found
    before."""
    session = open_run(folder)
    settings = json.dumps(
        [session.evaluation_settings(count), step_of_trained(folder / "adapter")], sort_keys=True
    )
    path = folder / CACHE
    # A report may be written again and again; sampling takes most of its time.
    if (known := read_cache(path, settings)) is not None:
        return known
    judge = JudgeNet.load(locate(judge_weights(session), "judge"))
    freeze(judge)
    batch = acrobatic_batch(session.resolved.eval_dataset.build(), count)
    ctx = session.evaluation_context()
    # Before the trained weights are loaded, on the same batch and so on the same noise.
    base = judged(judge, ctx, batch)
    load_trained(session, folder)
    truth = Poses(batch["joints"].numpy(), batch["joints2d"].numpy(), np.zeros((0,), np.uint8))
    looked = Looked(list(batch.ids), truth, base, judged(judge, ctx, batch))
    write_cache(path, settings, looked)
    return looked


def judge_weights(session: Any) -> str:
    """The weights that the recipe's own judge uses, or the shipped ones."""
    metrics = session.recipe.evaluate.metrics
    return next(
        (m.options.get("weights", SHIPPED) for m in metrics if m.use.casefold() == "pose_judge"),
        SHIPPED,
    )


@torch.no_grad()
def judged(judge: JudgeNet, ctx: Any, batch: Batch) -> Poses:
    """Sample a batch with the whole chain and judge its normals, on the judge's device."""
    rollout = ctx.rollout(batch.to(ctx.device), Plan(stop=ctx.sampler.steps))
    normals: Tensor = split_domains(rollout.decoded)[0].float().cpu()
    joints, places, _ = judge(normals)
    return Poses(joints.numpy(), places.numpy(), (normals * 255).round().byte().numpy())


def write_cache(path: Path, settings: str, looked: Looked) -> None:
    # Flat names, as an archive holds arrays and no dataclasses.
    parts = {
        f"{name}_{field}": value
        for name in ("truth", "base", "tuned")
        for field, value in vars(getattr(looked, name)).items()
    }
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, settings=np.array(settings), ids=np.array(looked.ids), **parts)
    # Renamed when whole: half an archive would break the next report.
    temporary.replace(path)


def read_cache(path: Path, settings: str) -> Looked | None:
    """What `write_cache` wrote for these settings; None when there is none or it was made in
    another way."""
    if not path.is_file():
        return None
    with damage_told(path), np.load(path, allow_pickle=False) as data:
        if str(data["settings"]) != settings:
            return None
        names = ("joints", "places", "normals")
        poses = {
            who: Poses(*(data[f"{who}_{name}"] for name in names))
            for who in ("truth", "base", "tuned")
        }
        return Looked([str(i) for i in data["ids"]], **poses)
