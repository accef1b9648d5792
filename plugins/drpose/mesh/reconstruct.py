"""From six views to coloured meshes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from rewardft_plugins.drpose.judges.pose_judge import JudgeNet
from rewardft_plugins.drpose.mesh.colour import paint_mesh
from rewardft_plugins.drpose.mesh.evidence import look_at
from rewardft_plugins.drpose.mesh.fit import Fit, FitOptions, fit
from rewardft_plugins.drpose.weights import SHIPPED, freeze, locate
from rewardft_plugins.humans.body import Body, load_body
from rewardft_plugins.humans.mesh import Mesh
from rewardft_plugins.humans.skinning import SkinnedBody
from torch import Tensor

CHUNK = 16  # samples that are fitted together


@dataclass(frozen=True)
class Reconstruction:
    """meshes: coloured, in the frame of the condition camera.
    joints: `(n, 23, 3)` metres of the fitted bodies.
    poses, betas: `(n, 22, 3)` axis-angle and `(n, 10)`, their parameters."""

    meshes: list[Mesh]
    joints: Tensor
    poses: Tensor
    betas: Tensor


class Reconstructor:
    """Fits a body to views and colours it.

    Args:
        body: who is fitted, as `load_body` takes it; the body that the data set was built with.
        judge: folder of the judge whose joints a fit starts from, or "shipped".
        options: of the fit.

    Raises:
        ComponentError, DataError: the judge or the body does not load.
    """

    def __init__(
        self, body: str | None = None, judge: str = SHIPPED, options: FitOptions | None = None
    ) -> None:
        self.body: Body = load_body(body)
        self._skinned = SkinnedBody(self.body)
        self._judge = JudgeNet.load(locate(judge, "judge"))
        freeze(self._judge)
        self.options = options or FitOptions()

    def __call__(self, normals: Tensor, colours: Tensor) -> Reconstruction:
        """Normals and colours `(n, 6, 3, s, s)` in [0, 1] on white, back and left mirrored.

        Each sample is fitted independently of the others, but a batch of another size rounds
        differently, and the steps of the fit turn that into a few millimetres.
        """
        fits: list[Fit] = []
        meshes: list[Mesh] = []
        for some, tints in zip(_clean(normals).split(CHUNK), _clean(colours).split(CHUNK)):
            # In chunks: silhouettes at 256 pixels and their distances take memory.
            evidence = look_at(some, self._judge)
            fits.append(fit(evidence, self._skinned, self.options))
            for vertices, tint, depth in zip(fits[-1].vertices, tints, evidence.depth):
                meshes.append(paint_mesh(self._mesh(vertices), tint, depth))
        return Reconstruction(
            meshes,
            joints=torch.cat([found.joints for found in fits]),
            poses=torch.cat([found.poses for found in fits]),
            betas=torch.cat([found.betas for found in fits]),
        )

    def _mesh(self, vertices: Tensor) -> Mesh:
        """A body of few vertices is subdivided once: colours need more places than the form."""
        mesh = Mesh(np.ascontiguousarray(vertices.numpy()), self.body.faces)
        return mesh.subdivided() if len(mesh.vertices) < 5000 else mesh


def true_mesh(body: Body, pose: Tensor, betas: Tensor, offset: Tensor) -> list[Mesh]:
    """The bodies that a data set's views show, without colours.

    pose `(n, 22, 3)`, betas `(n, 10)` and offset `(n, 3)` as `Drpose15k` gives them.
    """
    vertices, joints = body.pose(pose.cpu().numpy(), betas.cpu().numpy())
    vertices = vertices - joints[:, :1] + offset.cpu().numpy()[:, None]
    return [Mesh(np.ascontiguousarray(shown), body.faces) for shown in vertices]


def _clean(pictures: Tensor) -> Tensor:
    return pictures.detach().float().cpu().clamp(0, 1)
