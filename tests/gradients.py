"""What proofs of gradients share: a tiny policy in float64, and the gradients that an algorithm's losses leave in it."""

import random

import torch

from rewardft.algorithms.regularizers import KL
from rewardft.policy.batches import make_batch
from rewardft.policy.context import WeightedRegularizer
from rewardft.testing.conformance import tiny_context
from rewardft.testing.tiny import TinyBlobs, TinyModel

T = 6


def make_context(
    sampler,
    form=None,
    guidance=1.0,
    guidance_gradient="inside",
    prediction="epsilon",
    micro_batch=None,
):
    """The tiny model with LoRA in float64, one weighted reward and, where `form` is given, a KL of that form."""
    model = TinyModel(
        prediction=prediction, guidance=guidance, guidance_gradient=guidance_gradient, width=8
    )
    regularizers = [WeightedRegularizer("kl", KL(form), 0.37)] if form else []
    return tiny_context(sampler, model=model, regularizers=regularizers, micro_batch=micro_batch)


def at_initialisation(ctx):
    """The adapter as a run starts with it: its second factor is zero."""
    with torch.no_grad():
        for name, parameter in ctx.adapter.named.items():
            if ".lora_B." in name:
                parameter.zero_()
    return ctx


def move(ctx, amount=0.05):
    """Stand-in for an optimizer step: every weight of the adapter grows."""
    with torch.no_grad():
        for parameter in ctx.adapter.parameters:
            parameter.add_(amount)


def make_test_batch(size=3):
    data = TinyBlobs()
    return make_batch([data[i] for i in range(size)], [0] * size)


def run_backward(losses):
    """Each loss after its backward pass."""
    for loss in losses:
        loss.value.backward()
        yield loss


def take_gradients(ctx):
    gradients = [p.grad.clone() for p in ctx.adapter.parameters]
    for p in ctx.adapter.parameters:
        p.grad = None
    return gradients


def run_losses(ctx, algorithm, batch):
    """(loss, gradients) of a batch as the engine sees them; the last loss closes the optimizer step."""
    losses = list(run_backward(algorithm.losses(ctx, batch)))
    assert [loss.step for loss in losses] == [False] * (len(losses) - 1) + [True]
    return float(sum(loss.value.detach() for loss in losses)), take_gradients(ctx)


def drawn_gradients(ctx, algorithm, batch):
    """The gradients where the algorithm draws its visits from seed 11."""
    ctx.rng = random.Random(11)
    return run_losses(ctx, algorithm, batch)[1]


def relative_error(ours, theirs):
    ours, theirs = torch.cat([g.flatten() for g in ours]), torch.cat([g.flatten() for g in theirs])
    assert theirs.norm() > 1e-6, (
        "the reference gradient is zero: the comparison would prove nothing"
    )
    return float((ours - theirs).norm() / theirs.norm())
