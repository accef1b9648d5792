"""Grids of voxels: rays, pictures and gradients against references, in float64, and a run."""

import itertools

import pytest
import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens, look
from rewardft_plugins.ddpo3d.rasterise import project
from rewardft_plugins.ddpo3d.sds import SDS
from rewardft_plugins.ddpo3d.voxels import NEAR, VoxelScene, march, rays

from rewardft.cli import main
from rewardft.errors import ComponentError
from rewardft.testing import check_algorithm, check_resume, run_recipe
from rewardft.testing.tiny import TinyModel
from tests.documents import ROOT
from tests.shipped.ddpo3d.scenes import scene_context, views

DIGITS = ROOT / "recipes" / "ddpo3d_digits.yaml"
LENSES = [Lens(1.3), Lens(1.3, 3.0)]


def axes():
    return look(torch.tensor([20.0, 130.0]), torch.tensor([10.0, -35.0])).double()


def grids(g=4):
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(2, 3, g, g, g, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("lens", LENSES)
def test_rays_go_through_the_middles_of_pixels(lens):
    """Each point is where the rasteriser's projection puts that pixel, nearest first and evenly."""
    points, delta = rays(axes(), lens, 4, 6)
    middle = torch.arange(4) + 0.5
    for k, y, x in itertools.product(range(6), range(4), range(4)):
        one = torch.ones(2, 1, 1).double()
        ball = Gaussians(
            points[:, k, y, x, None], one.expand(2, 1, 3), one.expand(2, 1, 4), one[..., 0], one
        )
        centre = project(ball, axes(), lens, 4).centre[:, 0]
        expected = torch.stack([middle[x], middle[y]]).double().expand(2, 2)
        assert torch.allclose(centre, expected)
    steps = (points[:, 1:] - points[:, :-1]).norm(dim=-1)
    assert torch.allclose(steps, delta[1:].expand_as(steps))
    away = (points @ axes()[:, 2, None, None, :, None])[..., 0]
    assert bool((away[:, 1:] > away[:, :-1]).all())


def test_what_is_beside_or_behind_the_camera_is_not_drawn():
    lens = Lens(1.0, 1.2)
    points, delta = rays(axes(), lens, 4, 30)
    depth = (points @ axes()[:, 2, None, None, :, None])[0, :, 0, 0, 0]
    near = 1 + depth / 1.2 <= NEAR
    assert near.any() and not delta[near].any() and bool((delta[~near] > 0).all())


def looked_up(grid, place):
    """Trilinear values `(1 + c,)` of one grid at a place in [-1, 1]^3 (x, y, z), by hand."""
    g = grid.shape[-1]
    where = [(float(v) + 1) / 2 * (g - 1) for v in place]
    total = torch.zeros(len(grid), dtype=torch.float64)
    for corner in itertools.product((0, 1), repeat=3):
        index = [int(w // 1) + c for w, c in zip(where, corner)]
        share = 1.0
        for w, i in zip(where, index):
            share *= 1 - abs(w - i)
        if all(0 <= i < g for i in index):
            total += share * grid[:, index[2], index[1], index[0]]
    return total


@pytest.mark.parametrize("lens", LENSES)
def test_a_picture_is_that_of_compositing_point_by_point(lens):
    size, count = 3, 8
    own = grids()
    picture, open_ = march(own, axes(), lens, size, count)
    points, delta = rays(axes(), lens, size, count)
    for b, y, x in itertools.product(range(2), range(size), range(size)):
        through, colour = 1.0, torch.zeros(2, dtype=torch.float64)
        for k in range(count):
            density, *rest = looked_up(own[b], points[b, k, y, x] / lens.extent)
            alpha = 1 - torch.exp(-density * delta[k, y, x])
            colour += through * alpha * torch.stack(rest)
            through = through * (1 - alpha)
        assert torch.allclose(picture[b, :, y, x], colour, atol=1e-12)
        assert float(open_[b, 0, y, x]) == pytest.approx(float(through), abs=1e-12)
    assert picture.max() > 0.3 and open_.min() < 0.5


@pytest.mark.parametrize("lens", LENSES)
def test_gradients_by_finite_differences(lens):
    own = grids(g=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: march(x, axes(), lens, 3, 6), (own,), atol=1e-8)


def test_scenes_start_as_a_grey_ball_that_fades():
    model = VoxelScene(TinyModel(width=8), scenes=2, grid=9, size=8, density=4.0, radius=0.5)
    values = model.trainable(torch.tensor([1, 0])).detach()
    assert values.shape == (2, 4, 9, 9, 9) and values[:, 1:].unique().item() == 0.5
    assert float(values[0, 0, 4, 4, 4]) == pytest.approx(4.001, rel=1e-5)
    # Half a cube's half away from the middle: one radius.
    assert float(values[0, 0, 4, 4, 6]) == pytest.approx(4 * 2.718281828**-0.5 + 1e-3, rel=1e-4)
    assert model.parameter_groups() == {}


def test_a_dense_ball_is_as_dense_as_asked_for():
    """Also where e^density is no number any more."""
    model = VoxelScene(TinyModel(width=8), scenes=1, grid=3, size=8, density=500.0)
    values = model.trainable(torch.tensor([0])).detach()
    assert float(values[0, 0, 1, 1, 1]) == pytest.approx(500.001)


def voxel_model(**options):
    model = VoxelScene(TinyModel(width=8), scenes=2, grid=4, size=8, **options)
    model.trainable.double()
    model.prior.trainable.double()
    return model


def test_the_promises_of_every_algorithm():
    check_algorithm(SDS(), lambda size: scene_context(voxel_model(), micro_batch=size), views())


def test_wrong_options_are_refused():
    with pytest.raises(ComponentError) as caught:
        VoxelScene(TinyModel(), grid=1, density=0.0, background=2.0)
    assert str(caught.value) == (
        "voxel_scene: expected density > 0, got 0.0; background within [0, 1], got 2.0; grid >= 2, "
        "got 1"
    )


SMALL = (
    "model={use: voxel_scene, prior: {use: digit_unet}, condition: dropped, channels: {image: 1}, "
    "scenes: 2, grid: 6, size: 8}",
    "data.scenes=2",
    "data.batch_size=4",
    "evaluate.samples=8",
    "train.steps=4",
)


def test_a_run_of_voxels(tmp_path, capsys):
    run = run_recipe(DIGITS, tmp_path / "run", *SMALL)
    assert run.summary["status"] == "finished"
    turntables = sorted(p.name for p in (run.folder / "samples").glob("*.gif"))
    assert turntables == ["turntable-00000000.gif", "turntable-00000004.gif"]
    assert main(["ddpo3d", "turntable", str(run.folder), str(tmp_path / "a.gif")]) == 0
    capsys.readouterr()
    assert main(["ddpo3d", "export-ply", str(run.folder), str(tmp_path / "a.ply")]) == 2
    assert (
        f"{run.folder}: a .ply file holds Gaussians, and these scenes have none"
        in capsys.readouterr().err
    )


def test_a_run_goes_on_bit_for_bit_with_an_adapter_of_the_prior(tmp_path):
    settings = ("rewards=[]", "algorithm={use: vsd}", "model.lora_rank=2", "save.every=2")
    check_resume(DIGITS, tmp_path, *SMALL, *settings, stop=2)
