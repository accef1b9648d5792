"""Reproducible noise: every sample draws its own.

The key of a draw is (seed, pass over the data, sample id, stream). The same sample therefore gets
the same noise whatever the batch size, the micro-batch, the number of processes or the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


class Noise:
    """The noise of one batch of samples.

    Args:
        seed: the run's seed.
        ids, epochs: one per sample, see `rewardft.types.Batch`.
        device, dtype: where draws end up. Drawing itself is float32 on the CPU, so that devices
            agree.
    """

    def __init__(
        self,
        seed: int,
        ids: Sequence[str],
        epochs: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.seed, self.ids, self.epochs = seed, tuple(ids), tuple(epochs)
        self.device, self.dtype = torch.device(device), dtype

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: slice) -> Noise:
        return Noise(self.seed, self.ids[rows], self.epochs[rows], self.device, self.dtype)

    def draw(self, stream: str, shape: Sequence[int]) -> Tensor:
        """Standard normal noise `(b, *shape)`; the same stream always gives the same numbers."""
        # Page-locked for a GPU: one copy for the batch, which the host does not wait for.
        draws = torch.empty(len(self), *shape, pin_memory=self.device.type == "cuda")
        # Seeded for each sample: numbers drawn for a whole batch would depend on its size.
        generator = torch.Generator()
        for row, seed in zip(draws, self._seeds(stream)):
            row.normal_(generator=generator.manual_seed(seed))
        return draws.to(self.device, self.dtype, non_blocking=True)

    def uniform(self, stream: str) -> Tensor:
        """One number in [0, 1) per sample, `(b,)` float32."""
        generator = torch.Generator()
        seeds = self._seeds(stream)
        draws = [torch.rand((), generator=generator.manual_seed(seed)) for seed in seeds]
        return torch.stack(draws).to(self.device)

    def _seeds(self, stream: str) -> list[int]:
        return [
            keyed_seed(self.seed, epoch, id_, stream) for id_, epoch in zip(self.ids, self.epochs)
        ]


def keyed_generator(*key: object) -> torch.Generator:
    """A CPU generator whose seed is a hash of `key`."""
    # Always the CPU's: a GPU's generator gives other numbers, and may differ between GPUs.
    return torch.Generator().manual_seed(keyed_seed(*key))


def keyed_seed(*key: object) -> int:
    """A hash of `key`, in [0, 2^63)."""
    # The separator keeps ("a", "bc") and ("ab", "c") apart. `hash` is salted in every process.
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    # 63 bits: torch's tensors of keys are signed.
    return int.from_bytes(digest, "big") >> 1
