"""Pictures of held-out samples, drawn at random and not chosen: the base, and runs beside it.

    python benchmarks/drpose_pictures.py --out docs/drpose_base.png --samples 12
    python benchmarks/drpose_pictures.py --split acro_val --samples 5 --out docs/drpose_smear.png \\
        --run pose_score=runs/published --run crisp_pose=runs/drpose_mini

Each sample is a block: the normals of the six views by the base, by each run, and the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact
from rewardft_plugins.drpose.model.sampler import MultiviewDDIM, split_domains
from rewardft_plugins.drpose.pictures import save_comparison
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.runs.open import load_trained, open_run
from rewardft.types import Batch, Plan


@torch.no_grad()
def normals(model: MultiviewCompact, batch: Batch, steps: int) -> Tensor:
    """The six normal views `(n, 6, 3, s, s)`, every model with the same noise."""
    sampler = MultiviewDDIM(steps)
    sampler.setup(model)
    noise = Noise(0, batch.ids, batch.epochs)
    with torch.autocast("cpu", torch.bfloat16):
        rollout = sampler.rollout(model, model.encode(batch), Plan(stop=steps), noise)
    return split_domains(model.decode(rollout.x0.float()))[0]


def tuned(folder: Path) -> MultiviewCompact:
    session = open_run(folder)
    load_trained(session, folder)
    return session.model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/drpose_mini")
    parser.add_argument("--split", default="plain_val+acro_val")
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    dataset = Drpose15k(options.data, options.split, targets=True)
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(options.seed))
    items = [dataset[i] for i in order[: options.samples].tolist()]
    batch = make_batch(items, [0] * len(items))
    rows = [("base", normals(MultiviewCompact(weights="shipped"), batch, options.steps))]
    for name, _, folder in (run.partition("=") for run in options.run):
        rows.append((name, normals(tuned(Path(folder)), batch, options.steps)))
    save_comparison(options.out, batch["image"], [*rows, ("truth", batch["normals"])], 2, 72)


if __name__ == "__main__":
    main()
