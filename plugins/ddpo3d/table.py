"""What is trained: a table of scenes of 3D Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians
from torch import Tensor, nn

from rewardft.noise import keyed_generator

# Makes an optimizer begin anew for the entries of a parameter that a mask names.
Forget = Callable[[nn.Parameter, Tensor], None]
TRANSPARENT = -12.0  # logit of an opacity that no picture sees


def keep(parameter: nn.Parameter, where: Tensor) -> None:
    """A `Forget` where there is no optimizer."""


class SceneTable(nn.Module):
    """S scenes of n Gaussians each, as numbers without bounds: logarithms of scales, logits of
    opacities and colours.

    pull: how hard pictures pull at each, see `Pull`; None where nothing asks for it.
    lora: an adapter of the prior, if it is trained beside the scenes.
    """

    def __init__(
        self,
        scenes: int,
        count: int,
        channels: int,
        box: Sequence[float],
        scale: float,
        opacity: float,
        seed: int,
        start: int | None = None,
    ) -> None:
        """Grey balls, spread evenly over a box.

        Args:
            box: half its width, height and depth. scale: standard deviation of a ball. opacity: of
                each, in (0, 1). start: how many are seen; the others are transparent, and `pull`
                says which of the seen ones are to be doubled. None: all, and no `pull`.
        """
        super().__init__()
        half = torch.tensor(list(box), dtype=torch.float32)
        places = torch.stack([scatter(seed, scene, count) for scene in range(scenes)])
        upright = torch.tensor([1.0, 0.0, 0.0, 0.0])
        seen = torch.full((scenes, count), opacity).logit()
        self.position = nn.Parameter(places * half)
        self.scale = nn.Parameter(torch.full((scenes, count, 3), scale).log())
        self.rotation = nn.Parameter(upright.repeat(scenes, count, 1))
        self.opacity = nn.Parameter(seen)
        self.colour = nn.Parameter(torch.zeros(scenes, count, channels))
        self.pull: Pull | None = None
        if start is not None:
            seen[:, start:] = TRANSPARENT
            self.pull = Pull(scenes, count)
        self.lora: nn.Module | None = None

    def gaussians(self) -> tuple[nn.Parameter, ...]:
        """What the Gaussians consist of, each `(S, n, ...)`."""
        return self.position, self.scale, self.rotation, self.opacity, self.colour

    def forward(self, scene: Tensor) -> Gaussians:
        """The Gaussians of the scenes `(b,)`, whole numbers."""
        return Gaussians(
            self.position[scene],
            self.scale[scene].exp(),
            self.rotation[scene],
            self.opacity[scene].sigmoid(),
            self.colour[scene].sigmoid(),
        )


class Pull(nn.Module):
    """How hard pictures pull Gaussians across them: sums over pictures since the last `clear`.

    Buffers, so that they are in checkpoints: a run that goes on doubles the same Gaussians. Of
    several processes, a checkpoint has what the first one has noted.
    """

    total: Tensor  # (S, n): lengths of slopes
    pictures: Tensor  # (S, n): by which a Gaussian was seen

    def __init__(self, scenes: int, count: int) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(scenes, count))
        self.register_buffer("pictures", torch.zeros(scenes, count))

    def watch(self, scene: Tensor, axes: Tensor, position: Tensor) -> None:
        """Note the slopes by positions `(b, n, 3)` in the world when a backward pass has them.

        scene: of each picture, `(b,)`; axes: of its camera, `(b, 3, 3)`, see `look`.
        """
        if position.requires_grad:
            position.register_hook(lambda slope: self.note(scene, axes, slope))

    def note(self, scene: Tensor, axes: Tensor, slope: Tensor) -> None:
        # Only what moves the centre in the picture's plane.
        length = (slope @ axes[:, :2].transpose(1, 2)).norm(dim=-1).to(self.total)
        self.total.index_add_(0, scene, length)
        self.pictures.index_add_(0, scene, (length > 0).to(length))

    def mean(self) -> Tensor:
        """`(S, n)`: over the pictures that saw a Gaussian; 0 where there is none."""
        return self.total / self.pictures.clamp(min=1)

    def clear(self) -> None:
        """Begin anew."""
        self.total.zero_()
        self.pictures.zero_()


def scatter(seed: int, scene: int, count: int) -> Tensor:
    """Places `(count, 3)` in [-1, 1], the same for a scene however many there are."""
    generator = keyed_generator("gaussian_scene", seed, scene)
    return 2 * torch.rand(count, 3, generator=generator) - 1
