"""A diffusion model and a data set small enough for tests: 8x8 images, milliseconds per call, on a
CPU.

This module is a plugin too: `plugins: [rewardft.testing.tiny]` registers the model `tiny`, the data
    set `tiny_blobs` and the reward `tiny_brightness`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rewardft.contracts.hookspecs import Factories, hookimpl
from rewardft.errors import ComponentError
from rewardft.noise import keyed_generator
from rewardft.recipe.bounds import Count, NotNegative
from rewardft.types import Batch, Rollout

SIZE = 8
CLASSES = 4


class TinyDenoiser(nn.Module):
    """A pixel-wise network between two convolutions,
    conditioned on timestep and class: about 5 K parameters."""

    def __init__(self, channels: int = 3, width: Count = 24) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.time = nn.Linear(16, width)
        self.label = nn.Embedding(CLASSES + 1, width)  # the last row is the null condition
        self.to_q = nn.Linear(width, width)
        self.to_out = nn.Linear(width, width)
        self.leave = nn.Conv2d(width, channels, 3, padding=1)
        self.checkpointing = False

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """x `(b, c, 8, 8)`, t `(b,)` in [0, 1000), label `(b,)` in [0, CLASSES] ->
        `(b, c, 8, 8)`."""
        # Sinusoids of the timestep, as in DDPM's network: (b, 8) angles, their sines and cosines.
        frequencies = torch.exp(
            torch.arange(8, device=x.device, dtype=x.dtype) * (-math.log(1000.0) / 8)
        )
        angles = t[:, None].to(x.dtype) * frequencies
        condition = self.time(torch.cat([angles.sin(), angles.cos()], dim=1)) + self.label(label)
        h = self.enter(x) + condition[:, :, None, None]
        if self.checkpointing and torch.is_grad_enabled():
            h = checkpoint(self.mix, h, use_reentrant=False)
        else:
            h = self.mix(h)
        return self.leave(h)

    def mix(self, h: Tensor) -> Tensor:
        # (b, h, w, width): a linear layer works on the last dimension.
        tokens = h.permute(0, 2, 3, 1)
        tokens = tokens + self.to_out(nn.functional.silu(self.to_q(nn.functional.silu(tokens))))
        return tokens.permute(0, 3, 1, 2)


class TinyModel:
    """A model family in a few lines: what `rewardft.contracts.protocols.DiffusionModel` asks for.

    Args:
        prediction: prediction type: epsilon, v_prediction, sample or flow.
        guidance: classifier-free guidance scale; 1 means no second pass.
        guidance_gradient: `inside`: both halves carry gradient; `outside`: the unconditional half
            does not.
        width: channels of the network.
        seed: of the random weights.
    """

    provides = frozenset({"denoiser"})
    light_to_build = True
    lora_targets = ("to_q", "to_out")

    def __init__(
        self,
        prediction: Literal["epsilon", "v_prediction", "sample", "flow"] = "epsilon",
        guidance: NotNegative = 1.0,
        guidance_gradient: Literal["inside", "outside"] = "inside",
        width: Count = 24,
        seed: int = 0,
    ) -> None:
        if guidance < 0:
            raise ComponentError(f"guidance must not be negative, got {guidance}")
        self.guidance, self.guidance_gradient = guidance, guidance_gradient
        # The weights follow from `seed`; the global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trainable: nn.Module = TinyDenoiser(width=width)
        self.scheduler = make_scheduler(prediction)

    @staticmethod
    def tags(prediction: str = "epsilon", **_: Any) -> frozenset[str]:
        """The noise schedule."""
        return frozenset({"sigmas"}) if prediction == "flow" else frozenset({"betas"})

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)

    def enable_checkpointing(self) -> None:
        self.trainable.checkpointing = True  # type: ignore[assignment]

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"label": batch["label"]}

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (3, SIZE, SIZE)

    def denoise(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        if self.guidance == 1.0:
            return self.trainable(x, t, cond["label"])
        null = torch.full_like(cond["label"], CLASSES)
        # Under no_grad it stays off, whatever the option says.
        inside = torch.is_grad_enabled() and self.guidance_gradient == "inside"
        with torch.set_grad_enabled(inside):
            unconditional = self.trainable(x, t, null)
        return unconditional + self.guidance * (self.trainable(x, t, cond["label"]) - unconditional)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels in [0, 1]: a sigmoid, so that no gradient dies at the ends."""
        return torch.sigmoid(2 * x0)

    def clean(self, batch: Batch) -> Tensor:
        # The inverse of `decode`; clamped, as 0 and 1 lie at infinity.
        return batch["image"].clamp(0.02, 0.98).logit() / 2

    def drop(self, cond: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        return {"label": torch.where(mask, CLASSES, cond["label"])}


def make_scheduler(prediction: str) -> Any:
    """The diffusers scheduler that holds this model's betas or sigmas."""
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        # Stable Diffusion's betas. Not clipped: x0 is a logit, not a pixel.
        clip_sample=False,
        timestep_spacing="trailing",
    )


class TinyBlobs:
    """Bright blobs on dark ground; the class is the quadrant.

    Items: id, image `(3, 8, 8)` in [0, 1], label, group.

    Args:
        size: number of items.
        split: train or val.
    """

    provides = frozenset({"training_targets"})

    def __init__(self, size: Count = 64, split: Literal["train", "val"] = "train") -> None:
        self.size, self.split = size, split

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        # By index: an item is the same however often, and in whatever order, it is read.
        generator = keyed_generator("tiny_blobs", self.split, index)
        label = index % CLASSES
        quadrant = torch.tensor([2.0 + 4 * (label // 2), 2.0 + 4 * (label % 2)])
        center = quadrant + torch.rand(2, generator=generator) - 0.5
        axis = torch.arange(SIZE) + 0.5
        square = (axis[:, None] - center[0]) ** 2 + (axis[None] - center[1]) ** 2
        colour = 0.5 + 0.5 * torch.rand(3, generator=generator)
        image = 0.1 + 0.9 * torch.exp(-square / 3)[None] * colour[:, None, None]
        return {
            "id": f"{self.split}/{index}",
            "image": image.clamp(0, 1),
            "label": label,
            "group": f"class{label}",
        }


def tiny_brightness(rollout: Rollout, batch: Batch, *, target: float = 1.0) -> Tensor:
    """Minus the squared distance of the mean pixel to `target`, in [-1, 0]."""
    return -((rollout.decoded.flatten(1).mean(1) - target) ** 2)


@hookimpl
def register_models() -> Factories:
    return {"tiny": TinyModel}


@hookimpl
def register_datasets() -> Factories:
    return {"tiny_blobs": TinyBlobs}


@hookimpl
def register_rewards() -> Factories:
    return {"tiny_brightness": tiny_brightness}
