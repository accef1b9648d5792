"""Gaussians that are pulled hard are cloned and split, and those that have faded are pruned."""

import math

import pytest
import torch
from rewardft_plugins.ddpo3d.density import Densification, densification, densify, hard_pulled
from rewardft_plugins.ddpo3d.gaussians import look, rotation_matrix
from rewardft_plugins.ddpo3d.rasterise import LEAST
from rewardft_plugins.ddpo3d.table import TRANSPARENT, SceneTable

from rewardft.cli import main
from rewardft.errors import ComponentError
from rewardft.testing import run_recipe
from tests.documents import ROOT
from tests.shipped.ddpo3d.scenes import scene_model, views

RULE = Densification(above=2.0, size=0.5)


def table(count=6, start=3, scenes=1):
    """The first `start` of `count` Gaussians are seen, each of another shape."""
    found = SceneTable(scenes, count, 3, (1, 1, 1), 0.1, 0.5, seed=0, start=start).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (found.scale, found.rotation, found.colour):
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).double()
    return found


def pulled(found, *rows):
    """Pretend that these mean slopes have been noted, over two pictures."""
    found.pull.total.copy_(2 * torch.tensor(rows).double())
    found.pull.pictures.fill_(2)


def grow(found, rule=RULE):
    masks = []
    old = {name: p.detach().clone() for name, p in found.named_parameters()}
    counts = densify(
        found,
        rule,
        0.02,
        torch.Generator().manual_seed(0),
        lambda parameter, where: masks.append(where.clone()),
    )
    assert len(masks) == 5 and all(torch.equal(mask, masks[0]) for mask in masks)
    assert not found.pull.total.any() and not found.pull.pictures.any()
    return counts, old, masks[0]


def test_a_small_gaussian_is_cloned():
    found = table()
    pulled(found, [1.0, 9.0, 1.0, 0.0, 0.0, 0.0])
    counts, old, fresh = grow(found)
    assert counts == (1, 0)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter[0, 3], old[name][0, 1]), name
        assert torch.equal(parameter[0, :3], old[name][0, :3]), name
    # The copy has no history, and the first keeps its own: they part.
    assert fresh.tolist() == [[False, False, False, True, True, True]]


def test_a_large_gaussian_is_split():
    found = table()
    with torch.no_grad():
        found.scale[0, 1, 2] = math.log(0.8)
    pulled(found, [1.0, 9.0, 1.0, 0.0, 0.0, 0.0])
    counts, old, fresh = grow(found)
    assert counts == (1, 0) and fresh.tolist() == [[False, True, False, True, True, True]]
    axes = rotation_matrix(old["rotation"][0, 1]) * old["scale"][0, 1].exp()
    for half in (1, 3):
        assert torch.allclose(found.scale[0, half], old["scale"][0, 1] - math.log(1.6))
        for name in ("rotation", "opacity", "colour"):
            assert torch.equal(found.get_parameter(name)[0, half], old[name][0, 1])
        # In units of the ellipsoid a draw of a standard normal.
        inside = torch.linalg.solve(axes, found.position[0, half] - old["position"][0, 1])
        assert 0 < float(inside.detach().norm()) < 4
    assert not torch.equal(found.position[0, 1], found.position[0, 3])


def test_halves_of_a_split_are_spread_as_the_whole_was():
    found = table(count=4002, start=2001)
    with torch.no_grad():
        found.scale[:] = torch.tensor([0.3, 0.2, 0.9]).log()
        found.rotation[:] = torch.tensor([0.9, 0.1, -0.4, 0.2])
        found.position[:] = torch.tensor([0.1, 0.2, 0.3])
    found.pull.total.copy_((torch.arange(4002) < 2001).double()[None])
    found.pull.pictures.fill_(1)
    assert grow(found, Densification(above=1.0, size=0.5))[0] == (2001, 0)
    axes = rotation_matrix(torch.tensor([0.9, 0.1, -0.4, 0.2]).double())
    expected = axes @ torch.tensor([0.09, 0.04, 0.81]).double().diag() @ axes.T
    own = (found.position[0].detach() - torch.tensor([0.1, 0.2, 0.3])).T.cov()
    assert torch.allclose(own, expected, atol=0.03)


def test_the_hardest_pulled_come_first_where_room_is_short():
    found = table(count=5, start=4)
    pulled(found, [9.0, 1.0, 11.0, 1.0, 0.0])
    (added, _), old, _ = grow(found, Densification(above=1.0, size=0.5))
    assert added == 1 and torch.equal(found.colour[0, 4], old["colour"][0, 2])
    assert hard_pulled(
        torch.tensor([9.0, 1.0, 11.0, 1.0]), torch.tensor([1, 1, 1, 0]).bool(), 1.0
    ).tolist() == [2, 0]
    assert hard_pulled(torch.zeros(3), torch.ones(3).bool(), 1.0).tolist() == []
    assert hard_pulled(torch.ones(3), torch.zeros(3).bool(), 1.0).tolist() == []


