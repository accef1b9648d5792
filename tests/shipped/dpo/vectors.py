"""A model whose samples are vectors of two named parts, in float64: what the tests of parts
share."""

import torch
from torch import nn

from rewardft.policy.batches import make_batch
from rewardft.policy.context import Context
from rewardft.policy.full import FullFineTuning
from rewardft.policy.policy import Policy
from rewardft.samplers.ddim import DDIM
from rewardft.testing.tiny import make_scheduler

JOINTS, TWISTS = 29 * 3, 23 * 2  # as ADHMR's
SIZE = JOINTS + TWISTS


class VectorNet(nn.Module):
    def __init__(self, condition):
        super().__init__()
        self.enter = nn.Linear(SIZE + condition + 1, 16)
        self.leave = nn.Linear(16, SIZE)

    def forward(self, x, t, cond):
        t = t[:, None].to(x.dtype) / 1000
        return self.leave(torch.tanh(self.enter(torch.cat([x, cond, t], 1))))


class VectorModel:
    """Joints and twists, seen or not, given a condition of three numbers."""

    provides = frozenset({"denoiser"})
    parts = {"joints": slice(0, JOINTS), "twists": slice(JOINTS, SIZE)}

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.trainable = VectorNet(3).double()
        self.scheduler = make_scheduler("epsilon")

    def encode(self, batch):
        return batch["cond"]

    def sample_shape(self, cond):
        return (SIZE,)

    def denoise(self, x, t, cond):
        return self.trainable(x, t, cond)

    def decode(self, x0):
        return {"joints": x0[:, :JOINTS], "twists": x0[:, JOINTS:]}

    def clean(self, batch):
        return batch["pose"]

    def part_weights(self, batch):
        return {"joints": batch["joints_seen"], "twists": batch["twists_seen"]}


def vector_context(micro_batch=None):
    """Full fine-tuning, the policy away from its reference."""
    model = VectorModel()
    adapter = FullFineTuning(model, keep_reference=True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator).double()
    sampler = DDIM(3)
    sampler.setup(model)
    return Context(
        policy=Policy(model),
        sampler=sampler,
        adapter=adapter,
        seed=5,
        dtype=torch.float64,
        micro_batch=micro_batch,
    )


def vector_pairs(count=6, group=None):
    """Winners and losers, some of their joints unseen and twists weighted; with `group`, scored
    groups."""
    g = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64)

    items = []
    for i in range(count):
        seen = (torch.rand(29, 1, generator=g) < 0.7).double().expand(29, 3).flatten()
        item = {
            "id": f"p{i}",
            "cond": normal(3),
            "winner": normal(SIZE),
            "loser": normal(SIZE),
            "joints_seen": seen,
            "twists_seen": torch.rand(TWISTS, generator=g, dtype=torch.float64),
        }
        if group:
            item |= {"samples": normal(group, SIZE), "scores": normal(group)}
        items.append(item)
    return make_batch(items, [0] * count)
