"""Hypotheses of the base model for given pictures, and their true errors."""

from __future__ import annotations

import torch
from rewardft_plugins.adhmr.body import flesh_of, sampled_flesh
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.adhmr.space import Pose, unpack
from rewardft_plugins.humans.poses.errors import aligned_distance, mean_distance
from torch import Tensor

from rewardft.noise import Noise
from rewardft.samplers.ddim import DDIM
from rewardft.types import Batch, Plan

STEPS, CLIP = 3, 2.5  # the paper's three steps; a metre from the pelvis along each axis


@torch.no_grad()
def draw_hypotheses(model: PoseDiffusion, batch: Batch, count: int, seed: int) -> Tensor:
    """`(b, count, 118)`, each with noise of its own, which depends on the seed and the picture's
    id."""
    sampler = DDIM(STEPS, clip=CLIP)
    sampler.setup(model)
    copies = batch.repeat(count)
    # Ids of their own, or hypotheses would start from the noise that training draws.
    noise = Noise(seed, [f"hypothesis/{id_}" for id_ in copies.ids], copies.epochs)
    rollout = sampler.rollout(model, model.encode(copies), Plan(stop=STEPS), noise)
    drawn: Tensor = rollout.x0.unflatten(0, (-1, count))
    return drawn


@torch.no_grad()
def true_errors(hypotheses: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """MPJPE, PA-MPJPE, PVE and PA-PVE `(b, m)` in millimetres of `(b, m, 118)` against `(b, 118)`.

    The mesh's two are means over some hundred of its vertices.
    """
    found, true = unpack(hypotheses), unpack(truth)
    # (b, m, 27, 3) against (b, 1, 27, 3).
    joints, right = found["joints"], true["joints"][:, None]
    # Some hundred vertices are enough to rank hypotheses, and thousands of meshes fit in memory.
    flesh = sampled_flesh()
    flat: Pose = {"joints": joints.flatten(0, 1), "twists": found["twists"].flatten(0, 1)}
    mesh = flesh_of(flat, flesh).unflatten(0, joints.shape[:2])
    fleshed = flesh_of(true, flesh)[:, None]
    return {
        "mpjpe": mean_distance(joints, right),
        "pa_mpjpe": aligned_distance(joints, right),
        "pve": mean_distance(mesh, fleshed),
        "pa_pve": aligned_distance(mesh, fleshed),
    }
