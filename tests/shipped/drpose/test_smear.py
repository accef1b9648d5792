"""A model that answers with averages of what it could paint: PoseScore pays for it, `crisp_normals`
does not, and the alarm names what was lost."""

import importlib.util
from pathlib import Path

import pytest
import torch
from rewardft_plugins.drpose.data.build import build_dataset
from rewardft_plugins.drpose.data.dataset import Drpose15k
from rewardft_plugins.drpose.data.splits import Sampling, plan_splits
from rewardft_plugins.drpose.judges.pose_judge import sharpness
from rewardft_plugins.drpose.model.multiview_compact import MultiviewCompact
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.drpose.rewards.crisp_normals import CrispNormals
from rewardft_plugins.drpose.rewards.pose_score import PoseScore
from rewardft_plugins.drpose.weights import ASSETS
from rewardft_plugins.humans.body import load_body
from rewardft_plugins.humans.motion import shipped_clips

from rewardft.evaluation.alarms import find_alarms
from rewardft.evaluation.evaluate import Evaluation
from rewardft.policy.batches import make_batch
from rewardft.testing import make_rollout

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "drpose_hedging.py"
pytestmark = pytest.mark.skipif(
    not (ASSETS / "compact").is_dir(), reason="the shipped weights are not here"
)


@pytest.fixture(scope="module")
def smeared(tmp_path_factory):
    """Batch, model, and latents `(4, 16, 12, c, h, w)` that it drew for the same pictures."""
    root = tmp_path_factory.mktemp("smear") / "data"
    clips = plan_splits(shipped_clips(), Sampling(poses=2, neighbours=1, val_samples=16))
    build_dataset(root, clips, load_body("anny_lowpoly"))
    data = Drpose15k(str(root), "acro_val", targets=True)
    batch = make_batch([data[i] for i in range(16)], [0] * 16)
    spec = importlib.util.spec_from_file_location("drpose_hedging", BENCHMARK)
    hedging = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hedging)
    model = MultiviewCompact(weights="shipped")
    return batch, model, hedging.draw(model, batch, draws=4, steps=4)


@torch.no_grad()
def test_the_alarm_catches_a_smear_that_pose_score_pays_for(smeared):
    batch, model, draws = smeared
    rewards = {"reward/pose_score": PoseScore(), "reward/crisp_normals": CrispNormals()}

    def evaluation(latents):
        table = {
            name: reward(make_rollout(latents, batch), batch).tolist()
            for name, reward in rewards.items()
        }
        normals, _ = split_domains(model.decode(latents))
        table["pose_judge/sharpness"] = sharpness(normals, batch["normals"]).tolist()
        better = dict.fromkeys(table, True)
        return Evaluation(list(batch.ids), [], table, {}, higher_is_better=better)

    before, after = evaluation(draws[0]), evaluation(draws.mean(0))
    found = [alarm.name for alarm in find_alarms(before, after, ["reward/pose_score"])]
    assert found == ["reward/crisp_normals", "pose_judge/sharpness"]
    assert find_alarms(before, after, ["reward/crisp_normals"]) == []