def test_what_has_faded_is_pruned_and_its_place_taken():
    found = table(scenes=2)
    with torch.no_grad():
        found.opacity[0, 0] = torch.tensor(0.01).logit()
    pulled(found, [50.0, 1.0, 9.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    counts, old, fresh = grow(found, Densification(above=1.5, size=0.5))
    # Its own slopes count no more.
    assert counts == (1, 1) and torch.equal(found.colour[0, 0], old["colour"][0, 2])
    assert fresh[0].tolist() == [True, False, False, True, True, True]
    assert found.opacity[0, 3:].tolist() == [TRANSPARENT] * 3
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter[1], old[name][1]), name


def test_transparent_gaussians_are_not_seen_and_learn_nothing():
    whole = scene_model(gaussians=6, densify={"start": 3})
    with torch.no_grad():
        whole.trainable.opacity[:, 3:] = TRANSPARENT
    half = scene_model(gaussians=3)
    for name, parameter in half.trainable.named_parameters():
        parameter.data = whole.trainable.get_parameter(name).detach()[:, :3].clone()
    cond = whole.encode(views())
    picture = whole.sample(cond)
    assert torch.allclose(picture, half.sample(cond), atol=1e-12)
    picture.square().sum().backward()
    for parameter in whole.trainable.gaussians():
        assert not parameter.grad[:, 3:].any() and parameter.grad[:, :3].any()
    assert float(torch.tensor(TRANSPARENT).sigmoid()) < LEAST


@pytest.mark.parametrize("distance", [None, 3.0])
def test_the_pull_is_the_slope_by_the_place_in_the_picture(distance):
    """Against the gradient by a shift of each Gaussian in the plane of each picture."""
    model = scene_model(gaussians=4, densify={"start": 4}, distance=distance)
    batch = views()
    cond = model.encode(batch)
    weight = torch.randn(len(batch), 3, 8, 8, generator=torch.Generator().manual_seed(2)).double()
    (model.sample(cond) * weight).sum().backward()
    total = torch.zeros(2, 4).double()
    seen = torch.zeros(2, 4).double()
    axes = look(cond["azimuth"], cond["elevation"]).double()
    for row, scene in enumerate(cond["scene"].tolist()):
        one = scene_model(gaussians=4, distance=distance)
        for name, parameter in one.trainable.named_parameters():
            parameter.data = model.trainable.get_parameter(name).detach().clone()
        shift = torch.zeros(4, 2, dtype=torch.float64, requires_grad=True)
        base = one.trainable.position.detach()
        moved = base.clone()
        moved[scene] = base[scene] + shift @ axes[row, :2]
        del one.trainable.position
        one.trainable.position = moved
        camera = {name: value[row : row + 1] for name, value in cond.items() if name != "prior"}
        (one.sample(camera) * weight[row]).sum().backward()
        total[scene] += shift.grad.norm(dim=1)
        seen[scene] += shift.grad.norm(dim=1) > 0
    assert torch.allclose(model.trainable.pull.total, total, atol=1e-9) and total.min() > 1e-3
    assert torch.equal(model.trainable.pull.pictures, seen)
    assert torch.allclose(model.trainable.pull.mean(), total / seen)


def test_a_picture_without_autograd_pulls_nothing():
    model = scene_model(densify={"start": 5})
    with torch.no_grad():
        model.sample(model.encode(views()))
    assert not model.trainable.pull.pictures.any()


def test_processes_share_what_they_have_noted():
    model = scene_model(densify={"start": 2, "every": 1, "above": 0.1})
    model.trainable.pull.total[:, 0] = 1.0
    model.trainable.pull.pictures[:] = 1.0
    given = []

    def gather(noted):
        given.append(noted.clone())
        return torch.cat([noted, noted.roll(1, -1)])

    model.tend(1, gather, lambda parameter, where: None)
    assert [tuple(noted.shape) for noted in given] == [(1, 2, 5)] * 2
    # The second process has noted the second Gaussian: both are doubled.
    assert int((model.trainable.opacity > TRANSPARENT).sum()) == 2 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evry": 2}, "densify has every, start, above, size, got 'evry'. Did you mean 'every'?"),
        (
            {"every": 0.5},
            "densify: expected whole numbers every >= 1 and start from 1 to the 9 of `gaussians`, "
            "got every=0.5 and start=100",
        ),
        (
            {"start": 10},
            "densify: expected whole numbers every >= 1 and start from 1 to the 9 of `gaussians`, "
            "got every=50 and start=10",
        ),
        (
            {"start": 3, "above": 0.0},
            "densify: expected above > 0 and size > 0, got 0 and 0.05",
        ),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ComponentError) as caught:
        densification(options, 9, faint=0.02, opacity=0.3)
    assert str(caught.value) == f"gaussian_scene: {message}"


@pytest.mark.parametrize("faint", [0.5, 0.7])
def test_an_opacity_at_which_all_would_be_pruned_is_refused(faint):
    with pytest.raises(ComponentError) as caught:
        scene_model(densify={"start": 2}, faint=faint)
    assert str(caught.value) == (
        "gaussian_scene: densify: Gaussians start with an opacity of 0.5, and what is below "
        f"{faint} is pruned, so that as they start nothing would be left. Expected an opacity above "
        f"{faint}."
    )


def test_free_places_are_not_for_what_is_moved():
    with pytest.raises(ComponentError) as caught:
        scene_model(densify={"start": 2}, relocate_every=2)
    assert str(caught.value) == (
        "gaussian_scene: densify and relocate_every do not go together; leave one of them out"
    )


def test_scenes_grow_in_a_run_and_never_beyond_their_places(tmp_path, capsys):
    run = run_recipe(
        ROOT / "recipes" / "ddpo3d_digits.yaml",
        tmp_path / "run",
        "model.scenes=2",
        "model.gaussians=12",
        "model.densify={every: 2, start: 4, above: 1, size: 0.1}",
        "data.scenes=2",
        "data.batch_size=4",
        "evaluate.samples=8",
        "train.steps=9",
        "algorithm={use: sds}",
        "rewards=[]",
    )
    from safetensors.torch import load_file

    opacity = load_file(run.folder / "adapter" / "model.safetensors")["opacity"].sigmoid()
    seen = (opacity >= LEAST).sum(1).tolist()
    assert all(6 <= count <= 12 for count in seen), seen
    capsys.readouterr()
    assert main(["ddpo3d", "export-ply", str(run.folder), str(tmp_path / "a.ply")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.ply'}: {seen[0]} Gaussians\n"
