"""Fit a body to six views: joints first, then silhouettes and normals too.

PSHuman (arXiv 2409.10141) starts its meshes from an SMPL-X body fitted like this, and then moves
single vertices. In the miniature that made meshes worse (docs/decisions.md), so the body is kept.
Adam on the CPU, many samples at once, in two stages:

1. pose, shape and place from the joints that the judge finds in the views. Views disagree, so
   distances are limited (Geman-McClure): a joint that one view puts elsewhere loses its say.
2. the same with the silhouettes: vertices outside one are drawn in, points of one are covered by
   the nearest vertex; and with the normals of the vertices that a view sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rewardft_plugins.drpose.mesh.evidence import Evidence, project, sample
from rewardft_plugins.humans.body import JOINTS
from rewardft_plugins.humans.body_file import BETAS
from rewardft_plugins.humans.camera import HALF_EXTENT, view_axes
from rewardft_plugins.humans.mesh import Mesh, seen
from rewardft_plugins.humans.retarget import solve
from rewardft_plugins.humans.skinning import SkinnedBody, vertex_normals
from torch import Tensor

# How far PSHuman trusts its views; scaled to a mean of 1. The diagonal ones least.
VIEW_WEIGHTS = torch.tensor([1.0, 0.4, 0.8, 1.0, 0.8, 0.4]) / (4.4 / 6)

_COVER_EVERY, _SEE_EVERY = 10, 15  # steps between searches for nearest and for visible vertices
_JOINT_LIMIT, _EDGE_LIMIT = 0.15, 0.12  # metres, beyond which a distance loses its say


@dataclass(frozen=True)
class FitOptions:
    """Steps of the two stages, and weights of the terms beside the joints'.

    silhouette: of squared metres.
    normal: of 1 - cosine.
    prior: of squared radians and squared standard deviations of shape.
    """

    joint_steps: int = 40
    view_steps: int = 110
    silhouette: float = 100.0
    normal: float = 1.0
    prior: float = 0.003


@dataclass(frozen=True)
class Fit:
    """vertices `(b, v, 3)`, joints `(b, 23, 3)`, poses `(b, 22, 3)`, betas `(b, 10)`."""

    vertices: Tensor
    joints: Tensor
    poses: Tensor
    betas: Tensor


def fit(evidence: Evidence, body: SkinnedBody, options: FitOptions | None = None) -> Fit:
    """Fit a body to each sample. The samples do not influence each other."""
    options = options or FitOptions()
    with torch.enable_grad():
        pose, betas, place = _start(evidence, body)
        sights = _Sights(evidence, body)
        groups = [
            {"params": [pose, betas], "lr": 0.03},
            {"params": [place], "lr": 0.01},
        ]
        adam = torch.optim.Adam(groups)
        steps = options.joint_steps + options.view_steps
        for step in range(steps):
            # Falls linearly: large turns first, then details.
            adam.param_groups[0]["lr"] = 0.003 + 0.03 * (1 - step / steps)
            # Sums over samples in every term, so that each sample's gradient is its own.
            vertices, joints = body.pose(pose, betas, place)
            loss = joint_loss(joints, evidence)
            # The root is left out: no direction of the body as a whole is more likely.
            loss = loss + options.prior * (pose[:, 1:].square().sum() + betas.square().sum())
            # A silhouette pulls the nearest limb, so limbs must be near their places first.
            if step >= options.joint_steps:
                loss = loss + sights.loss(vertices, options, step - options.joint_steps)
            adam.zero_grad()
            loss.backward()
            adam.step()
        posed, joints = (value.detach() for value in body.pose(pose, betas, place))
    return Fit(posed, joints, pose.detach(), betas.detach())


def joint_loss(joints: Tensor, evidence: Evidence) -> Tensor:
    """Limited squared distance of joints `(b, 23, 3)` to the places in the views, and half as much
    to those in space; summed over samples and joints."""
    # (b, 6, 23) squared metres in the picture planes.
    in_views = ((project(joints) - evidence.places) * HALF_EXTENT).square().sum(-1)
    views = (limited(in_views, _JOINT_LIMIT) * VIEW_WEIGHTS[:, None]).mean(1)
    in_space = (joints - evidence.joints).square().sum(-1)
    return views.sum() + 0.5 * limited(in_space, 0.2).sum()


def limited(square: Tensor, limit: float) -> Tensor:
    """Geman-McClure: a squared distance that levels off at `limit` squared."""
    return square / (1 + square / limit**2)


class _Sights:
    """Silhouettes and normals as losses of the vertices; what is nearest and what is visible is
    searched for every few steps only."""

    def __init__(self, evidence: Evidence, body: SkinnedBody) -> None:
        self.evidence, self.body = evidence, body

    def loss(self, vertices: Tensor, options: FitOptions, step: int) -> Tensor:
        """Sum over the samples. Call it with steps from 0 upwards."""
        places = project(vertices)
        depth = sample(self.evidence.depth[:, :, None], places)[..., 0]
        normals = vertex_normals(vertices, self.body.faces)
        # Searching costs more than a step, and what is nearest changes slowly.
        if step % _COVER_EVERY == 0:
            self._nearest = self._find_nearest(places.detach())
        if step % _SEE_EVERY == 0:
            self._seen = _visible(vertices.detach(), self.body)
        edges = self._outside(depth) + self._uncovered(places)
        return options.silhouette * edges + options.normal * self._turned(places, depth, normals)

    def _outside(self, depth: Tensor) -> Tensor:
        # Vertices inside cost nothing; outside it is the distance to the edge.
        out = limited((-depth).clamp_min(0).square(), _EDGE_LIMIT)
        return (out.mean(2) * VIEW_WEIGHTS).mean(1).sum()

    def _uncovered(self, places: Tensor) -> Tensor:
        # (b, 6, 96, 2): for each point of a silhouette its nearest vertex.
        nearest = places.gather(2, self._nearest[..., None].expand(-1, -1, -1, 2))
        away = ((nearest - self.evidence.inside) * HALF_EXTENT).square().sum(-1)
        weight = self.evidence.weight
        open_ = (limited(away, _EDGE_LIMIT) * weight).sum(2) / weight.sum(2).clamp_min(1)
        return (open_ * VIEW_WEIGHTS).mean(1).sum()

    def _turned(self, places: Tensor, depth: Tensor, normals: Tensor) -> Tensor:
        # (b, 6, v, 3).
        found = sample(self.evidence.normals, places)
        # Pixels at the edge are mixed with the background: their normals mean nothing.
        counts = (self._seen & (depth.detach() > 0.01)) * VIEW_WEIGHTS[:, None]
        angle = 1 - torch.einsum("bvnc,bnc->bvn", found, normals)
        return ((angle * counts).sum((1, 2)) / counts.sum((1, 2)).clamp_min(1)).sum()

    def _find_nearest(self, places: Tensor) -> Tensor:
        inside = self.evidence.inside
        away = torch.cdist(inside.flatten(0, 1), places.flatten(0, 1))
        return away.argmin(-1).unflatten(0, inside.shape[:2])


def _start(evidence: Evidence, body: SkinnedBody) -> tuple[Tensor, Tensor, Tensor]:
    """Pose, shape and place whose limbs point as the judge's joints do."""
    # The jaw is not among the joints of the retargeting, which needs limbs and trunk alone.
    positions = {
        name: evidence.joints[:, index].double().numpy()
        for index, name in enumerate(JOINTS)
        if name != "jaw"
    }
    pose = torch.from_numpy(solve(positions))
    betas, place = torch.zeros(len(pose), BETAS), torch.zeros(len(pose), 3)
    # The mean offset of all joints: one that the judge misplaces hardly moves it.
    place = (evidence.joints - body.pose(pose, betas, place)[1]).mean(1)
    return pose.requires_grad_(), betas.requires_grad_(), place.requires_grad_()


def _visible(vertices: Tensor, body: SkinnedBody) -> Tensor:
    """Which vertices each view sees, `(b, 6, v)`."""
    faces = body.faces.numpy().astype(np.int32)
    rows = []
    for sample_ in vertices.numpy():
        mesh = Mesh(sample_, faces)
        rows.append(np.stack([seen(mesh, right, towards) for right, towards in zip(*view_axes())]))
    return torch.from_numpy(np.stack(rows))
