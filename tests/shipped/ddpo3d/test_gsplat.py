"""The cameras that gsplat is given, against the projection of the rasteriser in torch."""

import sys

import pytest
import torch
from rewardft_plugins.ddpo3d.gaussians import Gaussians, Lens, look
from rewardft_plugins.ddpo3d.gsplat_rasteriser import cameras, kernels, rasterise_by_gsplat
from rewardft_plugins.ddpo3d.rasterise import NEAR, project, rasterise

from rewardft.errors import ComponentError

LENSES = [Lens(1.3), Lens(1.3, 2.5)]


def gaussians(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.rand(2, 7, *shape, generator=generator, dtype=dtype)

    return Gaussians(draw(3) - 0.5, 0.1 + 0.2 * draw(3), draw(4) - 0.5, 0.3 + 0.6 * draw(), draw(3))


def axes():
    return look(torch.tensor([20.0, 130.0]), torch.tensor([10.0, -35.0])).double()


@pytest.mark.parametrize("lens", LENSES)
def test_cameras_put_everything_where_the_rasteriser_does(lens):
    """By the definition of these matrices: pixels of K [R|t] x, and of its covariance through the
    slope of that; nothing is nearer than what the rasteriser leaves out."""
    own = gaussians()
    views, inner, near = cameras(axes(), lens, 40)
    seen = own.position @ views[:, :3, :3].transpose(1, 2) + views[:, None, :3, 3]
    splats = project(own, axes(), lens, 40, blur=0.3)
    order = seen[..., 2].argsort(1)

    def pixels(point, matrix):
        flat = point if lens.distance is None else point / point[2:]
        return (matrix @ torch.stack([flat[0], flat[1], torch.ones_like(flat[0])]))[:2]

    for b in range(2):
        for place, i in enumerate(order[b].tolist()):
            assert torch.allclose(splats.centre[b, place], pixels(seen[b, i], inner[b]))
            slope = torch.autograd.functional.jacobian(lambda x: pixels(x, inner[b]), seen[b, i])
            stretched = slope @ views[b, :3, :3] @ own.axes()[b, i]
            spread = stretched @ stretched.T + 0.3 * torch.eye(2)
            expected = torch.stack([spread[0, 0], spread[0, 1], spread[1, 1]])
            assert torch.allclose(splats.spread[b, place], expected)
    assert near == (0.0 if lens.distance is None else NEAR * lens.distance)
    assert float(seen[..., 2].min()) > near


def test_scenes_elsewhere_than_on_cuda_are_refused():
    with pytest.raises(ComponentError) as caught:
        rasterise_by_gsplat(gaussians(), axes(), Lens(), 16)
    assert str(caught.value) == (
        "gaussian_scene: rasteriser: gsplat draws on CUDA devices, and the scenes are on cpu; "
        "leave `rasteriser` out"
    )


def test_a_missing_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(ComponentError) as caught:
        kernels()
    assert str(caught.value) == (
        "gaussian_scene: rasteriser: gsplat is not installed: pip install 'rewardft[gsplat]'"
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gsplat needs CUDA")
@pytest.mark.parametrize("lens", LENSES)
def test_its_pictures_are_those_of_the_rasteriser(lens):
    pytest.importorskip("gsplat")
    own = gaussians(dtype=torch.float32)
    moved = Gaussians(*(getattr(own, name).cuda() for name in own.__dataclass_fields__))
    views = axes().float().cuda()
    found, expected = (draw(moved, views, lens, 40) for draw in (rasterise_by_gsplat, rasterise))
    for one, other in zip(found, expected):
        assert torch.allclose(one, other, atol=2e-3)
