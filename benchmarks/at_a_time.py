"""How many samples a CPU differentiates best at a time, and what a decoder's graph holds.

    python benchmarks/at_a_time.py            # two tables, minutes of one thread
    python benchmarks/at_a_time.py --decoder  # the second one alone, half a minute

Of the networks of `benchmarks/peers.py`: the gradient of each of four samples, with guidance, and
that of a picture by its latents, in processor seconds; the ways take turns, and the least of
`ROUNDS` counts.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
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
    ways = {"as torch keeps it": nullcontext, "as here": LeanDecoding}
    kept: dict[str, dict[int, int]] = {}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, mode in ways.items():
            kept[name] = {}
            latents = torch.randn(1, 4, 32, 32, requires_grad=True)
            start = time.process_time()
            with noting(kept[name]), mode():
                pictures = decoder.decode(latents).sample
            pictures.square().mean().backward()
            taken[name].append(time.process_time() - start)
    print("\n| the decoder's graph, of one picture | MB | s |\n|---|---|---|")
    for name in ways:
        print(f"| {name} | {sum(kept[name].values()) / 1e6:.0f} | {min(taken[name]):.3f} |")


def noting(kept: dict[int, int]) -> AbstractContextManager[Any]:
    """The bytes of what a graph holds, by address."""
    import torch

    def keep(tensor: Any) -> Any:
        if tensor.grad_fn is not None:  # no weight
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    if "--decoder" not in sys.argv:
        time_gradients()
    weigh_decoder()
