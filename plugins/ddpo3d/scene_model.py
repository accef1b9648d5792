"""What scenes of any kind have in common as a model: the frozen prior, cameras, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rewardft_plugins.ddpo3d.gaussians import Lens, look
from rewardft_plugins.ddpo3d.prior_lora import PriorLora
from rewardft_plugins.ddpo3d.table import Forget, keep
from torch import Tensor, nn

from rewardft.contracts.protocols import DiffusionModel
from rewardft.errors import ComponentError
from rewardft.types import Batch

Condition = dict[str, Any]
Component = Any


@dataclass(frozen=True)
class View:
    """How scenes are seen, and by whom: options of the models of scenes, which say what they
    mean."""

    size: int
    channels: dict[str, int]
    lens: Lens
    background: float
    condition: Literal["given", "dropped"]
    rewards_see: Literal["pixels", "latents"]


class Scenes:
    """A table of scenes that is trained, under a diffusion model that is not.

    A sample is a picture of a scene. A batch has a column `scene` of whole numbers and `azimuth`
    in degrees, `(b,)`, or `(b, v)` where a sample is v views at once; it may have `elevation` and
    `mirror`, shaped alike: degrees, and whether the picture is flipped.

    name: in recipes. trainable: the table. rates: learning rates of its parts, in units of the
    recipe's.
    """

    provides = frozenset({"scene"})
    # No base is trained further: scenes of different kinds are compared by where they end.
    from_scratch = True
    name: str
    trainable: nn.Module
    rates: dict[str, float]

    def __init__(
        self, prior: DiffusionModel, scenes: int, view: View, lora_rank: int, seed: int
    ) -> None:
        check_prior(self.name, prior, view.condition)
        self.prior, self.scenes, self.scheduler = prior, scenes, prior.scheduler
        self.size, self.channels, self.lens = view.size, view.channels, view.lens
        self.background = view.background
        self.condition, self.rewards_see = view.condition, view.rewards_see
        prior.trainable.requires_grad_(False).eval()
        self.lora = PriorLora(prior, lora_rank, seed) if lora_rank else None

    def draw(self, scene: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures `(b v, c, size, size)` on black and how much of a background shows, `(b v, 1,
        size, size)`, of scenes `(b,)` from cameras `(b v, 3, 3)`, see `look`: v for each."""
        raise NotImplementedError

    @staticmethod
    def tags(prior: Component = None, **_: Any) -> frozenset[str]:
        """What the prior provides, but that it denoises: what is trained here does not."""
        own: frozenset[str] = prior.tags("provides", "tags") if prior is not None else frozenset()
        return own - {"denoiser"}

    def parameter_groups(self) -> dict[str, float]:
        """Learning rates of the parts of a scene, in units of the recipe's."""
        return self.rates

    @property
    def guidance(self) -> float:
        """The prior's; AttributeError for one without."""
        own: Any = self.prior
        return float(own.guidance)

    @guidance.setter
    def guidance(self, value: float) -> None:
        own: Any = self.prior
        own.guidance = value

    def to(self, device: torch.device) -> None:
        self.trainable.to(device)
        own: Any = self.prior
        (own if hasattr(own, "to") else own.trainable).to(device)

    def tend(
        self,
        step: int,
        gather: Callable[[Tensor], Tensor] = lambda x: x,
        forget: Forget = keep,
    ) -> None:
        """Called before the pictures of an optimizer step are taken, for what a scene needs
        then."""

    # -- the prior ---------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Condition:
        """The prior's condition, and which scene is seen from where. Raises ComponentError for a
        scene that is not in the table."""
        scene, azimuth = batch["scene"], batch["azimuth"].float()
        if int(scene.max()) >= self.scenes or int(scene.min()) < 0:
            raise ComponentError(
                f"the data set has scene {int(scene.max())}, and {self.name} has {self.scenes}, "
                "counted from 0; set model.scenes"
            )
        own = self.prior.encode(batch)
        if self.condition == "dropped":
            prior: Any = self.prior
            own = prior.drop(own, torch.ones_like(scene, dtype=torch.bool))
        level = torch.zeros_like(azimuth)
        return {
            "prior": own,
            "scene": scene,
            "azimuth": azimuth,
            "elevation": batch["elevation"].float() if "elevation" in batch else level,
            "mirror": batch["mirror"] if "mirror" in batch else level.bool(),
        }

    def sample_shape(self, cond: Condition) -> tuple[int, ...]:
        """Of the prior's samples."""
        return self.prior.sample_shape(cond["prior"])

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return self.prior.denoise(x, t, cond["prior"])

    def adapted(self) -> AbstractContextManager[None]:
        """The prior with the adapter that is trained beside the scenes; raises ComponentError where
        there is none."""
        if self.lora is None:
            raise ComponentError(
                f"{self.name}: the algorithm needs an adapter of the prior; set model.lora_rank, "
                "for instance to 4"
            )
        return self.lora.active()

    def to_prior(self, x0: Tensor) -> Tensor:
        """Samples as the prior has them, differentiable."""
        return x0 if self.rewards_see == "latents" else self.clean(self.columns(x0))

    def from_prior(self, latents: Tensor) -> Tensor:
        """The prior's samples as rewards see them."""
        found: Tensor = latents if self.rewards_see == "latents" else self.prior.decode(latents)
        return found

    def clean(self, pictures: Mapping[str, Tensor]) -> Tensor:
        """The prior's samples of pictures in [0, 1]."""
        count = len(next(iter(pictures.values())))
        prior: Any = self.prior
        found: Tensor = prior.clean(Batch(("",) * count, (0,) * count, pictures))
        return found

    def columns(self, x0: Tensor) -> dict[str, Tensor]:
        """The pictures that a sample of pixels consists of, by name."""
        if len(self.channels) == 1:
            return dict.fromkeys(self.channels, x0)
        # Several views have the pictures one after the other along the views instead.
        counts = list(self.channels.values())
        parts = x0.split(counts, 1) if x0.ndim == 4 else x0.chunk(len(counts), 1)
        return dict(zip(self.channels, parts))

    def decode(self, x0: Tensor) -> Tensor:
        """Pictures in [0, 1]: `(b, c, h, w)`; with several views `(b, v, c, h, w)`, and with
        several pictures one after the other along v."""
        found: Tensor = self.prior.decode(x0) if self.rewards_see == "latents" else x0
        return found

    # -- pictures ----------------------------------------------------------------------------------

    def sample(self, cond: Condition) -> Tensor:
        """Samples of the scenes, as rewards see them; differentiable in the scenes."""
        azimuth = cond["azimuth"]
        views = azimuth.shape[1] if azimuth.ndim > 1 else 1
        cameras = [cond[name].reshape(-1, views) for name in ("azimuth", "elevation", "mirror")]
        picture, _ = self.render(cond["scene"], *cameras)
        if azimuth.ndim == 1:
            picture = picture[:, 0]
        parts = picture.split(list(self.channels.values()), -3)
        columns = dict(zip(self.channels, parts))
        if self.rewards_see == "latents":
            return self.clean(columns)
        if azimuth.ndim > 1 and len(set(self.channels.values())) > 1:
            raise ComponentError(
                f"{self.name}: pictures of several views go one after the other, so they need "
                f"equally many channels, got {self.channels}; or set rewards_see: latents"
            )
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def render(
        self, scene: Tensor, azimuth: Tensor, elevation: Tensor, mirror: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pictures `(b, v, c, size, size)` in [0, 1] and coverage `(b, v, size, size)` of scenes
        `(b,)`; azimuth, elevation `(b, v)` degrees, mirror `(b, v)` bool."""
        views = azimuth.shape[1]
        axes = look(azimuth.flatten(), elevation.flatten())
        axes = axes.to(next(self.trainable.parameters()))
        colour, open_ = self.draw(scene, axes)
        picture = torch.cat([colour + self.background * open_, 1 - open_], 1)
        flip = mirror.flatten().view(-1, 1, 1, 1)
        picture = torch.where(flip, picture.flip(-1), picture).unflatten(0, (-1, views))
        return picture[:, :, :-1], picture[:, :, -1]


def check_prior(name: str, prior: Any, condition: str) -> None:
    """Raises ComponentError for a model that lacks what a prior needs."""
    needed = ["denoise", "scheduler", "clean", *(["drop"] if condition == "dropped" else [])]
    lacking = [method for method in needed if not hasattr(prior, method)]
    if lacking:
        raise ComponentError(
            f"{name}: {type(prior).__name__} cannot be a prior, it has no {', '.join(lacking)}"
        )


def check_numbers(
    name: str,
    counts: Mapping[str, float],
    lengths: Mapping[str, float | None],
    shares: Mapping[str, float],
    more: Sequence[str],
) -> None:
    """Raises ComponentError for the options of a scene that make no sense: counts from 1, lengths
    above 0 where there is one, shares within [0, 1], and what `more` says."""
    problems = [f"{key} >= 1, got {value}" for key, value in counts.items() if value < 1]
    problems += [
        f"{key} > 0, got {value}"
        for key, value in lengths.items()
        if value is not None and value <= 0
    ]
    problems += [
        f"{key} within [0, 1], got {value}" for key, value in shares.items() if not 0 <= value <= 1
    ]
    problems += more
    if problems:
        raise ComponentError(f"{name}: expected {'; '.join(problems)}")
