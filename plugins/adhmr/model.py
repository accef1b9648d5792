"""`pose_diffusion`: p(joints, twists | picture), the base model of ADHMR (Shen et al. 2025,
2505.10250) in miniature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from rewardft_plugins.adhmr.conditions import Condition, ImageCondition, LandmarkCondition
from rewardft_plugins.adhmr.network import PoseDenoiser
from rewardft_plugins.adhmr.space import PARTS, SIZE, Pose, unpack
from rewardft_plugins.adhmr.weights import ASSETS, load_weights, save_weights
from rewardft_plugins.humans.poses.show import draw_poses
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.recipe.bounds import Count
from rewardft.types import Batch

SHIPPED = "shipped"


def build_scheduler() -> DDPMScheduler:
    """The released code's: 1,000 steps, betas linear from 1e-4 to 0.02, noise prediction."""
    # Clipping at 1 would cut off limbs: a unit of the variable is 0.4 m.
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="linear",
        beta_start=1e-4,
        beta_end=0.02,
        prediction_type="epsilon",
        clip_sample=False,
        timestep_spacing="trailing",
    )


class PoseDiffusion:
    """Model contract `DiffusionModel`. A sample is a vector `(118,)` of joints and twists; it
    decodes to a `Pose`.

    The condition network stays frozen; the denoiser is what is trained, and what `weights` holds
    beside it.

    Args:
        weights: `shipped`, a safetensors file, or null: random weights, for pre-training.
        condition: `landmarks` of a detector, or `image`: features of a convolutional network and
            where it sees the joints.
        width, blocks: of the denoiser.
        seed: of random weights.
    """

    provides = frozenset({"denoiser", "betas"})
    lora_targets = ("enter", "rise", "fall", "leave")
    parts: Mapping[str, slice] = PARTS
    pictures = False

    def __init__(
        self,
        weights: PathOrShipped | None = SHIPPED,
        condition: Literal["landmarks", "image"] = "landmarks",
        width: Count = 384,
        blocks: Count = 3,
        seed: int = 0,
    ) -> None:
        if width < 1 or blocks < 1:
            raise ComponentError(f"width and blocks must be at least 1, got {width} and {blocks}")
        # The global generator is put back, so that building a model changes no other draw.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.condition: Condition = (
                LandmarkCondition() if condition == "landmarks" else ImageCondition()
            )
            self.trainable: nn.Module = PoseDenoiser(self.condition.size, width, blocks)
        self.scheduler = build_scheduler()
        if weights is not None:
            shipped = ASSETS / "weights" / f"base_{condition}.safetensors"
            load_weights(
                self.networks(), shipped if weights == SHIPPED else Path(weights).expanduser()
            )
        # It was trained with the base; preferences are to change the policy, not what it sees.
        self.condition.requires_grad_(False).eval()

    def networks(self) -> nn.ModuleDict:
        """Both networks under the names that weight files have."""
        networks: dict[str, Any] = {"condition": self.condition, "denoiser": self.trainable}
        return nn.ModuleDict(networks)

    def to(self, device: torch.device) -> None:
        self.networks().to(device)

    def encode(self, batch: Batch) -> Tensor:
        """The condition `(b, size)`."""
        found: Tensor = self.condition(batch)
        return found

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        return (SIZE,)

    def denoise(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        output: Tensor = self.trainable(x, t, cond.to(x.dtype))
        return output

    def decode(self, x0: Tensor) -> Pose:
        return unpack(x0)

    def clean(self, batch: Batch) -> Tensor:
        """The column `pose`: vectors `(b, 118)`."""
        pose: Tensor = batch["pose"]
        return pose

    def part_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Which numbers of a part count, `(b, n)`, where the data set says so by columns
        `joints_seen`, `twists_seen`."""
        # Named by the parts, as losses over parts look the weights up.
        return {name: batch[f"{name}_seen"] for name in PARTS if f"{name}_seen" in batch}

    def show(self, decoded: Pose, batch: Batch) -> Tensor:
        """Pictures `(b, 3, h, w)` in [0, 1] of each sample's skeleton, as the camera sees it and
        from the side."""
        return draw_poses({"joints": decoded["joints"]})

    def save(self, path: Path) -> None:
        """Write both networks as float16; they load back with `weights=path`."""
        save_weights(self.networks(), path)
