"""The renderer, on shapes whose pictures are known and on the body."""

from types import SimpleNamespace

import numpy as np
import pytest
from rewardft_plugins.humans.appearance import generator, random_look
from rewardft_plugins.humans.body import PARTS, load_body
from rewardft_plugins.humans.camera import HALF_EXTENT, VIEWS, project
from rewardft_plugins.humans.motion import shipped_clips
from rewardft_plugins.humans.render import Appearance, render

FRONT, RIGHT, BACK, LEFT = (VIEWS.index(name) for name in ("front", "right", "back", "left"))


def _mesh(faces):
    """A mesh with the attributes of a body that the renderer reads."""
    faces = np.asarray(faces, np.int32)
    return SimpleNamespace(
        faces=faces,
        face_parts=np.full(len(faces), 2, np.uint8),
        face_hair=np.zeros(len(faces), bool),
    )


def _sphere(radius):
    rings, sectors = 48, 96
    lat = np.linspace(0, np.pi, rings + 1)
    lon = np.linspace(0, 2 * np.pi, sectors, endpoint=False)
    points = np.stack(
        [
            np.outer(np.sin(lat), np.sin(lon)),
            np.outer(np.cos(lat), np.ones(sectors)),
            np.outer(np.sin(lat), np.cos(lon)),
        ],
        axis=-1,
    )
    faces = []
    for i in range(rings):
        for j in range(sectors):
            a, b = i * sectors + j, i * sectors + (j + 1) % sectors
            faces += [[a, a + sectors, b], [b, a + sectors, b + sectors]]
    return (radius * points.reshape(-1, 3)).astype(np.float32), _mesh(faces)


def _quad(x, z, half=0.3):
    """A square at depth z that faces the camera at the front."""
    return np.array(
        [[x - half, -half, z], [x + half, -half, z], [x + half, half, z], [x - half, half, z]],
        np.float32,
    )


def _look():
    return Appearance(np.full((16, 3), 0.8, np.float32), np.array((0, 0, 1), np.float32), 0.25)


@pytest.fixture(scope="module")
def sphere():
    points, mesh = _sphere(0.6)
    return render(mesh, points[None], [_look()], 64)


@pytest.fixture(scope="module")
def people():
    """Bodies in all kinds of poses: joints in the rendered frame, and their pictures."""
    body = load_body("anny_lowpoly")
    poses = np.concatenate([clip.poses[::12] for clip in shipped_clips()])
    vertices, joints = body.pose(poses)
    centre = (vertices.min(axis=1) + vertices.max(axis=1))[:, None] / 2
    looks = [random_look(generator(0, str(i))) for i in range(len(poses))]
    return joints - centre, render(body, vertices - centre, looks, 64)


def test_a_sphere_covers_its_disc_in_every_view(sphere):
    expected = np.pi * (0.6 / HALF_EXTENT * 32) ** 2
    np.testing.assert_allclose(sphere.alpha[0].sum(axis=(1, 2)) / 255, expected, rtol=0.01)


@pytest.mark.parametrize(
    ("view", "normal"),
    [(FRONT, (0, 0, 1)), (RIGHT, (1, 0, 0)), (BACK, (0, 0, -1)), (LEFT, (-1, 0, 0))],
)
def test_normals_are_those_of_the_front_camera_with_y_and_z_flipped(sphere, view, normal):
    centre = sphere.normals[0, view, :, 31:33, 31:33].mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(centre, 0.5 + 0.5 * np.array(normal) * [1, -1, -1], atol=0.01)


def test_normals_point_up_at_the_top(sphere):
    top = np.flatnonzero(sphere.labels[0, FRONT, :, 32])[0]
    assert sphere.normals[0, FRONT, 1, top + 1, 32] / 255 < 0.15


def test_shading_is_lambert_with_ambient_light(sphere):
    centre = sphere.colours[0, :, 0, 31:33, 31:33].mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(centre[FRONT], 0.8, atol=0.01)  # faces the light
    np.testing.assert_allclose(centre[BACK], 0.8 * 0.25, atol=0.01)  # turned away: ambient only


