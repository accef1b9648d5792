"""The compact denoiser and its condition: what is drawn where, contracts, saving, learning."""

import pytest
import torch
from rewardft_plugins.drpose.model.compact import (
    GROUP_VIEWS,
    GROUPS,
    ROWS,
    CompactDenoiser,
    draw_skeletons,
)
from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact
from rewardft_plugins.drpose.model.pose_estimator import PoseEstimator
from rewardft_plugins.drpose.weights import ASSETS
from rewardft_plugins.humans.body import PARENTS
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, VIEWS, project, view_axes
from rewardft_plugins.humans.skeleton import bone_distances, skeleton_maps

from rewardft.errors import ComponentError

SMALL = {"width": 16, "depth": 2, "heads": 2, "embedding": 16}
shipped = pytest.mark.skipif(
    not (ASSETS / "compact").is_dir(), reason="the shipped base is not here"
)


@pytest.fixture
def joints():
    return 0.4 * torch.randn(2, 23, 3, generator=torch.Generator().manual_seed(0))


def test_every_row_is_in_one_group_and_a_group_shares_its_silhouette():
    assert sorted(row for members in GROUPS for row in members) == list(range(ROWS))
    names = [{VIEWS[row % 6] for row in members} for members in GROUPS]
    assert names == [{"front", "back"}, {"right", "left"}, {"front_right"}, {"front_left"}]
    assert all(view in members for view, members in zip(GROUP_VIEWS, GROUPS))


def test_bones_are_drawn_where_the_cameras_see_them(joints):
    drawn = draw_skeletons(joints)
    places = torch.from_numpy(project(joints.numpy()))
    expected = skeleton_maps(places, 32)[:, list(GROUP_VIEWS)]
    assert drawn.shape == (2, 4, 46, 32, 32)
    torch.testing.assert_close(drawn[:, :, :23], expected, rtol=0, atol=1e-5)


def test_the_stored_back_and_left_views_need_no_map_of_their_own(joints):
    """They are mirrored, so that bones fall on those of the front and of the right view."""
    maps = skeleton_maps(torch.from_numpy(project(joints.numpy())), 32)
    for seen, stored in (("front", "back"), ("right", "left")):
        a, b = maps[:, VIEWS.index(seen)], maps[:, VIEWS.index(stored)]
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert [VIEWS[i] for i, mirrored in enumerate(MIRRORED) if mirrored] == ["back", "left"]


def test_depth_is_that_of_the_bone_towards_the_camera(joints):
    drawn = draw_skeletons(joints)
    towards = torch.as_tensor(view_axes()[1])
    for group, view in enumerate(GROUP_VIEWS):
        depth = (joints @ towards[view]) / HALF_EXTENT
        for bone in (0, 5, 22):
            parent = PARENTS[bone] if PARENTS[bone] >= 0 else bone
            expected = drawn[:, group, bone] * (depth[:, bone] + depth[:, parent])[:, None, None]
            torch.testing.assert_close(drawn[:, group, 23 + bone], expected, rtol=0, atol=1e-5)


def test_distances_to_a_bone_by_hand():
    """A bone from the middle to the right edge, a joint on its own in the corner."""
    joints2d = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, -1.0]], dtype=torch.float64)
    found = bone_distances(joints2d, 4, (-1, 0, -1))
    assert found.shape == (3, 4, 4)
    assert found[1, 1, 2].item() == pytest.approx(0.25)  # above the bone
    assert found[1, 1, 0].item() == pytest.approx((0.75**2 + 0.25**2) ** 0.5)  # left of its end
    assert found[2, 3, 3].item() == pytest.approx(1.75 * 2**0.5)


def test_grouping_and_ungrouping_lose_nothing():
    model = CompactDenoiser(2, **SMALL)
    rows = torch.rand(3, 12, 8, 8, 8)
    maps = model._group(rows)
    assert maps.shape == (3, 4, 32, 8, 8)
    assert torch.equal(model._ungroup(maps), rows)
    assert not maps[:, 2:, 16:].any(), "two rows fill half of a map"


