"""From poses to meshes: inverse kinematics, then the body model that the package `smplx` skins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from rewardft_plugins.adhmr.space import Pose
from rewardft_plugins.humans.body import Body, load_body
from rewardft_plugins.humans.poses.kinematics import chain, rotations_of
from rewardft_plugins.humans.poses.skeleton import Skeleton, skeleton_of
from scipy.spatial.transform import Rotation
from torch import Tensor

AT_A_TIME = 256  # bodies, which keeps the pose blend shapes within some hundred megabytes


@lru_cache(maxsize=1)
def chosen_body() -> Body:
    """The licensed SMPL-X where SMPLX_MODELS names it, else the shipped open body."""
    return load_body(None)


@lru_cache(maxsize=1)
def chosen_skeleton() -> Skeleton:
    """That body's skeleton."""
    return skeleton_of(chosen_body())


def axis_angles_of(pose: Pose) -> Tensor:
    """Local rotations `(..., 22, 3)` in radians, by inverse kinematics; no gradient."""
    shape = pose["joints"].shape[:-2]
    joints, twists = pose["joints"].reshape(-1, 27, 3), pose["twists"].reshape(-1, 20, 2)
    # float64: differences of nearly parallel bones lose most digits of float32.
    skeleton = chosen_skeleton().double()
    rotations = rotations_of(joints.detach().double(), twists.detach().double(), skeleton)
    vectors = Rotation.from_matrix(rotations.reshape(-1, 3, 3).numpy()).as_rotvec()
    return torch.from_numpy(vectors).float().reshape(*shape, 22, 3)


@dataclass(frozen=True)
class Flesh:
    """Some vertices of the mean shape: places `(v, 3)` in the rest pose, weights `(v, 22)`, and
    where the 22 joints rest."""

    places: Tensor
    weights: Tensor
    rest: Tensor


@lru_cache(maxsize=2)
def sampled_flesh(count: int | None = 300) -> Flesh:
    """About `count` vertices of the chosen body, or all; fingers and face follow their wrists and
    head."""
    body = chosen_body()
    every = 1 if count is None else max(len(body.template) // count, 1)
    # Jaw and eyes go with the head (15), fingers with their wrists (20, 21).
    follows = torch.tensor([*range(22), 15, 15, 15, *[20] * 15, *[21] * 15])
    # Every n-th vertex, as the mean over a body needs no more.
    skinning = torch.from_numpy(np.asarray(body.skinning)[::every].copy()).float()
    weights = torch.zeros(len(skinning), 22).index_add_(1, follows, skinning)
    rest = torch.from_numpy(np.asarray(body.rest_joints_all)[:22].copy()).float()
    return Flesh(torch.from_numpy(body.template[::every].copy()).float(), weights, rest)


def flesh_of(pose: Pose, flesh: Flesh) -> Tensor:
    """Sampled vertices `(b, v, 3)` relative to the pelvis: linear blend skinning, differentiable.

    Without the pose blend shapes that the licensed SMPL-X has, of some millimetres.
    """
    skeleton = chosen_skeleton()
    rotations = rotations_of(pose["joints"], pose["twists"], skeleton)
    # (b, 22, 3, 3) and (b, 22, 3).
    turned, places = chain(rotations, skeleton)
    # A joint's transform is x -> R (x - rest) + place, so its translation is place - R rest.
    moved = places - (turned @ flesh.rest[..., None])[..., 0]
    turn = torch.einsum("vj,bjik->bvik", flesh.weights, turned)
    return (turn @ flesh.places[..., None])[..., 0] + torch.einsum(
        "vj,bji->bvi", flesh.weights, moved
    )


def mesh_of(pose: Pose) -> Tensor:
    """All vertices of the mean shape, relative to the pelvis, `(..., v, 3)` metres.

    A body without pose blend shapes, such as the open one, needs only plain skinning: the same to a
    hundredth of a millimetre as with `smplx`, in a twentieth of the time.
    """
    if chosen_body().skinning_arrays().bends is not None:
        return vertices_of(pose)
    joints, twists = pose["joints"].flatten(0, -3), pose["twists"].flatten(0, -3)
    flesh = sampled_flesh(None)
    parts = [
        flesh_of({"joints": some, "twists": with_them}, flesh)
        for some, with_them in zip(joints.split(AT_A_TIME), twists.split(AT_A_TIME))
    ]
    return torch.cat(parts).unflatten(0, pose["joints"].shape[:-2])


def vertices_of(pose: Pose) -> Tensor:
    """The same with the package `smplx` and every correction that the body has."""
    vectors = axis_angles_of(pose)
    flat = vectors.reshape(-1, 22, 3).numpy()
    parts = []
    for start in range(0, len(flat), AT_A_TIME):
        vertices, joints = chosen_body().pose(flat[start : start + AT_A_TIME])
        parts.append(torch.from_numpy(vertices - joints[:, :1]))
    return torch.cat(parts).reshape(*vectors.shape[:-2], -1, 3)
