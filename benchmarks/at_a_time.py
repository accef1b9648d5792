"""How many samples a CPU differentiates best at a time, and what a decoder's graph holds.

    python benchmarks/at_a_time.py            # two tables, minutes of one thread

Of the networks of `benchmarks/peers.py`: the gradient of each of four samples, with guidance, in
processor seconds; the ways take turns, and the least of `ROUNDS` counts.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "side_by_side"))
ROUNDS, BATCH = 6, 4


def gradients(network: Any, adapter: Any, together: int) -> None:
    """Of every sample with respect to the adapter."""
    import torch

    from rewardft.policy.sample_gradients import flat_gradient

    for _ in range(BATCH // together):
        x, text = torch.randn(2 * together, 4, 32, 32), torch.randn(2 * together, 77, 256)
        rows = adapter.sample_gradients(together)
        with rows.watched() if together > 1 else nullcontext():
            null, full = network(x, torch.full((len(x),), 500), text).sample.chunk(2)
            values = (null + 5 * (full - null)).flatten(1).mean(1)
            if together > 1:
                rows.of(values)
            else:
                flat_gradient(values[0], adapter.parameters)


def time_gradients() -> None:
    """The first table."""
    import torch
    from checkpoint import SIZES, denoiser

    from rewardft.policy.lora import Lora

    network = denoiser(SIZES["mid"]).to(memory_format=torch.channels_last)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    spec = SimpleNamespace(rank=4, alpha=None, targets=targets, dropout=0.0)
    adapter = Lora(SimpleNamespace(trainable=network), spec, 0)  # type: ignore[arg-type]
    taken: dict[int, list[float]] = {1: [], 2: [], 4: []}
    for _ in range(ROUNDS):
        for together, seconds in taken.items():
            start = time.process_time()
            gradients(network, adapter, together)
            seconds.append(time.process_time() - start)
    least = {together: min(seconds) for together, seconds in taken.items()}
    print("| samples at a time | s for four | times a batch of four |\n|---|---|---|")
    for together, seconds in least.items():
        print(f"| {together} | {seconds:.2f} | {seconds / least[BATCH]:.2f} |")


def weigh_decoder() -> None:
    """The second table."""
    import torch
    from checkpoint import SIZES, autoencoder

    from rewardft.policy.lean_decoding import LeanDecoding

    decoder = autoencoder(SIZES["mid"]).requires_grad_(False)
    print("\n| the decoder's graph, of one picture | MB |\n|---|---|")
    for name, mode in (("as torch keeps it", nullcontext()), ("as here", LeanDecoding())):
        kept: dict[int, int] = {}

        def keep(tensor: Any, kept: dict[int, int] = kept) -> Any:
            if tensor.grad_fn is not None:  # no weight
                storage = tensor.untyped_storage()
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mode:
            pictures = decoder.decode(torch.randn(1, 4, 32, 32, requires_grad=True)).sample
        print(f"| {name} | {sum(kept.values()) / 1e6:.0f} |")
        del pictures


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    time_gradients()
    weigh_decoder()
