"""DrPose: direct reward fine-tuning of multi-view human diffusion on poses (arXiv 2603.02619), in
miniature and full.

Registers the models `multiview_unet` and `multiview_compact`, the sampler `multiview_ddim`, the
reward `pose_score` and its other forms `crisp_pose`, `joint_regression` and `silhouette_score`,
`crisp_normals` against blur, the data set `drpose15k`, the metrics `pose_judge`, `mesh_judge` and
`blazepose`, and the commands under `rewardft drpose`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from rewardft import Recipe, Rollout, Run
    from rewardft.contracts.records import ComparisonRecord, Section

requires = ("humans",)  # bodies, motion, cameras and rendering

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.drpose.model.multiview import MultiviewUNet
    from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact

    return {"multiview_unet": MultiviewUNet, "multiview_compact": MultiviewCompact}


@hookimpl
def register_samplers() -> Factories:
    from rewardft_plugins.drpose.model.sampler import MultiviewDDIM

    return {"multiview_ddim": MultiviewDDIM}


@hookimpl
def register_datasets() -> Factories:
    from rewardft_plugins.drpose.data.dataset import Drpose15k

    return {"drpose15k": Drpose15k}


@hookimpl
def register_rewards() -> Factories:
    from rewardft_plugins.drpose.rewards.crisp_normals import CrispNormals
    from rewardft_plugins.drpose.rewards.crisp_pose import CrispPose
    from rewardft_plugins.drpose.rewards.forms import JointRegression, SilhouetteScore
    from rewardft_plugins.drpose.rewards.pose_score import PoseScore

    return {
        "pose_score": PoseScore,
        "crisp_pose": CrispPose,
        "crisp_normals": CrispNormals,
        "joint_regression": JointRegression,
        "silhouette_score": SilhouetteScore,
    }


@hookimpl
def register_metrics() -> Factories:
    from rewardft_plugins.drpose.judges.blazepose import BlazePoseJudge
    from rewardft_plugins.drpose.judges.pose_judge import PoseJudge
    from rewardft_plugins.drpose.mesh.mesh_judge import MeshJudge

    return {"pose_judge": PoseJudge, "mesh_judge": MeshJudge, "blazepose": BlazePoseJudge}


@hookimpl
def register_commands() -> Factories:
    from rewardft_plugins.drpose.commands.app import app

    return {"drpose": app}


@hookimpl
def check_recipe(recipe: Recipe) -> Iterable[str]:
    """The judge compares with the rendered truth, so evaluation needs targets; only this plugin
    knows that."""
    judged = any(metric.use.casefold() == "pose_judge" for metric in recipe.evaluate.metrics)
    # `evaluate.data` overrides `data` key by key.
    targets = {**recipe.data.options, **recipe.evaluate.data}.get("targets", False)
    if judged and not targets:
        yield (
            "evaluate.metrics: pose_judge compares with the rendered views; add `targets: true` to "
            "evaluate.data"
        )


@hookimpl
def on_evaluation_end(run: Run, step: int, rollout: Rollout | None) -> None:
    """Save pictures of the last evaluated samples, so that the figures can be checked by eye."""
    from rewardft_plugins.drpose.pictures import save_samples

    if run.is_main and rollout is not None:
        save_samples(run.folder / "samples" / f"step-{step:08d}.png", rollout)


@hookimpl
def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    from rewardft_plugins.drpose.report.meshes import mesh_sections
    from rewardft_plugins.drpose.report.sections import report_sections as sections

    return [*sections(record, folder), *mesh_sections(record, folder)]
