"""A deeper decoder for the miniature's latents, which sharpens what the shallow one blurs."""

from __future__ import annotations

from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # The block begins as the identity, so that a new decoder is no worse than the old one.
        first, last = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.SiLU(), first, nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class DeepDecoder(nn.Module):
    """Standardised latents `(n, c, s, s)` -> pixels `(n, 3, 4 s, 4 s)`, nominally in [0, 1].

    channels: of the latents.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width, fine = 96, 32  # of the layers at one and at two times the latents' resolution
        self.enter = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), Residual(width))
        self.down = nn.Conv2d(width, width, 4, 2, 1)
        # A branch at half the resolution sees twice as far.
        self.low = nn.Sequential(
            Residual(width), nn.SiLU(), nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2)
        )
        self.middle = nn.Sequential(
            Residual(width), nn.SiLU(), nn.Conv2d(width, 4 * fine, 1), nn.PixelShuffle(2)
        )
        self.leave = nn.Sequential(
            Residual(fine), nn.SiLU(), nn.Conv2d(fine, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.enter(latents)
        hidden = hidden + self.low(self.down(hidden))
        # 0.5 - out / 2: the shipped weights depend on the sign.
        return 0.5 - self.leave(self.middle(hidden)) / 2