def test_samples_of_a_batch_do_not_see_each_other_and_views_do(joints):
    torch.manual_seed(0)
    model = CompactDenoiser(**SMALL)
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.1  # blocks begin as the identity
    x, t = torch.randn(2, 12, 8, 16, 16), torch.tensor([10, 900])
    cond = torch.randn(2, 8, 16, 16), draw_skeletons(joints)
    with torch.no_grad():
        both = model(x, t, *cond)
        alone = model(x[:1], t[:1], *(part[:1] for part in cond))
        moved = model(x + torch.eye(12)[5].view(1, 12, 1, 1, 1), t, *cond)
    torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-5)
    assert ((moved - both).abs().amax((2, 3, 4)) > 1e-5).all(), "every row answers to row 5"


def test_what_is_saved_loads_back_and_a_misfit_is_explained(tmp_path):
    model = CompactDenoiser(**SMALL)
    model.save(tmp_path)
    loaded = CompactDenoiser.load(tmp_path)
    assert loaded.config == model.config
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values()):
        assert torch.equal(a, b), name
    (tmp_path / "compact.json").write_text('{"channels": 8, "width": 8, "depth": 2, "heads": 2}')
    with pytest.raises(ComponentError, match="does not fit the model"):
        CompactDenoiser.load(tmp_path)


def test_the_model_keeps_the_contract_and_trains_through_lora_or_fully(tmp_path):
    PoseEstimator(width=8).save(tmp_path)
    model = MultiviewCompact(estimator=str(tmp_path), network=SMALL)
    batch = {"image": torch.rand(2, 3, 64, 64), "normals": torch.rand(2, 6, 3, 64, 64)}
    batch["colours"] = batch["normals"]
    cond = model.encode(batch)
    assert model.sample_shape(cond) == (12, 8, 16, 16)
    x = torch.randn(2, 12, 8, 16, 16)
    out = model.denoise(x, torch.tensor([3, 700]), cond)
    assert out.shape == x.shape
    assert model.decode(x).shape == (2, 12, 3, 64, 64)
    assert model.clean(batch).shape == x.shape
    dropped = model.drop(cond, torch.tensor([True, False]))
    assert not any(value[0].any() for value in dropped.values())
    assert all(torch.equal(value[1], cond[name][1]) for name, value in dropped.items())
    names = dict(model.trainable.named_modules())
    assert all(any(name.endswith(target) for name in names) for target in model.lora_targets)
    assert not any(
        p.requires_grad for p in [*model.autoencoder.parameters(), *model.estimator.parameters()]
    )


def test_without_an_estimator_no_skeleton_is_drawn():
    model = MultiviewCompact(estimator=None, network=SMALL)
    assert not model.encode({"image": torch.rand(2, 3, 64, 64)})["skeletons"].any()


def test_options_of_random_weights_beside_weights_are_refused(tmp_path):
    CompactDenoiser(**SMALL).save(tmp_path)
    with pytest.raises(ComponentError) as caught:
        MultiviewCompact(weights=str(tmp_path), estimator=None, network=SMALL)
    assert str(caught.value) == (
        "multiview_compact: `network` is for random weights; leave it out beside `weights`"
    )


@shipped
def test_the_shipped_base_denoises_rendered_bodies_better_with_their_picture(rendered_bodies):
    model = MultiviewCompact(weights="shipped")
    batch = {name: rendered_bodies[name] for name in ("normals", "colours")}
    batch["image"] = rendered_bodies["colours"][:, 0]
    clean, cond = model.clean(batch), model.encode(batch)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(clean),), 700)
    alpha = model.scheduler.alphas_cumprod[700]
    x, v = (
        alpha.sqrt() * clean + (1 - alpha).sqrt() * noise,
        alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
    )
    with torch.no_grad():
        error = (model.denoise(x, t, cond) - v).square().mean()
        strangers = {name: value.roll(1, 0) for name, value in cond.items()}
        worse = (model.denoise(x, t, strangers) - v).square().mean()
    assert error < 0.5 * v.square().mean()
    assert worse > 1.3 * error
