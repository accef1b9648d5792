"""DDPO3D: rewards on 3D scenes under a frozen diffusion model (RL Dreams, 2312.04806).

What is trained is a table of scenes of 3D Gaussians, or of voxels; the diffusion model, any of the
framework's, says what pictures of them should look like.

Registers the models `gaussian_scene` and `voxel_scene`, the sampler `scene_render`, the algorithms
`sds`, `vsd`, `ddpo3d`, `dreamdpo` and `reward_gradient_3d`, the data sets `ambigrams`,
`scene_prompts` and `scenes_of`, the metric `body_silhouettes`, and the commands under `rewardft
ddpo3d`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    from rewardft import Recipe, Run
    from rewardft.contracts.records import ComparisonRecord, Section

requires = ("humans",)  # outlines of bodies

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.ddpo3d.model import GaussianScene
    from rewardft_plugins.ddpo3d.voxels import VoxelScene

    return {"gaussian_scene": GaussianScene, "voxel_scene": VoxelScene}


@hookimpl
def register_samplers() -> Factories:
    from rewardft_plugins.ddpo3d.render import Render

    return {"scene_render": Render}


@hookimpl
def register_algorithms() -> Factories:
    from rewardft_plugins.ddpo3d.ddpo3d import DDPO3D
    from rewardft_plugins.ddpo3d.dreamdpo import DreamDPO
    from rewardft_plugins.ddpo3d.reward_gradient_3d import RewardGradient3D
    from rewardft_plugins.ddpo3d.sds import SDS
    from rewardft_plugins.ddpo3d.vsd import VSD

    return {
        "sds": SDS,
        "vsd": VSD,
        "ddpo3d": DDPO3D,
        "dreamdpo": DreamDPO,
        "reward_gradient_3d": RewardGradient3D,
    }


@hookimpl
def register_datasets() -> Factories:
    from rewardft_plugins.ddpo3d.data import Ambigrams, ScenePrompts, ScenesOf

    return {"ambigrams": Ambigrams, "scene_prompts": ScenePrompts, "scenes_of": ScenesOf}


@hookimpl
def register_metrics() -> Factories:
    # A factory and not the class: the bodies that it draws need an extra.
    return {"body_silhouettes": body_silhouettes}


def body_silhouettes(body: str | None = None) -> Any:
    """Metric: intersection over union of a scene's outline and the true body's.

    Args:
        body: as `humans.load_body` takes it; null: the data sets' own.
    """
    from rewardft_plugins.ddpo3d.silhouettes import BodySilhouettes

    return BodySilhouettes(body)


@hookimpl
def register_commands() -> Factories:
    from rewardft_plugins.ddpo3d.commands import app

    return {"ddpo3d": app}


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    """A table of scenes has no layers that a low-rank adapter could be put into; the prior has,
    and `vsd` alone trains one."""
    name = recipe.model.use.casefold()
    if name not in ("gaussian_scene", "voxel_scene"):
        return
    if recipe.adapter.kind != "full":
        yield (
            f"{recipe.where('adapter', 'kind')}: {name} is trained as a whole; write `adapter: "
            "{kind: full}`."
        )
    uses = recipe.algorithm.use.casefold() == "vsd"
    has = bool(recipe.model.options.get("lora_rank"))
    if uses and not has:
        yield (
            f"{recipe.where('algorithm', 'use')}: vsd trains an adapter of the prior; write "
            "`model: {lora_rank: 4}`, or another rank."
        )
    if has and not uses:
        yield (
            f"{recipe.where('model', 'lora_rank')}: only the algorithm vsd trains an adapter of "
            "the prior; leave `lora_rank` out."
        )


@hookimpl
def on_evaluation_end(run: Run, step: int) -> None:
    """Keep a turntable, so that the figures can be checked by eye."""
    from rewardft_plugins.ddpo3d.scene_model import Scenes
    from rewardft_plugins.ddpo3d.turntable import save_turntable

    if run.is_main and isinstance(run.model, Scenes):
        save_turntable(run, step)


@hookimpl
def report_sections(record: ComparisonRecord, folder: Path) -> list[Section]:
    from rewardft_plugins.ddpo3d.turntable import report_sections as sections

    return sections(record, folder)
