"""Time of the rasteriser of the plugin ddpo3d: pictures at once, forward and backward, on one
thread.

python benchmarks/ddpo3d_rasteriser.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from rewardft_plugins.ddpo3d.gaussians import Lens, look
from rewardft_plugins.ddpo3d.rasterise import rasterise
from rewardft_plugins.ddpo3d.table import SceneTable

REPEATS = 5
# Pictures, pixels and Gaussians; 24 are four people from six sides, as ddpo3d_human has them.
CASES = (
    *((1, 8, 100), (1, 64, 300), (1, 64, 1000), (1, 64, 3000)),
    *((1, 128, 1000), (1, 128, 3000), (24, 64, 150)),
)


def timed(call: Callable[[], object]) -> float:
    """Median processor time in milliseconds."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times)


def row(pictures: int, size: int, count: int) -> tuple[float, float]:
    """Milliseconds without autograd, and with the backward pass."""
    table = SceneTable(pictures, count, 3, (0.7, 0.7, 0.7), scale=0.05, opacity=0.3, seed=0)
    azimuth = 30.0 + torch.arange(pictures) * 360 / pictures
    axes = look(azimuth, torch.full_like(azimuth, 10.0))

    def draw() -> torch.Tensor:
        return rasterise(table(torch.arange(pictures)), axes, Lens(), size)[0]

    def forward() -> None:
        with torch.no_grad():
            draw()

    return timed(forward), timed(lambda: draw().sum().backward())


def main() -> None:
    torch.set_num_threads(1)
    print("| pictures | pixels | Gaussians | forward, ms | forward and backward, ms |")
    print("| --- | --- | --- | --- | --- |")
    for case in CASES:
        forward, both = row(*case)
        print(f"| {' | '.join(map(str, case))} | {forward:.1f} | {both:.1f} |")


if __name__ == "__main__":
    main()
