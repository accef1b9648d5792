"""The rasteriser against one Gaussian and one pixel at a time, in float64."""

import math

import pytest
import torch
from rewardft_plugins.ddpo3d import rasterise as module
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens, look, rotation_matrix
from rewardft_plugins.ddpo3d.rasterise import rasterise
from rewardft_plugins.humans.camera import AZIMUTHS, view_axes


def some_gaussians(seed, count=9, scenes=1, scale=0.2):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(scenes, count, *shape, generator=generator, dtype=torch.float64)

    return [
        (0.5 * draw(3)).requires_grad_(),
        (scale * (0.5 * draw(3)).exp()).requires_grad_(),
        draw(4).requires_grad_(),
        draw().sigmoid().detach().requires_grad_(),
        draw(3).sigmoid().detach().requires_grad_(),
    ]


def turned_by(quaternion):
    """The rotation by the exponential of its axis, not by the formula."""
    w, *axis = quaternion / quaternion.norm()
    axis = torch.stack(axis)
    angle = 2 * torch.atan2(axis.norm(), w)
    x, y, z = angle * axis / axis.norm()
    zero = torch.zeros_like(x)
    rows = [torch.stack(r) for r in ([zero, -z, y], [z, zero, -x], [-y, x, zero])]
    return torch.linalg.matrix_exp(torch.stack(rows))


def to_pixels(point, azimuth, elevation, lens, size):
    """Where a point of the world is seen, by turning the world: first around y, then around x."""
    a, e = math.radians(azimuth), math.radians(elevation)
    x, y, z = point
    x, z = x * math.cos(a) - z * math.sin(a), x * math.sin(a) + z * math.cos(a)
    y, z = y * math.cos(e) - z * math.sin(e), y * math.sin(e) + z * math.cos(e)
    if lens.distance is not None:
        x, y = (v * lens.distance / (lens.distance - z) for v in (x, y))
    return torch.stack([(1 + x / lens.extent), (1 - y / lens.extent)]) * size / 2, z


def brute_force(parts, azimuth, elevation, lens, size, blur):
    """`(c + 1, size, size)`: every ellipse at every pixel, laid over each other by a loop."""
    position, scale, rotation, opacity, colour = (part[0] for part in parts)
    towards = [to_pixels(p, azimuth, elevation, lens, size)[1].item() for p in position]
    pixel = torch.arange(size, dtype=torch.float64) + 0.5
    grid = torch.stack(torch.meshgrid(pixel, pixel, indexing="xy"), -1)
    picture = torch.zeros(colour.shape[1], size, size, dtype=torch.float64)
    open_ = torch.ones(size, size, dtype=torch.float64)
    for i in sorted(range(len(position)), key=lambda i: -towards[i]):
        own = turned_by(rotation[i]) @ torch.diag(scale[i])
        slope = torch.autograd.functional.jacobian(
            lambda p: to_pixels(p, azimuth, elevation, lens, size)[0],
            position[i],
            create_graph=True,
        )
        spread = slope @ own @ own.T @ slope.T + blur * torch.eye(2, dtype=torch.float64)
        centre, _ = to_pixels(position[i], azimuth, elevation, lens, size)
        off = grid - centre
        square = torch.einsum("yxi,ij,yxj->yx", off, torch.linalg.inv(spread), off)
        alpha = torch.clamp(opacity[i] * torch.exp(-square / 2), max=0.99)
        alpha = torch.where(alpha < 1 / 255, torch.zeros_like(alpha), alpha)
        picture = picture + colour[i][:, None, None] * alpha * open_
        open_ = open_ * (1 - alpha)
    return torch.cat([picture, open_[None]])


def ours(parts, azimuth, elevation, lens, size):
    angles = torch.tensor([azimuth, elevation], dtype=torch.float64)
    axes = look(angles[:1], angles[1:])
    return torch.cat(rasterise(Gaussians(*parts), axes, lens, size, 0.3), 1)[0]


