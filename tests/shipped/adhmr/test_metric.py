"""The metric: hypotheses of which it is known how wrong they are."""

import pytest
import torch
from rewardft_plugins.adhmr.dataset import PosePictures
from rewardft_plugins.adhmr.metric import HMRErrors
from rewardft_plugins.adhmr.space import METRES, unpack

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.types import Plan, Rollout


def test_each_mean_best_and_spread_of_known_errors():
    """All joints but the pelvis moved along x: by 30 and -30 mm, and by 90 mm the third."""
    data = PosePictures(split="val", limit=2)
    batch = make_batch([data[i] for i in range(4)], [0] * 4).repeat(3)
    shift = torch.zeros(26, 3)
    shift[:, 0] = 0.001 / METRES
    amounts = torch.tensor([30.0, -30.0, 90.0]).repeat(4)
    x0 = batch["pose"].clone()
    x0[:, :78] += amounts[:, None] * shift.flatten()
    rollout = Rollout(None, Noise(0, batch.ids, batch.epochs), Plan(0), x0=x0, decoder=unpack)
    metric = HMRErrors(scorer=None)
    metric.update(rollout, batch)
    found = {name: values.tolist() for name, values in metric.compute().items()}
    moved = 26 / 27
    assert found["mpjpe"] == pytest.approx([50 * moved] * 4, rel=1e-3)
    assert found["mpjpe_mean"] == pytest.approx([30 * moved] * 4, rel=1e-3)
    assert found["mpjpe_best"] == pytest.approx([30 * moved] * 4, rel=1e-3)
    assert found["spread"] == pytest.approx([2400**0.5 * moved] * 4, rel=1e-3)
    assert all(0 < pa < 50 for pa in found["pa_mpjpe"]) and all(v > 5 for v in found["pve"])
    assert not any("chosen" in name or name == "pair_right" for name in found)
    chosen = HMRErrors(mesh=False)
    chosen.update(rollout, batch)
    values = chosen.compute()
    assert set(values["pair_right"].tolist()) <= {0.0, 1.0} and "pve" not in values
    assert values["mpjpe_chosen"].min() > 28
