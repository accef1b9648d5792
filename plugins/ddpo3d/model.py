"""`gaussian_scene`: a table of scenes that is trained, under a diffusion model that is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens, look
from rewardft_plugins.ddpo3d.rasterise import rasterise
from rewardft_plugins.ddpo3d.relocation import relocate
from rewardft_plugins.ddpo3d.table import SceneTable
from torch import Tensor

from rewardft.contracts.protocols import DiffusionModel
from rewardft.errors import ComponentError
from rewardft.noise import keyed_generator
from rewardft.recipe.bounds import Count, CountOrZero, Fraction, Inside, Positive
from rewardft.types import Batch

Condition = dict[str, Any]
Component = Any
# Positions are in units of the world, the others are logarithms, logits and quaternions.
RATES: Mapping[str, float] = {"position": 1 / 3}


class GaussianScene:
    """Scenes of 3D Gaussians (Kerbl et al. 2023, 2308.04079); goes with `adapter: {kind: full}`.

    A sample is a picture of a scene. A batch has a column `scene` of whole numbers and `azimuth`
    in degrees, `(b,)`, or `(b, v)` where a sample is v views at once; it may have `elevation` and
    `mirror`, shaped alike: degrees, and whether the picture is flipped.

    Args:
        prior: the diffusion model, frozen: `{use: digit_unet}`. It must have `clean(batch)`, which
            gives its samples of pictures, and be differentiable in these.
        scenes, gaussians: how many, and of how many Gaussians each.
        size: of the pictures in pixels.
        channels: of the pictures, by the names that the prior has for them in a batch; several are
            drawn at once, `{normals: 3, colours: 3}`.
        extent, distance: of the camera, see `Lens`; `distance: null` is orthographic.
        blur: variance in square pixels that every Gaussian has at least in a picture.
        background: grey level behind the scene, in [0, 1].
        box, scale, opacity: of the scenes at the start, see `SceneTable`.
        rates: learning rates of position, scale, rotation, opacity and colour, in units of the
            recipe's; 1/3 for positions and 1 for the others where nothing is said.
        relocate_every: optimizer steps after which Gaussians of less opacity than `faint` are moved
            beside others, see `relocation.py`; 0: never.
        condition: `dropped`: the prior is not told what is asked for.
        rewards_see: a sample as `pixels`, or as the prior's `latents`, which decode to pixels.
        seed: of the scenes at the start.
    """

    provides = frozenset({"scene"})

    def __init__(
        self,
        prior: DiffusionModel,
        scenes: Count = 16,
        gaussians: Count = 300,
        size: Count = 64,
        channels: dict[str, int] | None = None,
        extent: Positive = 1.0,
        distance: Positive | None = None,
        blur: Positive = 0.3,
        background: Fraction = 0.0,
        box: Sequence[float] = (0.7, 0.7, 0.7),
        scale: Positive = 0.1,
        opacity: Inside = 0.3,
        rates: dict[str, float] | None = None,
        relocate_every: CountOrZero = 0,
        faint: Fraction = 0.02,
        condition: Literal["given", "dropped"] = "given",
        rewards_see: Literal["pixels", "latents"] = "pixels",
        seed: int = 0,
    ) -> None:
        self.channels = channels or {"image": 3}
        counts = {"scenes": scenes, "gaussians": gaussians, "size": size, **self.channels}
        lengths = {"extent": extent, "blur": blur, "scale": scale}
        lengths |= {} if distance is None else {"distance": distance}
        shares = {"opacity": opacity, "background": background, "faint": faint}
        check_numbers(counts, lengths, shares, box)
        check_prior(prior, condition)
        self.prior, self.size, self.blur = prior, size, blur
        self.lens, self.background = Lens(extent, distance), background
        self.rates = {**RATES, **(rates or {})}
        self.condition, self.rewards_see = condition, rewards_see
        self.scheduler = prior.scheduler
        count = sum(self.channels.values())
        self.trainable = SceneTable(scenes, gaussians, count, box, scale, opacity, seed)
        self.scenes, self.seed = scenes, seed
        self.relocate_every, self.faint = relocate_every, faint
        self.tended = 0  # the last step at which Gaussians were moved
        prior.trainable.requires_grad_(False).eval()

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

    def tend(self, step: int) -> None:
        """Called before the pictures of an optimizer step are taken: moves what has faded, when it
        is due."""
        # A step may take several batches: once for all of them.
        due = self.relocate_every and step % self.relocate_every == 0 and step != self.tended
        if step and due:
            self.tended = step
            # From the step and the seed alone: a resumed run moves the same ones.
            relocate(self.trainable, self.faint, keyed_generator("relocate", self.seed, step))

    # -- the prior ---------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> Condition:
        """The prior's condition, and which scene is seen from where. Raises ComponentError for a
        scene that is not in the table."""
        scene, azimuth = batch["scene"], batch["azimuth"].float()
        if int(scene.max()) >= self.scenes or int(scene.min()) < 0:
            raise ComponentError(
                f"the data set has scene {int(scene.max())}, and gaussian_scene has {self.scenes}, "
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
                "gaussian_scene: pictures of several views go one after the other, so they need "
                f"equally many channels, got {self.channels}; or set rewards_see: latents"
            )
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def render(
        self, scene: Tensor, azimuth: Tensor, elevation: Tensor, mirror: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pictures `(b, v, c, size, size)` in [0, 1] and coverage `(b, v, size, size)` of scenes
        `(b,)`; azimuth, elevation `(b, v)` degrees, mirror `(b, v)` bool."""
        views = azimuth.shape[1]
        gaussians: Gaussians = self.trainable(scene).repeat(views)
        axes = look(azimuth.flatten(), elevation.flatten()).to(gaussians.position)
        colour, open_ = rasterise(gaussians, axes, self.lens, self.size, self.blur)
        picture = torch.cat([colour + self.background * open_, 1 - open_], 1)
        flip = mirror.flatten().view(-1, 1, 1, 1)
        picture = torch.where(flip, picture.flip(-1), picture).unflatten(0, (-1, views))
        return picture[:, :, :-1], picture[:, :, -1]


def check_prior(prior: Any, condition: str) -> None:
    """Raises ComponentError for a model that lacks what a prior needs."""
    needed = ["denoise", "scheduler", "clean", *(["drop"] if condition == "dropped" else [])]
    lacking = [name for name in needed if not hasattr(prior, name)]
    if lacking:
        raise ComponentError(
            f"gaussian_scene: {type(prior).__name__} cannot be a prior, it has no "
            f"{', '.join(lacking)}"
        )


def check_numbers(
    counts: Mapping[str, float],
    lengths: Mapping[str, float],
    shares: Mapping[str, float],
    box: Sequence[float],
) -> None:
    """Raises ComponentError for the options of a scene that make no sense."""
    problems = [f"{name} >= 1, got {value}" for name, value in counts.items() if value < 1]
    problems += [f"{name} > 0, got {value}" for name, value in lengths.items() if value <= 0]
    problems += [
        f"{name} within [0, 1], got {value}"
        for name, value in shares.items()
        if not 0 <= value <= 1
    ]
    if len(box) != 3 or min(box) <= 0:
        problems.append(f"box of three numbers > 0, got {list(box)}")
    if not 0 < shares["opacity"] < 1:
        problems.append(f"opacity other than 0 and 1, got {shares['opacity']}")
    if problems:
        raise ComponentError(f"gaussian_scene: expected {'; '.join(problems)}")