CASES = {
    "orthographic": (Lens(1.0), 0.0, 0.0, 20),
    "from_the_side_and_above": (Lens(1.3), 77.0, 35.0, 20),
    "perspective": (Lens(1.0, 2.5), -130.0, 20.0, 33),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_brute_force(name):
    lens, azimuth, elevation, size = CASES[name]
    parts = some_gaussians(1)
    expected = brute_force(parts, azimuth, elevation, lens, size, 0.3)
    found = ours(parts, azimuth, elevation, lens, size)
    assert (
        0.05 < float(expected[-1].detach().min()) < 0.5
    )  # the scene covers its picture, and not all of it
    assert torch.allclose(found, expected, atol=1e-10)
    weights = torch.randn(
        found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    for part, a, b in zip(
        ("position", "scale", "rotation", "opacity", "colour"),
        torch.autograd.grad((found * weights).sum(), parts),
        torch.autograd.grad((expected * weights).sum(), parts),
    ):
        assert float(b.abs().max()) > 1e-3, part
        assert torch.allclose(a, b, atol=1e-8), part


def test_tiles_change_nothing(monkeypatch):
    parts = some_gaussians(4, count=60, scale=0.05)
    tiled = ours(parts, 30.0, 10.0, Lens(1.0), 70)
    monkeypatch.setattr(module, "TILE", 70)
    assert torch.allclose(tiled, ours(parts, 30.0, 10.0, Lens(1.0), 70), atol=1e-14)


def test_scenes_of_a_batch_do_not_mix():
    parts = some_gaussians(5, scenes=3)
    axes = look(torch.tensor([0.0, 90.0, 200.0]), torch.zeros(3)).double()
    together, _ = rasterise(Gaussians(*parts), axes, Lens(), 18)
    for row in range(3):
        alone, _ = rasterise(
            Gaussians(*(p[row : row + 1] for p in parts)), axes[row : row + 1], Lens(), 18
        )
        assert torch.allclose(together[row], alone[0], atol=1e-14)


def test_the_nearer_gaussian_covers_the_farther_one_from_either_side():
    position = torch.tensor([[[0.0, 0.0, 0.5], [0.0, 0.0, -0.5]]])
    colour = torch.tensor([[[1.0], [0.0]]])
    parts = Gaussians(
        position,
        torch.full((1, 2, 3), 0.5),
        torch.tensor([[[1.0, 0, 0, 0]] * 2]),
        torch.full((1, 2), 0.999),
        colour,
    )
    for azimuth, seen in ((0.0, 1.0), (180.0, 0.0)):
        axes = look(torch.tensor([azimuth]), torch.zeros(1))
        picture, _ = rasterise(parts, axes, Lens(), 9)
        assert float(picture[0, 0, 4, 4]) == pytest.approx(seen, abs=0.02)


def test_what_is_behind_the_camera_is_not_seen_and_has_no_gradient():
    parts = some_gaussians(6, count=3)
    with torch.no_grad():
        parts[0][0, 0] = torch.tensor([0.0, 0.0, 2.5])  # exactly where the camera stands
        parts[0][0, 1] = torch.tensor([0.2, 0.1, 4.0])
    lens = Lens(1.0, 2.5)
    found = ours(parts, 0.0, 0.0, lens, 20)
    alone = ours([p[:, 2:] for p in parts], 0.0, 0.0, lens, 20)
    assert torch.allclose(found, alone, atol=1e-14)
    for part in torch.autograd.grad(found.sum(), parts):
        assert torch.isfinite(part).all() and not part[0, :2].any() and part[0, 2].any()


def test_an_empty_picture_is_the_background():
    parts = some_gaussians(7, count=2, scale=0.01)
    with torch.no_grad():
        parts[0] += 50
    picture, open_ = rasterise(
        Gaussians(*parts), look(torch.zeros(1), torch.zeros(1)).double(), Lens(), 17
    )
    assert not picture.any() and bool((open_ == 1).all())


def test_cameras_are_those_of_the_human_views():
    right, towards = (torch.from_numpy(axes) for axes in view_axes())
    axes = look(torch.tensor(AZIMUTHS, dtype=torch.float32), torch.zeros(len(AZIMUTHS)))
    assert torch.allclose(axes[:, 0], right, atol=1e-6)
    assert torch.allclose(axes[:, 1], torch.tensor([0.0, -1.0, 0.0]).expand(6, 3), atol=1e-6)
    assert torch.allclose(axes[:, 2], -towards, atol=1e-6)


def test_a_camera_above_looks_down():
    (right, down, away) = look(torch.tensor([0.0]), torch.tensor([90.0]))[0]
    assert torch.allclose(right, torch.tensor([1.0, 0, 0]), atol=1e-6)
    assert torch.allclose(down, torch.tensor([0.0, 0, 1]), atol=1e-6)
    assert torch.allclose(away, torch.tensor([0.0, -1, 0]), atol=1e-6)


def test_a_rotation_is_that_of_its_axis():
    quaternions = torch.randn(5, 4, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    expected = torch.stack([turned_by(q) for q in quaternions])
    assert torch.allclose(rotation_matrix(3 * quaternions), expected, atol=1e-12)
