"""Skeleton maps against a brute-force drawing."""

import numpy as np
import pytest
import torch
from rewardft_plugins.humans.body import PARENTS
from rewardft_plugins.humans.skeleton import skeleton_maps


def _brute_force(joints, size, radius, parents):
    maps = np.zeros((len(joints), size, size))
    for j, parent in enumerate(parents):
        a, b = joints[j], joints[parent if parent >= 0 else j]
        for row in range(size):
            for column in range(size):
                p = np.array([(column + 0.5) * 2 / size - 1, (row + 0.5) * 2 / size - 1])
                share = (
                    0.0
                    if np.allclose(a, b)
                    else float(np.clip((p - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1))
                )
                distance = np.linalg.norm(p - a - share * (b - a))
                maps[j, row, column] = np.clip((radius - distance) * size / 2 + 0.5, 0, 1)
    return maps


def test_maps_equal_a_brute_force_drawing():
    joints = (
        torch.rand(23, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1.8
        - 0.9
    )
    maps = skeleton_maps(joints, 24, 0.1)
    np.testing.assert_allclose(
        maps.numpy(), _brute_force(joints.numpy(), 24, 0.1, PARENTS), atol=1e-5
    )


def test_leading_dimensions_and_dtype_are_kept():
    joints = torch.rand(2, 6, 23, 2) - 0.5
    maps = skeleton_maps(joints, 16)
    assert maps.shape == (2, 6, 23, 16, 16) and maps.dtype == torch.float32
    torch.testing.assert_close(maps[1, 4], skeleton_maps(joints[1, 4], 16))
    assert maps.min() >= 0 and maps.max() <= 1


def test_mirrored_joints_give_mirrored_maps():
    joints = torch.rand(23, 2, generator=torch.Generator().manual_seed(1)) - 0.5
    flipped = joints * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(
        skeleton_maps(flipped, 32), skeleton_maps(joints, 32).flip(-1), atol=1e-5, rtol=0
    )


def test_gradients_equal_finite_differences_and_are_finite_on_the_bone():
    joints = torch.tensor([[0.0, 0.0], [0.3, 0.1]], dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: (skeleton_maps(x, 16, 0.3, (-1, 0), 0.4) * weights).sum(), joints
    )
    collapsed = torch.full(
        (2, 2), 1 / 16, requires_grad=True
    )  # on a pixel centre, bone of length 0
    skeleton_maps(collapsed, 16, 0.2, (-1, 0)).sum().backward()
    assert torch.isfinite(collapsed.grad).all()


def test_wrong_number_of_joints():
    with pytest.raises(ValueError, match=r"^skeleton_maps got 22 joints for 23 parents$"):
        skeleton_maps(torch.zeros(22, 2), 16)
