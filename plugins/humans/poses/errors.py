"""The errors of human mesh recovery, in millimetres; each `(...)` for points `(..., n, 3)` in
metres.

Of root-relative joints: `mpjpe`; after a similarity alignment: `pa_mpjpe`; of the mesh's vertices
with the roots aligned: the same functions, then called PVE and PA-PVE.
"""

from __future__ import annotations

import torch
from torch import Tensor

MILLIMETRES = 1000.0


def mean_distance(found: Tensor, truth: Tensor) -> Tensor:
    """Mean distance of corresponding points."""
    return MILLIMETRES * (found - truth).norm(dim=-1).mean(-1)


def aligned_distance(found: Tensor, truth: Tensor) -> Tensor:
    """The same after the best rotation, translation and scale of `found` (Procrustes)."""
    found, truth = torch.broadcast_tensors(found, truth)
    return mean_distance(align(found, truth), truth)


def align(found: Tensor, truth: Tensor) -> Tensor:
    """`found` moved onto `truth` by the similarity that is best in least squares (Umeyama 1991); no
    reflection."""
    start, end = found.mean(-2, keepdim=True), truth.mean(-2, keepdim=True)
    a, b = found - start, truth - end
    # (3, 3) covariance; its singular vectors give the best rotation.
    u, stretch, vh = torch.linalg.svd(a.transpose(-1, -2) @ b)
    signs = torch.ones_like(stretch)
    # Without it the best fit may be a reflection, which no person can do.
    signs[..., 2] = torch.linalg.det(u @ vh).sign()
    rotation = u @ (signs[..., None] * vh)
    # (...,): the best scale for this rotation.
    scale = (stretch * signs).sum(-1) / a.square().sum((-1, -2)).clamp(min=1e-12)
    return scale[..., None, None] * (a @ rotation) + end


def spread(joints: Tensor) -> Tensor:
    """How far M hypotheses `(..., M, n, 3)` lie apart: mean over the joints of the distance's
    standard deviation."""
    # (..., M, n, 3), from the mean over the hypotheses.
    centred = joints - joints.mean(-3, keepdim=True)
    return MILLIMETRES * centred.square().sum(-1).mean(-2).sqrt().mean(-1)
