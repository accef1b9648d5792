"""`gaussian_scene`: a table of scenes that is trained, under a diffusion model that is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from rewardft_plugins.ddpo3d.density import densification
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens
from rewardft_plugins.ddpo3d.gsplat_rasteriser import rasterise_by_gsplat
from rewardft_plugins.ddpo3d.rasterise import rasterise
from rewardft_plugins.ddpo3d.scene_model import Scenes, View, check_numbers
from rewardft_plugins.ddpo3d.table import Forget, SceneTable, keep
from rewardft_plugins.ddpo3d.upkeep import Upkeep
from torch import Tensor

from rewardft.contracts.protocols import DiffusionModel
from rewardft.recipe.bounds import Count, CountOrZero, Fraction, Inside, Positive

# Positions are in units of the world, the others are logarithms, logits and quaternions. 1/100:
# ProlificDreamer's 1e-4 beside the 1e-2 of its scenes.
RATES: Mapping[str, float] = {"position": 1 / 3, "lora": 1 / 100}
RASTERISERS = {"torch": rasterise, "gsplat": rasterise_by_gsplat}


class GaussianScene(Scenes):
    """Scenes of 3D Gaussians (Kerbl et al. 2023, 2308.04079); goes with `adapter: {kind: full}`.

    Samples and batches are as `Scenes` says.

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
        rates: learning rates of position, scale, rotation, opacity, colour and lora, in units of
            the recipe's; where nothing is said 1/3, for lora 1/100 and for the others 1.
        relocate_every: optimizer steps after which Gaussians of less opacity than `faint` are moved
            beside others, see `relocation.py`; 0: never.
        faint: least opacity of a Gaussian that stays where it is.
        densify: clone, split and prune: `{every: 50, start: 100}`; `gaussians` is then how many a
            scene may have at most. See `density.py`, where the other options are.
        lora_rank: of an adapter of the prior that learns the scenes' noise, for `vsd`; 0: none.
        rasteriser: `torch`, or `gsplat` on a CUDA device, with the extra `gsplat`.
        condition: `dropped`: the prior is not told what is asked for.
        rewards_see: a sample as `pixels`, or as the prior's `latents`, which decode to pixels.
        seed: of the scenes at the start.
    """

    name = "gaussian_scene"
    trainable: SceneTable

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
        densify: dict[str, float] | None = None,
        lora_rank: CountOrZero = 0,
        rasteriser: Literal["torch", "gsplat"] = "torch",
        condition: Literal["given", "dropped"] = "given",
        rewards_see: Literal["pixels", "latents"] = "pixels",
        seed: int = 0,
    ) -> None:
        channels = channels or {"image": 3}
        counts = {"scenes": scenes, "gaussians": gaussians, "size": size, **channels}
        lengths = {"extent": extent, "blur": blur, "scale": scale, "distance": distance}
        shares = {"opacity": opacity, "background": background, "faint": faint}
        check_numbers(self.name, counts, lengths, shares, [*box_problems(box, opacity)])
        view = View(size, channels, Lens(extent, distance), background, condition, rewards_see)
        super().__init__(prior, scenes, view, lora_rank, seed)
        self.blur, self.rasterise = blur, RASTERISERS[rasteriser]
        rule = None if densify is None else densification(densify, gaussians, faint, opacity)
        self.upkeep = Upkeep(relocate_every, rule, faint, seed)
        count = sum(channels.values())
        start = None if rule is None else int(rule.start)
        self.trainable = SceneTable(scenes, gaussians, count, box, scale, opacity, seed, start)
        self.trainable.lora = None if self.lora is None else self.lora.parameters
        own = {name: rate for name, rate in RATES.items() if name != "lora" or lora_rank}
        self.rates = {**own, **(rates or {})}

    def tend(
        self,
        step: int,
        gather: Callable[[Tensor], Tensor] = lambda x: x,
        forget: Forget = keep,
    ) -> None:
        """See `Upkeep`."""
        self.upkeep.tend(self.trainable, step, gather, forget)

    def draw(self, scene: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
        """By the rasteriser that was asked for."""
        views = len(axes) // len(scene)
        gaussians: Gaussians = self.trainable(scene).repeat(views)
        if self.trainable.pull is not None:
            self.trainable.pull.watch(scene.repeat_interleave(views), axes, gaussians.position)
        return self.rasterise(gaussians, axes, self.lens, self.size, self.blur)


def box_problems(box: Sequence[float], opacity: float) -> Iterator[str]:
    """What is wrong with how Gaussians start."""
    if len(box) != 3 or min(box) <= 0:
        yield f"box of three numbers > 0, got {list(box)}"
    if not 0 < opacity < 1:
        yield f"opacity other than 0 and 1, got {opacity}"
