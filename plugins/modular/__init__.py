"""Any family of diffusers' modular pipelines as one model: images, videos and edits.

Registers the model `modular`. There is no code per family: a pipeline is loaded (`loading.py`), its
blocks are run from outside (`blocks.py`), and `model.py` puts the contract of a diffusion model
around them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from rewardft import hookimpl
from rewardft.files.paths import Weights

if TYPE_CHECKING:
    from rewardft_plugins.modular.model import Modular

Precision = Literal["fp32", "bf16", "fp16"]


def modular(
    *,
    weights: Weights,
    revision: str | None = None,
    variant: str | None = None,
    blocks: str | None = None,
    workflow: str | None = None,
    dtype: Precision = "fp32",
    vae_dtype: Precision = "fp32",
    dtypes: dict[str, Precision] | None = None,
    guidance: float | None = None,
    guider: dict[str, Any] | None = None,
    guidance_gradient: Literal["inside", "outside"] = "inside",
    height: int | None = None,
    width: int | None = None,
    frames: int | None = None,
    frame_rate: float = 16.0,
    inputs: dict[str, Any] | None = None,
    negative_prompt: str | None = None,
    train: list[str] | None = None,
    alone: bool = False,
    cache_mb: int = 1024,
    offload_encoders: bool = False,
) -> Modular:
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
    from rewardft_plugins.modular.loading import Source
    from rewardft_plugins.modular.model import Modular
    from rewardft_plugins.modular.settings import Settings

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
    parts = {"vae": vae_dtype, **(dtypes or {})}
    return Modular.load(Source(weights, revision, variant, blocks, dtype, parts), settings)


modular.provides = frozenset({"denoiser"})  # type: ignore[attr-defined]


@hookimpl
def register_models() -> Mapping[str, Callable[..., Any]]:
    return {"modular": modular}
