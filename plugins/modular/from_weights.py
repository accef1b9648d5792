"""The model `modular`: what a recipe says, and the pipeline that is loaded for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from rewardft_plugins.modular.loading import Precision, Source, load_parts, open_pipeline
from rewardft_plugins.modular.model import Modular
from rewardft_plugins.modular.settings import Settings, blocks_for
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import Weights


class ModularFromWeights(Modular):
    """A pipeline of diffusers that has modular blocks, whatever its family.

    Args:
        weights: a folder in diffusers' layout, or a hub id; a folder of that name comes first.
        revision: commit, tag or branch on the hub; a commit pins the weights.
        variant: of the weight files, such as fp16.
        blocks: class of diffusers with the blocks, where the checkpoint's index names none.
        workflow: one of those that the blocks declare, such as image_conditioned; None: from texts.
        dtype: of all frozen networks but the autoencoder; adapters stay float32.
        vae_dtype: of the autoencoder; rewards differentiate through it.
        dtypes: of single components, by their names.
        guidance: scale; None takes the pipeline's own, 1 is the conditional prediction alone.
        guider: another guider of diffusers for the pipeline's own, `{use: CLASS, OPTION: ...}`.
        guidance_gradient: `outside` makes all passes but the conditional one constants.
        height, width, frames: of the samples; None takes the pipeline's own.
        frame_rate: of videos in run folders and reports, in frames per second.
        inputs: other inputs of the blocks, the same for all samples.
        negative_prompt: what guidance leads away from; None takes the pipeline's own.
        train: the denoisers that learn, where the loop has several; default: all.
        alone: one sample per call of the network.
        cache_mb: host memory for the embeddings of prompts and pictures.
        offload_encoders: keep encoders in host memory, but for conditions that are not in the
            cache.

    Raises:
        ComponentError: a part is missing or damaged, or a setting fits nothing in the pipeline.
    """

    def __init__(
        self,
        *,
        weights: Weights,
        revision: str | None = None,
        variant: str | None = None,
        blocks: str | None = None,
        workflow: str | None = None,
        dtype: Precision = "fp32",
        vae_dtype: Precision = "fp32",
        dtypes: dict[str, Precision] | None = None,
        guidance: Annotated[float, Ge(0)] | None = None,
        guider: dict[str, Any] | None = None,
        guidance_gradient: Literal["inside", "outside"] = "inside",
        height: Annotated[int, Ge(1)] | None = None,
        width: Annotated[int, Ge(1)] | None = None,
        frames: Annotated[int, Ge(1)] | None = None,
        frame_rate: Annotated[float, Ge(0.1)] = 16.0,
        inputs: dict[str, Any] | None = None,
        negative_prompt: str | None = None,
        train: list[str] | None = None,
        alone: bool = False,
        cache_mb: Annotated[int, Ge(0)] = 1024,
        offload_encoders: bool = False,
    ) -> None:
        settings = Settings(
            workflow=workflow,
            guidance=guidance,
            guider=guider,
            guidance_gradient=guidance_gradient,
            height=height,
            width=width,
            frames=frames,
            frame_rate=frame_rate,
            inputs=inputs or {},
            negative_prompt=negative_prompt,
            train=train or (),
            alone=alone,
            cache_mb=cache_mb,
            offload_encoders=offload_encoders,
        )
        # A name in `dtypes` wins, the autoencoder's too.
        parts = {"vae": vae_dtype, **(dtypes or {})}
        self.source = Source(weights, revision, variant, blocks, dtype, parts)
        super().__init__(load(self.source, settings), settings)

    def write_checkpoint(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """The base's checkpoint with `state` in place of the denoiser's weights.

        Raises ComponentError for several networks, and for a base that is not all in one folder.
        """
        from rewardft.runs.export import copy_checkpoint

        origin = Path(self.source.weights)
        if not (origin / "model_index.json").is_file() or self.pipeline_part is None:
            raise ComponentError(
                f"{self.source.place}: a whole checkpoint can be written of a base in one local "
                "folder with a model_index.json, of which one network is trained. Fetch it with "
                "huggingface_hub's `snapshot_download`, or write --to peft."
            )
        copy_checkpoint(origin, folder, self.pipeline_part, state, self.source.variant)


def load(source: Source, settings: Settings) -> Any:
    """A pipeline from a folder or the hub, with the parts that the workflow uses."""
    pipe = open_pipeline(source)
    load_parts(pipe, blocks_for(pipe, settings), source)
    return pipe
