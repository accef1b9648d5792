"""`rewardft plan` against real peaks: the same recipe planned, and run in a process of its own.

    python benchmarks/plan_peaks.py                 # the table
    python benchmarks/plan_peaks.py --point 3 5     # two rows of it

The real peak is the most that torch's allocator has handed out at once while the recipe ran, from
its own record (`torch.profiler`): what `torch.cuda.max_memory_allocated` tells on a GPU, and what
`plan` foretells. Not in it is what the libraries below torch take for themselves, and what an
allocator loses between the pieces.

The model is that of `benchmarks/mid.py`, with its autoencoder to `--latents` times eight pixels and
a ViT as the reward; batch 2, T = 3, LoRA of rank 4 and float32 unless said.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECIPE = f"""
plugins: [ddpo, {HERE / "mid.py"}]
seed: 0
model: {{use: mid}}
sampler: {{use: ddim, steps: 3, eta: 1.0}}
data: {{use: mid_prompts, batch_size: 2}}
rewards: [{{use: mid_vit}}]
algorithm: {{use: draft_k, train_steps: 1}}
adapter: {{kind: lora, rank: 4}}
optimizer: {{use: adamw, lr: 1e-4}}
train: {{steps: 2, micro_batch: 2}}
"""
POINTS = [
    [],
    ["train.micro_batch=1"],
    ["train.checkpointing=true"],
    ["train.checkpointing=true", "train.decode_checkpointing=true"],
    ["algorithm.train_steps=3"],
    ["train.precision=bf16"],
    ["algorithm={use: ddpo}"],
    ["adapter={kind: full}"],
]


def real_peak(recipe: Path, overrides: list[str]) -> int:
    """Bytes, in this process."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from rewardft.testing import run_recipe

    torch.set_num_threads(1)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run_recipe(recipe, recipe.parent / "run", *overrides)
    trace = recipe.parent / "trace.json"
    seen.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def planned_peak(recipe: Path, overrides: list[str]) -> int:
    """Bytes."""
    from rewardft.engine.planning import plan_memory
    from rewardft.plugins.resolve import open_recipe

    return plan_memory(*open_recipe(recipe, overrides)).peak


def measure(kind: str, overrides: list[str]) -> int:
    """One figure, in a process of its own: what one leaves behind must not count for the next."""
    fork = multiprocessing.get_context("fork")
    # An executor, as a pool waits forever for a process that the system has killed.
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, fork) as own:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(RECIPE)
        peak = planned_peak if kind == "planned" else real_peak
        return own.submit(peak, recipe, overrides).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--point", type=int, nargs="+", choices=range(len(POINTS)))
    parser.add_argument("--latents", type=int, default=32)
    words = parser.parse_args()
    import rewardft.engine.train  # noqa: F401 (and torch with it, once for all that is forked)

    print("| settings | planned (MiB) | real (MiB) | planned / real |\n|---|---|---|---|")
    for point in words.point or range(len(POINTS)):
        overrides = [*POINTS[point], f"model.latents={words.latents}"]
        planned, real = measure("planned", overrides), measure("real", overrides)
        settings = ", ".join(f"`{word}`" for word in POINTS[point]) or "as above"
        ratio = f"{planned / real:.3f}"
        print(f"| {settings} | {planned >> 20:,} | {real >> 20:,} | {ratio} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