def test_background_is_white_and_unlabelled(sphere):
    empty = sphere.alpha[0] == 0
    assert (sphere.labels[0][empty] == 0).all()
    for picture in (sphere.normals[0], sphere.colours[0]):
        assert (picture.transpose(0, 2, 3, 1)[empty] == 255).all()


def test_the_nearer_surface_hides_the_farther():
    points = np.concatenate([_quad(0, -0.2), _quad(0, 0.2, half=0.15)])
    mesh = _mesh([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    mesh.face_parts = np.array([1, 1, 2, 2], np.uint8)
    labels = render(mesh, points[None], [_look()], 48).labels[0, FRONT]
    assert labels[24, 24] == 2 and labels[24, 24 + 5] == 1
    assert (labels == 2).sum() == 36 and (
        labels > 0
    ).sum() == 144  # 0.3 and 0.6 m at 20 px per metre


def test_back_and_left_are_mirrored():
    points = np.concatenate([_quad(0.5, 0.0, half=0.1), _quad(0.5, 0.0, half=0.1)])
    mesh = _mesh([[0, 1, 2], [0, 2, 3], [6, 5, 4], [7, 6, 4]])  # visible from both sides
    labels = render(mesh, points[None], [_look()], 48).labels[0]
    for view in (FRONT, BACK):  # unmirrored, the back view would show it in the left half
        assert np.flatnonzero(labels[view].any(axis=0)).tolist() == [32, 33, 34, 35]


def test_what_lies_outside_is_cut_off():
    views = render(_mesh([[0, 1, 2], [0, 2, 3]]), _quad(0, 0, half=5)[None], [_look()], 16)
    assert (views.alpha[0, FRONT] == 255).all() and (views.labels[0, FRONT] == 2).all()


def test_opposite_views_have_the_same_stored_silhouette(people):
    _, views = people
    for one, other in ((FRONT, BACK), (RIGHT, LEFT)):
        difference = np.abs(views.alpha[:, one].astype(int) - views.alpha[:, other]).mean() / 255
        assert difference < 0.002


def test_joints_project_into_the_silhouette_of_every_stored_view(people):
    joints, views = people
    pixels = np.floor((project(joints) + 1) * 32).astype(int).clip(0, 63)  # (n, 6, 23, 2)
    samples, view = np.ogrid[: len(joints), :6]
    inside = views.alpha[samples[..., None], view[..., None], pixels[..., 1], pixels[..., 0]] > 0
    assert (inside.mean(axis=(0, 2)) > 0.97).all()
    wrong_way = 63 - pixels[..., 0]
    mirrored = views.alpha[samples[..., None], view[..., None], pixels[..., 1], wrong_way] > 0
    assert (mirrored.mean(axis=(0, 2)) < 0.8).all()  # so the test would notice


def test_labels_lie_around_their_joints(people):
    joints, views = people
    pixels = np.floor((project(joints) + 1) * 32).astype(int).clip(0, 63)
    for joint, part in ((15, "head"), (9, "torso"), (4, "left_shin"), (5, "right_shin")):
        found = views.labels == PARTS.index(part)
        seen = found.sum(axis=(2, 3)) > 12
        ys, xs = np.mgrid[:64, :64]
        area = found.sum(axis=(2, 3)).clip(min=1)
        centre = np.stack(
            [(found * xs).sum(axis=(2, 3)) / area, (found * ys).sum(axis=(2, 3)) / area], axis=-1
        )
        distance = np.linalg.norm(centre - pixels[:, :, joint], axis=-1)[seen]
        assert np.median(distance) < 7, part


def test_looks_depend_on_the_seed_and_the_sample_alone():
    one, same, other = (
        random_look(generator(3, key))
        for key in ("walk/1/yaw000", "walk/1/yaw000", "walk/2/yaw000")
    )
    np.testing.assert_array_equal(one.albedo, same.albedo)
    assert np.abs(one.albedo - other.albedo).max() > 0.05
    assert one.albedo[1:].min() >= 0.02 and one.albedo.max() <= 0.95
    np.testing.assert_allclose(np.linalg.norm(one.light), 1, atol=1e-6)
