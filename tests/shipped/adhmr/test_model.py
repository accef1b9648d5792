"""The model, its conditions and its parts: contract, shapes, and what its messages say."""

import pytest
import torch
from rewardft_plugins.adhmr.conditions import ImageCondition
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.hypotheses import draw_hypotheses
from rewardft_plugins.adhmr.model import PoseDiffusion
from rewardft_plugins.adhmr.space import PARTS, SIZE, pack, unpack

from rewardft.contracts.protocols import DiffusionModel
from rewardft.errors import ComponentError
from rewardft.policy.batches import make_batch


@pytest.fixture(scope="module")
def batch():
    data = PosePictures(split="val", limit=3)
    return make_batch([data[i] for i in range(len(data))], [0] * len(data))


def small(**options):
    return PoseDiffusion(weights=None, width=16, blocks=1, **options)


def test_a_sample_is_a_vector_that_decodes_to_joints_and_twists(batch):
    model = small()
    assert isinstance(model, DiffusionModel)
    cond = model.encode(batch)
    x = torch.randn(len(batch), *model.sample_shape(cond))
    assert model.denoise(x, torch.full((len(batch),), 500), cond).shape == (len(batch), SIZE)
    pose = model.decode(x)
    assert pose["joints"].shape == (6, 27, 3) and not pose["joints"][:, 0].any()
    assert (pose["twists"].norm(dim=-1) - 1).abs().max() < 1e-5
    assert torch.allclose(pack(pose["joints"], unpack(x)["twists"])[:, PARTS["joints"]], x[:, :78])
    shown = model.show(pose, batch)
    assert shown.shape == (6, 3, 128, 256) and shown.min() >= 0 and shown.max() <= 1


def test_the_truth_is_the_clean_sample_and_unseen_joints_do_not_count(batch):
    model = small()
    assert torch.equal(model.clean(batch), batch["pose"])
    assert model.part_weights(batch) == {}
    seen = torch.zeros(6, 78)
    with_mask = type(batch)(batch.ids, batch.epochs, {**batch.columns, "joints_seen": seen})
    assert model.part_weights(with_mask)["joints"] is seen


def test_hypotheses_follow_from_seed_and_picture_alone(batch):
    model = small()
    together = draw_hypotheses(model, batch, 3, seed=1)
    assert together.shape == (6, 3, SIZE) and together.abs().max() <= 2.5
    alone = draw_hypotheses(model, batch.select(slice(2, 3)), 3, seed=1)
    assert torch.allclose(alone[0], together[2], atol=1e-3)
    assert not torch.allclose(draw_hypotheses(model, batch, 3, seed=2), together, atol=1e-2)


def test_weights_are_written_and_read_and_must_fit(batch, tmp_path):
    model = small(seed=4)
    model.save(tmp_path / "m.safetensors")
    again = PoseDiffusion(str(tmp_path / "m.safetensors"), width=16, blocks=1)
    x, t = torch.randn(6, SIZE), torch.full((6,), 300)
    one, other = (m.denoise(x, t, m.encode(batch)) for m in (model, again))
    assert torch.allclose(one, other, atol=5e-3)  # float16
    with pytest.raises(
        ComponentError, match=r"as safetensors, as a command under `rewardft adhmr` writes them"
    ):
        PoseDiffusion(str(tmp_path / "m.safetensors"), width=24, blocks=1)


def test_the_image_condition_sees_where_joints_are():
    """Its places are the mean of a heat map; local features are read there; all of it learns."""
    model = small(condition="image")
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    batch = make_batch([{"id": str(i), "picture": pictures[i]} for i in range(2)], [0, 0])
    cond = model.encode(batch)
    assert cond.shape == (2, ImageCondition.size) and not cond.requires_grad
    assert model.denoise(torch.randn(2, SIZE), torch.tensor([5, 900]), cond).shape == (2, SIZE)
    network = ImageCondition()
    fine = torch.zeros(1, 16, 16, 16)
    network.heat.weight.data.zero_()
    network.heat.bias.data.zero_()
    assert network.places(fine).abs().max() < 1e-6  # the middle of an even map
    network.heat.weight.data[:, 0] = 100.0
    fine[0, 0, 3, 12] = 1.0
    expected = torch.tensor([(12 + 0.5) / 8 - 1, (3 + 0.5) / 8 - 1])
    assert torch.allclose(network.places(fine)[0, 0], expected, atol=1e-5)
    network(batch).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_missing_columns_are_named():
    batch = make_batch([{"id": "a", "label": 1}], [0])
    with pytest.raises(
        ComponentError, match="needs the detector's columns `landmarks`, `world` and"
    ):
        small().encode(batch)
    with pytest.raises(ComponentError, match="needs the column `picture`"):
        small(condition="image").encode(batch)
    with pytest.raises(ComponentError, match=r"^width and blocks must be at least 1, got 0 and 3$"):
        PoseDiffusion(weights=None, width=0)
