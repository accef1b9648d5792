"""Does a pose reward pay for hedging? Samples of one picture against the average of their latents.

    python benchmarks/drpose_hedging.py --data data/drpose_mini --samples 16 --draws 6

The base samples each held-out acrobatic picture several times without a skeleton, so that the pose
is open where the picture does not show it. The average of the draws' latents is a cloud: its
gradient energy is half of a draw's. A reward that scores it higher than the draws pays for
smearing. Prints a Markdown table: the mean value of a draw, of the average and of the truth, and in
how many pictures the average scores higher than the mean draw.
"""

from __future__ import annotations

import argparse

import torch
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.judges.pose_judge import sharpness
from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact
from rewardft_plugins.drpose.model.sampler import MultiviewDDIM, split_domains
from rewardft_plugins.drpose.rewards.crisp_normals import CrispNormals
from rewardft_plugins.drpose.rewards.crisp_pose import CrispPose
from rewardft_plugins.drpose.rewards.forms import JointRegression
from rewardft_plugins.drpose.rewards.pose_score import PoseScore
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.testing import make_rollout
from rewardft.types import Batch, Plan


def draw(model: MultiviewCompact, batch: Batch, draws: int, steps: int) -> Tensor:
    """Latents `(draws, n, 12, c, h, w)`, sampled without skeletons."""
    sampler = MultiviewDDIM(steps)
    sampler.setup(model)
    cond = model.encode(batch)
    cond["skeletons"] = torch.zeros_like(cond["skeletons"])
    plan = Plan(stop=steps)
    seeds = (Noise(seed, batch.ids, batch.epochs) for seed in range(draws))
    with torch.autocast("cpu", torch.bfloat16):
        return torch.stack(
            [sampler.rollout(model, cond, plan, noise).x0.float() for noise in seeds]
        )


@torch.no_grad()
def table(model: MultiviewCompact, batch: Batch, latents: Tensor) -> str:
    lines = [
        "| value | a draw | average | truth | average scores higher |",
        "|---|---|---|---|---|",
    ]
    truth, average = model.clean(batch), latents.mean(0)

    def sharp(x: Tensor, batch: Batch) -> Tensor:
        return sharpness(split_domains(model.decode(x))[0], batch["normals"])

    values = {"sharpness": sharp}
    for reward in (PoseScore(), CrispPose(), JointRegression(), CrispNormals()):
        values[reward.name] = lambda x, batch, reward=reward: reward(make_rollout(x, batch), batch)
    for name, value in values.items():
        single = torch.stack([value(x, batch) for x in latents]).mean(0)
        hedged, best = value(average, batch), value(truth, batch)
        share = (hedged > single).float().mean()
        means = " | ".join(f"{v.mean():.4f}" for v in (single, hedged, best))
        lines.append(f"| {name} | {means} | {100 * share:.0f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/drpose_mini")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    dataset = Drpose15k(options.data, "acro_val", targets=True, limit=options.samples)
    batch = make_batch([dataset[i] for i in range(len(dataset))], [0] * len(dataset))
    model = MultiviewCompact(weights="shipped")
    print(table(model, batch, draw(model, batch, options.draws, options.steps)))


if __name__ == "__main__":
    main()
