"""What the tests of preferences share: contexts, pairs, and a second, independent copy of the models."""

import copy

import torch
from rewardft_plugins.dpo.pairs import ToyPairs

from rewardft.policy.batches import make_batch
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from tests.gradients import T, make_context

PREDICTIONS = ["epsilon", "v_prediction", "sample", "flow"]


def context(prediction="epsilon", eta=0.0, **options):
    sampler = FlowEuler(T) if prediction == "flow" else DDIM(T, eta=eta)
    return make_context(sampler, prediction=prediction, **options)


def pairs(size=3):
    data = ToyPairs()
    return make_batch([data[i] for i in range(size)], [0] * size)


def two_models(ctx):
    """(policy, reference): two separate networks; the reference has no adapter in it at all."""
    policy = copy.deepcopy(ctx.policy.model)
    reference = copy.deepcopy(policy)
    for layer in [m for m in reference.trainable.modules() if hasattr(m, "lora_A")]:
        for factor in layer.lora_B.values():
            torch.nn.init.zeros_(factor.weight)
    reference.trainable.requires_grad_(False)
    return policy, reference


def gradients(model):
    return [p.grad.clone() for n, p in model.trainable.named_parameters() if ".lora_" in n]


def schedule(ctx, draw):
    """(t, alpha, sigma) for draws in [0, 1), from the definitions: shaped `(b, 1, 1, 1)` but for t."""
    index = (draw * 1000).long()
    scheduler = ctx.policy.scheduler
    if hasattr(scheduler, "alphas_cumprod"):
        a = scheduler.alphas_cumprod.double()[index].view(-1, 1, 1, 1)
        return index, a.sqrt(), (1 - a).sqrt()
    sigma = (
        ((index + 1) / 1000).double().view(-1, 1, 1, 1)
    )  # shift 1: sigma = t / 1000, t = 1 .. 1000
    return (index + 1).float(), 1 - sigma, sigma


def epsilon_hat(kind, x, output, alpha, sigma):
    """The output as a noise prediction, by each type's own definition."""
    if kind == "epsilon":
        return output
    if kind == "v_prediction":
        return alpha * output + sigma * x
    if kind == "sample":
        return (x - alpha * output) / sigma
    return x + (1 - sigma) * output
