"""Gaussians that have faded, moved beside others."""

import math
from decimal import Decimal

import pytest
import torch
from rewardft_plugins.ddpo3d.relocation import relocate, shrink
from rewardft_plugins.ddpo3d.table import SceneTable


def table(opacities):
    found = SceneTable(len(opacities), len(opacities[0]), 3, (1, 1, 1), 0.1, 0.5, seed=0).double()
    with torch.no_grad():
        found.opacity.copy_(torch.tensor(opacities).double().logit())
        found.colour.copy_(
            torch.randn(found.colour.shape, generator=torch.Generator().manual_seed(1))
        )
    return found


@pytest.mark.parametrize("count", [2, 3, 6])
def test_shares_of_one_gaussian_have_its_opacity_in_the_middle_and_in_sum(count):
    """The profile of N that cover each other, integrated along a line, against that of the one."""
    before = torch.tensor(0.8).double()
    after = 1 - (1 - before) ** (1 / count)
    assert float(1 - (1 - after) ** count) == pytest.approx(0.8)
    sigma = shrink(before, after, count)
    x = torch.linspace(-12, 12, 20001).double()
    one = before * torch.exp(-(x**2) / 2)
    many = 1 - (1 - after * torch.exp(-(x**2) / (2 * sigma**2))) ** count
    assert float(torch.trapezoid(many, x)) == pytest.approx(
        float(torch.trapezoid(one, x)), rel=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 5, 70, 300])
def test_the_sum_is_that_of_equation_9_for_many_too(count, dtype):
    before = torch.tensor(0.9, dtype=dtype)
    after = 1 - (1 - before) ** (1 / count)
    own = Decimal(float(after))
    total = sum(
        math.comb(i, k) * (-1) ** k * own ** (k + 1) / Decimal(k + 1).sqrt()
        for i in range(count)
        for k in range(i + 1)
    )
    found = shrink(before, after, count)
    assert found.dtype == dtype
    assert float(found) == pytest.approx(float(before) / float(total), rel=1e-5)


def test_what_is_faint_goes_to_what_is_not():
    found = table([[0.9, 0.001, 0.5, 0.001], [0.6, 0.7, 0.8, 0.9]])
    old = {name: p.detach().clone() for name, p in found.named_parameters()}
    assert relocate(found, 0.02, torch.Generator().manual_seed(0)) == 2
    opacity = found.opacity.sigmoid().detach()
    # The other scene has nothing faint in it.
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter[1], old[name][1]), name
    for dead in (1, 3):
        to = next(i for i in (0, 2) if torch.equal(found.colour[0, dead], old["colour"][0, i]))
        sharing = 1 + sum(torch.equal(found.colour[0, d], old["colour"][0, to]) for d in (1, 3))
        whole = old["opacity"][0, to].sigmoid()
        assert float(opacity[0, dead]) == pytest.approx(float(1 - (1 - whole) ** (1 / sharing)))
        assert torch.equal(opacity[0, dead], opacity[0, to])
        factor = shrink(whole, opacity[0, to], sharing)
        assert torch.allclose(found.scale[0, dead], old["scale"][0, to] + factor.log())
        away = (found.position[0, dead] - old["position"][0, to]).detach().norm()
        assert 0 < float(away) < 0.1 * 5
        assert torch.equal(found.position[0, to], old["position"][0, to])


@pytest.mark.parametrize("opacities", [[[0.5, 0.9]], [[0.001, 0.002]]])
def test_a_scene_with_nothing_to_move_or_nowhere_to_go_stays(opacities):
    found = table(opacities)
    old = [p.detach().clone() for p in found.parameters()]
    assert relocate(found, 0.02, torch.Generator().manual_seed(0)) == 0
    assert all(torch.equal(p, before) for p, before in zip(found.parameters(), old))
