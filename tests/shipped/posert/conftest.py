"""Small models and batches of the three tasks."""

import pytest
import torch
from rewardft_plugins.posert.dataset import PoseDialogues
from rewardft_plugins.posert.model import PoseLM

from rewardft.policy.batches import make_batch


def small(**options):
    """A random miniature whose answers end now and then and hold poses now and then."""
    options = {"weights": None, "width": 16, "layers": 2, "heads": 2, "head_width": 8, **options}
    model = PoseLM(**options)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.trainable.head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        model.trainable.lm.lm_head.weight.mul_(20.0)
    return model


@pytest.fixture(scope="session")
def items():
    """Two items of each task."""
    data = PoseDialogues(tasks=("image", "text", "describe"), limit=2)
    return [data[i] for i in range(len(data))]


@pytest.fixture
def batch(items):
    return make_batch(items, [0] * len(items))
