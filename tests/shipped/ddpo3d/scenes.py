"""Small scenes, priors and contexts for the tests of the plugin, in float64."""

import torch
from rewardft_plugins.ddpo3d.data import Ambigrams
from rewardft_plugins.ddpo3d.model import GaussianScene
from rewardft_plugins.ddpo3d.render import Render

from rewardft.policy.batches import make_batch
from rewardft.policy.context import Context
from rewardft.policy.full import FullFineTuning
from rewardft.policy.policy import Policy
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing.tiny import TinyModel


def scene_model(prior=None, scenes=2, gaussians=5, **options):
    """Scenes under the tiny model, away from their start, so that no part of them is special."""
    prior = prior or TinyModel(width=8)
    model = GaussianScene(
        prior, scenes=scenes, gaussians=gaussians, size=8, scale=0.25, opacity=0.5, **options
    )
    model.trainable.double()
    prior.trainable.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.trainable.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.2 * noise
    return model


def scene_context(model, reward=None, micro_batch=None, jitter=7.0):
    sampler = Render(jitter=jitter)
    sampler.setup(model)
    context = Context(
        policy=Policy(model),
        sampler=sampler,
        adapter=FullFineTuning(model, keep_reference=False),
        rewards=[] if reward is None else [WeightedReward("reward", reward, 1.0)],
        seed=5,
        dtype=torch.float64,
        micro_batch=micro_batch,
    )
    context.start_step(0)
    return context


def views(scenes=2):
    """Every scene from the front and from the side."""
    data = Ambigrams(scenes=scenes, classes=4)
    return make_batch([data[i] for i in range(len(data))], [0] * len(data))


def gradient(model, value):
    """Of a number by all that the Gaussians of the scenes consist of, as one vector."""
    found = torch.autograd.grad(value, list(model.trainable.gaussians()))
    return torch.cat([part.flatten() for part in found])
