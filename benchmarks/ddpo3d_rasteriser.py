"""Time of the rasteriser of the plugin ddpo3d: one picture, forward and backward, on one thread.

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
SIZES, COUNTS = (8, 64, 128), (100, 300, 1000, 3000)


def timed(call: Callable[[], object]) -> float:
    """Median processor time in milliseconds."""
    call()
    times = []
    for _ in range(REPEATS):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1000 * statistics.median(times)


def row(size: int, count: int) -> tuple[float, float]:
    """Milliseconds without autograd, and with the backward pass."""
    table = SceneTable(1, count, 3, (0.7, 0.7, 0.7), scale=0.05, opacity=0.3, seed=0)
    axes = look(torch.tensor([30.0]), torch.tensor([10.0]))

    def draw() -> torch.Tensor:
        return rasterise(table(torch.tensor([0])), axes, Lens(), size)[0]

    def forward() -> None:
        with torch.no_grad():
            draw()

    return timed(forward), timed(lambda: draw().sum().backward())


def main() -> None:
    torch.set_num_threads(1)
    print("| pixels | Gaussians | forward, ms | forward and backward, ms |")
    print("| --- | --- | --- | --- |")
    for size in SIZES:
        for count in COUNTS:
            forward, both = row(size, count)
            print(f"| {size} | {count} | {forward:.1f} | {both:.1f} |")


if __name__ == "__main__":
    main()
