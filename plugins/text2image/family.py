"""What latent text-to-image families share: loading, prompt embeddings, guidance, decoding,
checkpointing.

A family adds what is its own: the classes of its denoiser and text encoders, how their outputs
become a condition, and how the denoiser is called. See `stable_diffusion.py` for the shortest one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import Weights
from rewardft.recipe.bounds import Count, CountOrZero, NotNegative
from rewardft.types import Batch

from .guidance import Condition, GuidanceGradient, guide, replace_rows, to_pixels
from .schedules import load_beta_schedule
from .source import DTYPES, Precision, Source
from .text import Embedding, PromptCache, TextEncoder, placed


@dataclass(kw_only=True, eq=False)
class LatentModel:
    """Model contract `rewardft.contracts.protocols.DiffusionModel` for prompts.

    Args:
        weights: a folder in diffusers' layout, or a hub id.
        revision: commit, tag or branch on the hub; a commit pins the weights.
        variant: of the weight files, such as fp16.
        dtype: of the frozen denoiser and text encoders; adapters stay float32.
        vae_dtype: of the autoencoder; rewards differentiate through it, and that of SDXL overflows
            in fp16.
        guidance: classifier-free guidance scale; 1 is the conditional prediction alone, without a
            second pass.
        guidance_gradient: `inside`: both halves carry gradient; `outside`: the unconditional half
            is a constant.
        height, width: of the images in pixels; None takes the size that the denoiser was trained
            at.
        negative_prompt: what guidance leads away from; None takes the family's default (for most
            the empty prompt).
        cache_mb: host memory for prompt embeddings, in MiB.
        offload_text: keep text encoders in host memory and move them to the device only for prompts
            that are not in the cache.
        decode_batch: number of images decoded at a time; None: one on a CPU, else four.
    """

    weights: Weights
    revision: str | None = None
    variant: str | None = None
    dtype: Precision = "fp32"
    vae_dtype: Precision = "fp32"
    guidance: NotNegative = 7.5
    guidance_gradient: GuidanceGradient = "inside"
    height: Count | None = None
    width: Count | None = None
    negative_prompt: str | None = None
    cache_mb: CountOrZero = 1024
    offload_text: bool = False
    decode_batch: Count | None = None

    provides: ClassVar = frozenset({"denoiser"})
    light_to_build: ClassVar = True
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    denoiser: ClassVar[tuple[str, str]]  # class and subfolder
    # Before a layer's name in kohya's layout, as ComfyUI reads it for this family.
    kohya_prefix: ClassVar[str] = "lora_unet_"
    patch: ClassVar[int] = 1  # latents are a multiple of it in height and width

    def __post_init__(self) -> None:
        together = 1 if self.decode_batch is None else self.decode_batch
        if self.guidance < 0 or together < 1 or self.cache_mb < 0:
            raise ComponentError(
                "expected guidance >= 0, decode_batch >= 1 and cache_mb >= 0, got "
                f"guidance={self.guidance}, decode_batch={self.decode_batch}, "
                f"cache_mb={self.cache_mb}"
            )
        self.source = Source.open(self.weights, self.revision, self.variant)
        self.device = torch.device("cpu")
        self.trainable: nn.Module = self.source.network(
            "diffusers", *self.denoiser, DTYPES[self.dtype]
        )
        # Diffusers' answers, by the dtype of the first weight.
        self.dtypes: dict[torch.dtype, torch.dtype] = {}
        self.vae: Any = self.source.network(
            "diffusers", "AutoencoderKL", "vae", DTYPES[self.vae_dtype]
        )
        self.encoders = self.load_encoders()
        # Text encoders are frozen, so an embedding holds for the whole run.
        self.cache = PromptCache(self.cache_mb * 2**20)
        # The unconditional embedding on the device, once it is asked for
        self.nothing: Condition | None = None
        self.latent_size = self.size_of_latents()
        self.scheduler = self.load_scheduler()

    # -- what a family gives -----------------------------------------------------------------------

    def load_encoders(self) -> dict[str, TextEncoder]:
        """The frozen text encoders by name."""
        raise NotImplementedError

    def embed(self, prompt: str) -> Embedding:
        """The condition of one prompt, without the batch dimension."""
        raise NotImplementedError

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """One call of the denoiser, without guidance: x `(b, c, h, w)` in its dtype, t `(b,)`."""
        raise NotImplementedError

    def load_scheduler(self) -> Any:
        """The checkpoint's noise schedule; of the diffusers class that the samplers know."""
        return load_beta_schedule(self.source)

    def default_size(self) -> int:
        """Height and width of the latents that the denoiser was trained at."""
        return int(self.config.sample_size)

    def null_embedding(self) -> Condition:
        """What guidance leads away from, as a batch of one."""
        return self.embedded([self.negative_prompt or ""])

    # -- the contract ------------------------------------------------------------------------------

    def to(self, device: torch.device) -> None:
        # Made again on the new device when it is asked for.
        self.device, self.nothing = torch.device(device), None
        self.trainable.to(device)
        self.vae.to(device)
        for encoder in self.encoders.values() if not self.offload_text else ():
            encoder.network.to(device)

    def encode(self, batch: Batch) -> Condition:
        """Embeddings of `batch["prompt"]`, a list of texts."""
        if "prompt" not in batch:
            raise ComponentError(
                f"{type(self).__name__} needs a column `prompt` of texts, and the data set gives: "
                f"{', '.join(batch.columns)}. The data set `prompts` has one."
            )
        return self.embedded(batch["prompt"])

    def embedded(self, prompts: list[str]) -> Condition:
        """From the cache where it holds them; on the model's device."""
        moving = self.offload_text and not self.cache.holds(prompts)
        with torch.no_grad(), placed(self.encoders, self.device) if moving else nullcontext():
            rows = self.cache.get(prompts, self.embed)
        return {name: value.to(self.device) for name, value in rows.items()}

    def null(self, count: int) -> Condition:
        """The unconditional embedding for `count` samples."""
        if self.nothing is None:
            self.nothing = self.null_embedding()
        # A view: the same row for every sample costs no memory.
        return {name: value.expand(count, *value.shape[1:]) for name, value in self.nothing.items()}

    def drop(self, cond: Condition, mask: Tensor) -> Condition:
        """The condition with the samples where `mask` `(b,)` is true made unconditional."""
        return replace_rows(cond, self.null(len(mask)), mask)

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (int(self.vae.config.latent_channels), *self.latent_size)

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        x = x.to(self.network_dtype)
        if self.guidance == 1.0:
            return self.predict(x, t, cond)
        return guide(
            self.predict, x, t, cond, self.null(len(x)), self.guidance, self.guidance_gradient
        )

    @property
    def network_dtype(self) -> torch.dtype:
        """The denoiser's, which diffusers finds by walking through all layers."""
        first = next(self.trainable.parameters()).dtype
        if first not in self.dtypes:
            self.dtypes = {first: self.trainable.dtype}  # type: ignore[dict-item]
        return self.dtypes[first]

    def decode(self, x0: Tensor) -> Tensor:
        """Latents `(b, c, h, w)` -> pixels `(b, 3, height, width)` in [0, 1], see `to_pixels`."""
        # In float32 first: latents beyond the autoencoder's precision would be rounded twice.
        latents = (x0 * self.latent_scale + self.latent_shift).to(self.vae.dtype)
        # The decoder's activations are the largest of all; a few images at a time bound them.
        parts = [self.vae.decode(part).sample for part in latents.split(self.together)]
        return to_pixels(torch.cat(parts))

    @property
    def together(self) -> int:
        """How many images are decoded at a time."""
        # A CPU is busy with one, and its caches hold more of it.
        return self.decode_batch or (1 if self.device.type == "cpu" else 4)

    def clean(self, batch: Batch) -> Tensor:
        """The latents of `batch["image"]` `(b, 3, height, width)` in [0,
        1]: the mean of the encoder's Gaussian. Differentiable in the images."""
        images = (2 * batch["image"] - 1).to(self.device, self.vae.dtype)
        # The mean: a draw would make the same picture another target each time.
        parts = [self.vae.encode(part).latent_dist.mode() for part in images.split(self.together)]
        return (torch.cat(parts).float() - self.latent_shift) / self.latent_scale

    def enable_checkpointing(self) -> None:
        self.trainable.enable_gradient_checkpointing()  # type: ignore[operator]

    def enable_decode_checkpointing(self) -> None:
        """Recompute the decoder's blocks in the backward pass."""
        self.vae.enable_gradient_checkpointing()

    @property
    def pipeline_part(self) -> str:
        """The part of the family's diffusers pipeline that is trained, for its LoRA loader."""
        return self.denoiser[1]

    def write_checkpoint(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """The base's checkpoint with `state` in place of the denoiser's weights."""
        from rewardft.runs.export import copy_checkpoint

        copy_checkpoint(self.source.files(), folder, self.pipeline_part, state, self.variant)

    # -- sizes -------------------------------------------------------------------------------------

    @property
    def config(self) -> Any:
        return self.trainable.config

    @property
    def latent_scale(self) -> Any:
        """Latents times this, plus `latent_shift`, are what the decoder takes."""
        # Channels of their own where the autoencoder lists them, else one factor for all.
        deviation = getattr(self.vae.config, "latents_std", None)
        return (
            per_channel(1.0 if deviation is None else deviation, self.device)
            / self.vae.config.scaling_factor
        )

    @property
    def latent_shift(self) -> Any:
        mean = getattr(self.vae.config, "latents_mean", None)
        shift = getattr(self.vae.config, "shift_factor", None)
        return per_channel((shift or 0.0) if mean is None else mean, self.device)

    def size_of_latents(self) -> tuple[int, int]:
        """Raises ComponentError for an image size that the model cannot make."""
        # Each of the autoencoder's blocks but the last halves height and width.
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        # Pixels of one latent, times those latents that the denoiser takes together.
        default, multiple = self.default_size() * factor, factor * self.patch
        height, width = self.height or default, self.width or default
        if height < multiple or width < multiple or height % multiple or width % multiple:
            raise ComponentError(
                f"height and width must be multiples of {multiple}, got {height} and {width}"
            )
        return height // factor, width // factor


def per_channel(value: Any, device: torch.device) -> Tensor:
    """A number, or one per channel, shaped to multiply latents `(b, c, h, w)`."""
    return torch.as_tensor(value, dtype=torch.float32, device=device).view(-1, 1, 1)
