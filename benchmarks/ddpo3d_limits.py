"""What limits people built from one picture: the scenes, the prior's views, or the pose that it
reads off the picture.

    python benchmarks/ddpo3d_limits.py --data data/drpose_mini --count 16

Prints, for held-out plain and acrobatic pictures: how well scenes that are fitted to the true six
views match from the eight cameras of `ddpo3d_human`; how well the outlines of the prior's own
samples match in each of its six views; how wrong the depths of its pose estimator are.
"""

from __future__ import annotations

import argparse

import torch
from rewardft_plugins.ddpo3d.data import ScenesOf
from rewardft_plugins.ddpo3d.model import GaussianScene
from rewardft_plugins.ddpo3d.silhouettes import body_of, outlines, overlap
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact
from rewardft_plugins.drpose.model.sampler import MultiviewDDIM, split_domains
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.types import Batch, Plan

CAMERAS = torch.arange(8) * 45.0 + 22.5
FIT_STEPS, SAMPLE_STEPS = 60, 10
WHITE = 0.9  # pixels with a channel below are of the person


def truth(batch: Batch, azimuths: Tensor) -> Tensor:
    """`(b, m, 64, 64)` bool: the true outlines."""
    names = ("pose", "betas", "offset")
    here = torch.zeros(1).numpy()
    body = (batch[name].numpy() for name in names)
    return torch.from_numpy(outlines(body_of(None), *body, azimuths.numpy(), 64, here)[0]) > 127


def fitted(prior: MultiviewCompact, batch: Batch) -> Tensor:
    """`(b,)`: the overlap at the eight cameras of scenes fitted to the true views."""
    model = GaussianScene(
        prior,
        scenes=len(batch),
        gaussians=150,
        channels={"normals": 3, "colours": 3},
        extent=1.2,
        background=1.0,
        box=(0.2, 0.8, 0.2),
        scale=0.055,
        opacity=0.5,
        rewards_see="latents",
    )
    target = torch.cat([batch["normals"], batch["colours"]], 2)
    groups = [
        {"params": [parameter], "lr": 0.04 * model.rates.get(name, 1.0)}
        for name, parameter in model.trainable.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups)
    cond = model.encode(batch)
    for _ in range(FIT_STEPS):
        picture, _ = model.render(
            cond["scene"], *(cond[k] for k in ("azimuth", "elevation", "mirror"))
        )
        optimizer.zero_grad()
        (picture - target).square().sum().backward()
        optimizer.step()
    with torch.no_grad():
        level = torch.zeros(len(batch), len(CAMERAS))
        _, coverage = model.render(
            cond["scene"], CAMERAS.expand(len(batch), -1), level, level.bool()
        )
    return overlap(coverage > 0.5, truth(batch, CAMERAS))


@torch.no_grad()
def sampled(prior: MultiviewCompact, batch: Batch) -> Tensor:
    """`(b, 6)`: the overlap of the prior's own samples, view by view."""
    sampler = MultiviewDDIM(SAMPLE_STEPS)
    sampler.setup(prior)
    noise = Noise(0, batch.ids, batch.epochs)
    rollout = sampler.rollout(prior, prior.encode(batch), Plan(stop=SAMPLE_STEPS), noise)
    normals, _ = split_domains(prior.decode(rollout.x0))
    found = (normals < WHITE).any(2)
    true = truth(batch, batch["azimuth"][0])
    true = torch.where(batch["mirror"][0].view(1, -1, 1, 1), true.flip(-1), true)
    views = overlap(found.flatten(0, 1), true.flatten(0, 1))
    return views.unflatten(0, (len(batch), -1))


@torch.no_grad()
def depth_errors(prior: MultiviewCompact, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Metres, means over joints `(b,)`: in the picture's plane; in depth; in depth from the
    pelvis."""
    assert prior.estimator is not None
    error = prior.estimator(batch["image"]) - batch["joints"] - batch["offset"][:, None]
    plane = error[..., :2].norm(dim=-1).mean(1)
    depth = error[..., 2]
    return plane, depth.abs().mean(1), (depth - depth[:, :1]).abs().mean(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="data/drpose_mini")
    parser.add_argument("--count", type=int, default=16, help="pictures of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    prior = MultiviewCompact(weights="shipped")
    for split in ("plain_val", "acro_val"):
        data = ScenesOf(Drpose15k(options.data, split, targets=True), limit=options.count)
        batch = make_batch([data[i] for i in range(len(data))], [0] * len(data))
        views = " ".join(f"{float(value):.2f}" for value in sampled(prior, batch).mean(0))
        errors = [round(1000 * float(value.mean())) for value in depth_errors(prior, batch)]
        print(f"{split}: scenes fitted to the true views {float(fitted(prior, batch).mean()):.2f};")
        print(f"  the prior's views at {batch['azimuth'][0].int().tolist()} degrees: {views};")
        print(
            f"  joints, mm: {errors[0]} in the plane, {errors[1]} in depth, {errors[2]} of it pose"
        )


if __name__ == "__main__":
    main()
