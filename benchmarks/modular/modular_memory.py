"""Memory of decoding a video under gradient, and of a training step, on tiny weights.

    python benchmarks/modular/modular_memory.py        # both tables, in Markdown

Measured is the largest sum of live tensors, forward and backward together, weights left out. What a
GPU would let wait in host memory is put there (into arrays that are no tensors) and given for
itself.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch
from modular_tiny import build
from rewardft_plugins.modular import decoding
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rewardft.algorithms.direct import Direct


class LiveTensors(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._sizes: dict[StorageWeakRef, int] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._sizes[StorageWeakRef(storage)] = storage.nbytes()
        self._sizes = {ref: size for ref, size in self._sizes.items() if not ref.expired()}
        self.most = max(self.most, sum(self._sizes.values()))
        return result


class HostMemory:
    """Arrays in the place of tensors that autograd saves. `bytes`: of all that were ever there."""

    def __init__(self) -> None:
        self.bytes = 0

    def hooks(self) -> Any:
        return saved_tensors_hooks(self.pack, torch.from_numpy)

    def pack(self, tensor: Tensor) -> Any:
        array = tensor.detach().numpy().copy()
        self.bytes += array.nbytes
        return array


def decode_video(family: str, frames: int, checkpointed: bool) -> tuple[Tensor, Tensor, int, int]:
    """The video, the gradient at its latents, the most live bytes, and those in host memory."""
    model, _ = build(family, frames=frames)
    if checkpointed:
        model.enable_decode_checkpointing()
    shape = model.sample_shape([model.condition.example()])
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(1, *shape, generator=noise).requires_grad_(True)
    host = HostMemory()
    with patch.object(decoding, "host_memory", lambda _: host.hooks()), LiveTensors() as live:
        video = model.decode(x)
        slope = torch.autograd.grad(video.sum(), x)[0]
    return video.detach(), slope, live.most, host.bytes


def one_training_step(steps: int) -> int:
    """The most live bytes in a step of DRTune with two trained steps of `steps`."""
    from modular_families import PROMPTS, WeightedReward, batch_of, context, waves

    model, _ = build("wan")
    ctx = context(model, [WeightedReward("waves", waves)], steps)
    algorithm = Direct("spaced", train_steps=2, input_gradient=False)
    with LiveTensors() as live:
        for loss in algorithm.losses(ctx, batch_of(PROMPTS)):
            loss.backward()
    return live.most


def print_table(heads: list[str], rows: list[tuple[int, ...]]) -> None:
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for first, *sizes in rows:
        print(f"| {first} | " + " | ".join(f"{size / 1024:,.0f} kB" for size in sizes) + " |")
    print()


def decoding_row(frames: int) -> tuple[int, ...]:
    plain, held = decode_video("wan", frames, False), decode_video("wan", frames, True)
    return frames, plain[2], held[2], held[3], plain[0].nbytes


def main() -> None:
    heads = ["frames", "plain", "checkpoints", "in host memory", "of which the video itself"]
    print_table(heads, [decoding_row(frames) for frames in (5, 9, 17, 33, 65)])
    steps = [(count, one_training_step(count)) for count in (4, 8, 16, 32)]
    print_table(["sampling steps", "a step of DRTune"], steps)


if __name__ == "__main__":
    main()
