"""`unconditional_unet`: a `UNet2DModel` on pixels, published or new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import Place, Weights
from rewardft.types import Batch

from .guidance import Condition, to_pixels
from .schedules import new_schedule, read_schedule
from .source import DTYPES, Precision, Source, load_trained, new_unet

# A small U-Net may have no attention.
LAYERS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "conv1",
    "conv2",
)


@dataclass(kw_only=True, eq=False)
class UnconditionalUNet:
    """A `UNet2DModel` on pixels, without a condition.

    Args:
        weights: a folder in diffusers' layout, or a hub id; None starts from random weights.
        revision: commit, tag or branch on the hub.
        variant: of the weight files, such as fp16.
        subfolders: the U-Net and the scheduler have a subfolder each; false for the oldest
            repositories, which have both at the top.
        config: of random weights: arguments of `UNet2DModel`.
        schedule: of random weights: arguments of diffusers' `DDPMScheduler`, or with `flow: true`
            of its `FlowMatchEulerDiscreteScheduler`.
        seed: of random weights.
        trained: a file of all weights that full fine-tuning wrote (`adapter/model.safetensors` of a
            run folder).
        dtype: of frozen weights; adapters stay float32.
    """

    weights: Weights | None = None
    revision: str | None = None
    variant: str | None = None
    subfolders: bool = True
    config: dict[str, Any] | None = None
    schedule: dict[str, Any] | None = None
    seed: int = 0
    trained: Annotated[str, Place()] | None = None
    dtype: Precision = "fp32"

    provides: ClassVar = frozenset({"denoiser"})

    def __post_init__(self) -> None:
        if (self.weights is None) == (self.config is None) or (self.weights and self.schedule):
            raise ComponentError(
                f"{type(self).__name__}: expected `weights` alone, or `config` (and `schedule`) "
                "for random weights"
            )
        if self.weights is None:
            self.trainable, self.scheduler = (
                new_unet(self.config or {}, self.seed),
                new_schedule(self.schedule or {}),
            )
        else:
            source = Source.open(self.weights, self.revision, self.variant)
            unet, scheduler = ("unet", "scheduler") if self.subfolders else ("", "")
            self.trainable = source.network("diffusers", "UNet2DModel", unet, DTYPES[self.dtype])
            self.scheduler = read_schedule(source, scheduler)
        if self.trained is not None:
            load_trained(self.trainable, self.trained)
        self.unet_config: Any = self.trainable.config
        # `to_out.0` is a name of two parts.
        names = {
            ".".join(name.split(".")[-depth:])
            for name, _ in self.trainable.named_modules()
            for depth in (1, 2)
        }
        self.lora_targets = [name for name in LAYERS if name in names]

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)

    def encode(self, batch: Batch) -> Condition:
        return {}

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        size = self.unet_config.sample_size
        return (self.unet_config.in_channels, *([size, size] if isinstance(size, int) else size))

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.predict(x.to(self.trainable.dtype), t, cond)  # type: ignore[arg-type]

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        output: Tensor = self.trainable(x, t, class_labels=cond.get("label")).sample
        return output

    def decode(self, x0: Tensor) -> Tensor:
        """Samples `(b, c, h, w)` in [-1, 1] -> pixels in [0, 1], see `to_pixels`."""
        return to_pixels(x0)

    def clean(self, batch: Batch) -> Tensor:
        """`batch["image"]` `(b, c, h, w)` in [0, 1] as samples."""
        return 2 * batch["image"] - 1

    def drop(self, cond: Condition, mask: Tensor) -> Condition:
        return cond

    def enable_checkpointing(self) -> None:
        self.trainable.enable_gradient_checkpointing()  # type: ignore[operator]
