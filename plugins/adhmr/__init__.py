"""ADHMR (arXiv 2505.10250) in miniature: a diffusion model of human poses given a picture, aligned
with a learned scorer and preferences.

Registers the model `pose_diffusion`, the reward `hmr_scorer`, the data sets `pose_pictures`,
`annotated_pictures` and `pose_preferences`, the metric `hmr_errors`, and the commands under
`rewardft adhmr`. The algorithms are those of the plugin `dpo`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from rewardft import Run
    from rewardft.contracts.records import ComparisonRecord, Section

requires = ("humans",)  # bodies, cameras and rendering

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.adhmr.model import PoseDiffusion

    return {"pose_diffusion": PoseDiffusion}


@hookimpl
def register_rewards() -> Factories:
    from rewardft_plugins.adhmr.scorer import HMRScorer

    return {"hmr_scorer": HMRScorer}


@hookimpl
def register_datasets() -> Factories:
    from rewardft_plugins.adhmr.annotated import AnnotatedPictures
    from rewardft_plugins.adhmr.dataset import PosePictures
    from rewardft_plugins.adhmr.preferences import PosePreferences

    return {
        "pose_pictures": PosePictures,
        "pose_preferences": PosePreferences,
        "annotated_pictures": AnnotatedPictures,
    }


@hookimpl
def register_metrics() -> Factories:
    from rewardft_plugins.adhmr.metric import HMRErrors

    return {"hmr_errors": HMRErrors}


@hookimpl
def register_commands() -> Factories:
    from rewardft_plugins.adhmr.commands import app

    return {"adhmr": app}


@hookimpl
def on_evaluation_end(run: Run, step: int) -> None:
    """Draw hypotheses over pictures, so that the figures can be checked by eye."""
    from rewardft_plugins.adhmr.figure import save_figure
    from rewardft_plugins.adhmr.model import PoseDiffusion

    if run.is_main and isinstance(run.model, PoseDiffusion):
        save_figure(run, step)


@hookimpl
def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    from rewardft_plugins.adhmr.figure import report_sections as sections

    return sections(record, folder)
