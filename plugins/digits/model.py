"""`digit_unet`: a class-conditional U-Net on the pixels of 8x8 digits,
as noise prediction or flow matching."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn

from rewardft.errors import ComponentError, did_you_mean
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import NotNegative
from rewardft.types import Batch

from .data import CLASSES, SIZE
from .weights import ASSETS, load_weights, save_weights

Condition = dict[str, Tensor]
SHIPPED = "shipped"  # in a recipe, in place of a path: the weights that come with this plugin
PREDICTIONS = ("epsilon", "flow")


def build_network() -> Any:
    """110,000 weights; the last of its classes stands for "no class"."""
    network: Any = UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 24),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
        num_class_embeds=CLASSES + 1,
    )
    return network


def build_scheduler(prediction: str) -> DDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """Betas for epsilon, sigmas for flow; 1,000 training steps."""
    if prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        # Clipped estimates of x0 would cut the gradient of a reward.
        clip_sample=False,
        # Starts at the last timestep, pure noise, however few the steps.
        timestep_spacing="trailing",
    )


class DigitUNet:
    """Model contract `DiffusionModel`; the condition is `batch["label"]`, whole numbers from 0 to
    9.

    Args:
        prediction: `epsilon` (DDPM's betas) or `flow` (flow matching).
        weights: `shipped`, a safetensors file, or null: random weights, for pre-training.
        guidance: classifier-free guidance scale; 1 is the conditional prediction alone, without a
            second pass.
        guidance_gradient: `inside`: both halves carry gradient; `outside`: the half without a class
            is a constant.
        seed: of random weights.
    """

    provides = frozenset({"denoiser"})
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "time_emb_proj")

    def __init__(
        self,
        prediction: Literal["epsilon", "flow"] = "epsilon",
        weights: PathOrShipped | None = SHIPPED,
        guidance: NotNegative = 1.0,
        guidance_gradient: Literal["inside", "outside"] = "inside",
        seed: int = 0,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ComponentError(
                f"prediction is one of {', '.join(PREDICTIONS)}, got {prediction!r}."
                f"{did_you_mean(prediction, PREDICTIONS)}"
            )
        if guidance < 0:
            raise ComponentError(f"guidance must not be negative, got {guidance}")
        self.guidance, self.guidance_gradient = guidance, guidance_gradient
        # The global generator is put back, so that building a network changes no other draw.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.trainable: nn.Module = build_network()
        self.scheduler = build_scheduler(prediction)
        if weights is not None:
            # The two predictions are two networks, each with its own weights.
            shipped = ASSETS / f"base_{prediction}.safetensors"
            load_weights(
                self.trainable, shipped if weights == SHIPPED else Path(weights).expanduser()
            )

    @staticmethod
    def tags(prediction: str = "epsilon", **_: Any) -> frozenset[str]:
        """The noise schedule."""
        return frozenset({"sigmas"}) if prediction == "flow" else frozenset({"betas"})

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)

    def encode(self, batch: Batch) -> Condition:
        """Raises ComponentError for labels that are not digits."""
        label = batch["label"]
        low, high = torch.stack(label.aminmax()).tolist()  # both in one read from the device
        if label.is_floating_point() or low < 0 or high >= CLASSES:
            raise ComponentError(
                f"labels must be whole numbers from 0 to 9, got {label.unique().tolist()}"
            )
        return {"label": label}

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (1, SIZE, SIZE)

    def predict(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """The network's output without guidance."""
        output: Tensor = self.trainable(x, t, class_labels=cond["label"], return_dict=False)[0]
        return output

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        if self.guidance == 1.0:
            return self.predict(x, t, cond)
        # With `outside` the unconditional half is a constant.
        inside = torch.is_grad_enabled() and self.guidance_gradient == "inside"
        with torch.set_grad_enabled(inside):
            null = self.predict(x, t, self.null(cond))
        return null + self.guidance * (self.predict(x, t, cond) - null)

    def null(self, cond: Condition) -> Condition:
        return {"label": torch.full_like(cond["label"], CLASSES)}

    def drop(self, cond: Condition, mask: Tensor) -> Condition:
        """The condition with the samples where `mask` `(b,)` is true made unconditional."""
        # Class 10 is "no class".
        return {"label": torch.where(mask, CLASSES, cond["label"])}

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels `(b, 1, 8, 8)` in [0, 1], clamped with the gradient of the identity.

        Half the pixels of a digit are black: a hard clamp would pass no gradient from any that is a
        little too dark.
        """
        pixels = x0.float() / 2 + 0.5
        return pixels + (pixels.clamp(0, 1) - pixels).detach()

    def clean(self, batch: Batch) -> Tensor:
        """Images in [0, 1] as clean samples in [-1, 1]."""
        image: Tensor = batch["image"]
        return 2 * image - 1

    def save(self, path: Path) -> None:
        """Write the network as float16; it loads back with `weights=path`."""
        save_weights(self.trainable, path)
