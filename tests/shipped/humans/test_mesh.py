"""Meshes, their distances and pictures, and posing with gradients, against independent computations."""

import numpy as np
import pytest
import torch
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.camera import HALF_EXTENT
from rewardft_plugins.humans.distances import closest_on_triangles, compare, draw
from rewardft_plugins.humans.mesh import Mesh, seen, stored_views, turntable
from rewardft_plugins.humans.skinning import SkinnedBody, rotations, vertex_normals
from scipy.spatial.transform import Rotation


def box(half=0.5, shift=(0.0, 0.0, 0.0)):
    """A cube of 12 triangles, counter-clockwise from outside."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    faces = []
    for axis in range(3):
        for sign in (-1, 1):
            side = [i for i in range(8) if corners[i, axis] == sign]
            a, b, c, d = side[0], side[1], side[3], side[2]
            for triangle in ((a, b, c), (a, c, d)):
                p = corners[list(triangle)]
                outwards = np.cross(p[1] - p[0], p[2] - p[0])[axis] * sign > 0
                faces.append(triangle if outwards else triangle[::-1])
    return Mesh(corners * np.float32(half) + np.float32(shift), np.array(faces, np.int32))


# -- distances ---------------------------------------------------------------------------------------------------------


def test_the_nearest_point_of_a_triangle_is_no_further_than_any_other():
    """Against a dense sample of barycentric coordinates, inside and outside, and a triangle without area."""
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(200, 3, 3))
    corners[0, 1] = corners[0, 2] = corners[0, 0]
    points = rng.normal(size=(200, 3)) * 2
    found = np.linalg.norm(closest_on_triangles(points, corners) - points, axis=1)
    share = np.linspace(0, 1, 60)
    u, v = (grid.ravel() for grid in np.meshgrid(share, share))
    weights = np.stack([1 - u, u * (1 - v), u * v], axis=1)
    dense = np.einsum("sk,nkc->nsc", weights, corners)
    best = np.linalg.norm(dense - points[:, None], axis=-1).min(axis=1)
    assert (found <= best + 1e-9).all()
    assert np.abs(found - best).max() < 0.05


def test_points_are_spread_by_area():
    wide = Mesh(
        np.array([[0, 0, 0], [3, 0, 0], [0, 1, 0], [10, 0, 0], [11, 0, 0], [10, 1, 0]], np.float32),
        np.array([[0, 1, 2], [3, 4, 5]], np.int32),
    )
    points, faces = draw(wide, 4000, np.random.default_rng(0))
    assert (faces == 0).mean() == pytest.approx(0.75, abs=1e-3)  # 1.5 of 2 square metres
    assert points[faces == 1].mean(axis=0) == pytest.approx([10 + 1 / 3, 1 / 3, 0], abs=0.02)


def test_cubes_of_two_sizes():
    """Every point of the small one is 100 mm from the large one; back, corners are further."""
    found = compare(box(0.4), box(0.5))
    assert found.to_truth == pytest.approx(100, abs=0.01)
    # the mean over one face of the distance to the smaller square face below it, by integration
    line = (np.arange(2000) + 0.5) / 2000 - 0.5
    over = np.maximum(np.abs(line) - 0.4, 0)
    expected = 1000 * np.sqrt(0.01 + over[:, None] ** 2 + over[None] ** 2).mean()
    assert found.p2s == pytest.approx(expected, abs=0.5)
    assert found.chamfer == pytest.approx((found.to_truth + found.p2s) / 2)
    assert found.consistency > 0.9


def test_a_mesh_is_at_no_distance_from_itself_and_nothing_is_aligned():
    same = compare(box(), box())
    assert same.chamfer < 0.2 and same.consistency > 0.98
    assert compare(box(), box(shift=(2.0, 0, 0))).chamfer > 1000


def test_no_faces_have_no_distance():
    with pytest.raises(ValueError, match="a mesh without faces has no surface to draw points from"):
        compare(Mesh(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.int32)), box())


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_cube_covers_its_share_of_the_picture():
    half = 0.6
    (front,) = turntable(box(half), count=1, size=64)
    covered = (front < 255).any(axis=0).mean()
    assert covered == pytest.approx((half / HALF_EXTENT) ** 2, abs=0.03)
    (corner,) = turntable(box(half), count=1, size=64, start=45.0)
    assert (corner < 255).any(axis=0).mean() == pytest.approx(2**0.5 * covered, rel=0.06)


def test_stored_views_are_those_of_the_renderer():
    pytest.importorskip("smplx")
    from rewardft_plugins.humans.appearance import generator, random_look
    from rewardft_plugins.humans.render import render

    body = load_body()
    poses = np.random.default_rng(0).normal(scale=0.3, size=(1, 22, 3)).astype(np.float32)
    vertices, _ = body.pose(poses)
    views = render(body, vertices, [random_look(generator(0, "a"))], 32)
    normals, colours = stored_views(Mesh(vertices[0], body.faces), 32)
    # the renderer makes interpolated normals unit length, which these are not quite
    assert np.abs(normals.astype(int) - views.normals[0]).max() < 20
    assert np.abs(normals.astype(int) - views.normals[0]).mean() < 0.3
    assert colours.shape == (6, 3, 32, 32)


def test_a_camera_sees_the_side_that_faces_it():
    mesh = box().subdivided().subdivided()
    right, towards = np.array([1, 0, 0], np.float32), np.array([0, 0, 1], np.float32)
    found = seen(mesh, right, towards)
    assert found[mesh.vertices[:, 2] > 0.49].all()
    assert not found[mesh.vertices[:, 2] < 0.2].any()


def test_subdividing_keeps_the_surface():
    mesh = box().subdivided()
    assert len(mesh.faces) == 48 and len(mesh.vertices) == 8 + 18
    assert compare(mesh, box()).chamfer < 0.2
    corners = mesh.vertices[mesh.faces]
    volume = np.einsum("ij,ij->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume == pytest.approx(1.0, abs=1e-5)  # all faces still look outwards


# -- posing with gradients ---------------------------------------------------------------------------------------------


def test_rotations_are_scipys_and_have_gradients_at_rest():
    vectors = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    assert np.abs(rotations(vectors).numpy() - expected).max() < 1e-11
    rest = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotations(rest)[0, 1, 0], rest)
    assert gradient[0].tolist() == pytest.approx([0, 0, 1], abs=1e-5)


def test_posing_is_that_of_smplx():
    pytest.importorskip("smplx")
    body = load_body()
    rng = np.random.default_rng(0)
    poses = rng.normal(scale=0.6, size=(4, 22, 3)).astype(np.float32)
    betas = rng.normal(size=(4, 10)).astype(np.float32)
    vertices, joints = body.pose(poses, betas)
    shift = torch.tensor([1.0, 2.0, 3.0]).expand(4, 3)
    found, places = SkinnedBody(body).pose(torch.from_numpy(poses), torch.from_numpy(betas), shift)
    assert np.abs((found - shift[:, None]).numpy() - vertices).max() < 2e-6
    assert np.abs((places - shift[:, None]).numpy() - joints).max() < 2e-6


def test_pose_blend_shapes_count(tmp_path):
    """The open body has none; the licensed one does."""
    pytest.importorskip("smplx")
    source = load_body().file
    with np.load(source) as data:
        arrays = {name: data[name] for name in data.files}
    bends = np.zeros_like(arrays["posedirs"])
    bends[:, :, : 9 * 21] = np.random.default_rng(0).normal(scale=1e-3, size=(9930, 3, 9 * 21))
    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **{**arrays, "posedirs": bends})
    body = load_body(tmp_path)
    poses = np.random.default_rng(1).normal(scale=0.6, size=(2, 22, 3)).astype(np.float32)
    found, _ = SkinnedBody(body).pose(
        torch.from_numpy(poses), torch.zeros(2, 10), torch.zeros(2, 3)
    )
    assert np.abs(found.numpy() - body.pose(poses)[0]).max() < 2e-6
    assert np.abs(found.numpy() - load_body().pose(poses)[0]).max() > 1e-3


def test_normals_in_torch_are_those_of_the_renderer():
    mesh = box().subdivided()
    found = vertex_normals(
        torch.from_numpy(mesh.vertices)[None], torch.from_numpy(mesh.faces).long()
    )
    assert np.abs(found[0].numpy() - mesh.normals()).max() < 1e-6
