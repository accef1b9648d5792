"""All weights of a bfloat16 model learn: the trained ones are float32, and the layers compute as before."""

import copy

import pytest
import torch
from torch import nn

from rewardft.engine.ema import Ema
from rewardft.policy.full import FullFineTuning


class Model:
    def __init__(self, dtype):
        torch.manual_seed(0)
        self.trainable = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 8)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_are_not_lost(dtype):
    """Three steps of 1e-6, below half a unit in the last place of most weights, as a float32 model takes them."""
    model, twin = Model(dtype), Model(dtype).trainable.float()
    x = torch.randn(4, 16)
    before = model.trainable(x.to(dtype))
    adapter = FullFineTuning(model, keep_reference=True)
    assert torch.equal(model.trainable(x.to(dtype)), before)
    assert all(p.dtype == torch.float32 for p in adapter.parameters)
    start = {name: value.clone() for name, value in adapter.state_dict().items()}
    ema = Ema(adapter, 0.5)
    optimizer = torch.optim.SGD(adapter.parameters, lr=1e-6)
    for step in (1, 2, 3):
        loss = model.trainable(x.to(dtype)).float().square().sum()
        loss.backward()
        gradients = [p.grad.clone() for p in adapter.parameters]
        optimizer.step()
        optimizer.zero_grad()
        ema.update(step)
        with torch.no_grad():
            for parameter, gradient in zip(twin.parameters(), gradients):
                parameter -= 1e-6 * gradient
    for (name, master), expected in zip(adapter.named.items(), twin.parameters()):
        assert torch.equal(master, expected), name
        assert (master != start[name]).float().mean() > 0.95, name
        assert ema.weights[name].dtype == torch.float32
    with adapter.disabled():
        assert torch.equal(model.trainable(x.to(dtype)), before)


def test_names_and_values_are_those_of_the_layers():
    model = Model(torch.bfloat16)
    own = copy.deepcopy(model.trainable.state_dict())
    adapter = FullFineTuning(model, keep_reference=False)
    saved = adapter.state_dict()
    assert saved.keys() == own.keys() == adapter.named.keys()
    assert all(torch.equal(saved[name], own[name].float()) for name in own)
    again = FullFineTuning(Model(torch.bfloat16), keep_reference=False)
    again.load_state_dict({name: value + 1e-4 for name, value in saved.items()}, "here")
    assert torch.equal(again.named["0.weight"], saved["0.weight"] + 1e-4)


def test_tied_weights_stay_tied_and_float32_models_are_left_alone():
    model = Model(torch.bfloat16)
    model.trainable = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).bfloat16()
    model.trainable[1].weight = model.trainable[0].weight
    adapter = FullFineTuning(model, keep_reference=False)
    with torch.no_grad():
        adapter.named["0.weight"].fill_(0.5)
    assert (model.trainable[1].weight == 0.5).all() and model.trainable[
        1
    ].weight.dtype == torch.bfloat16
    plain = Model(torch.float32)
    FullFineTuning(plain, keep_reference=False)
    assert type(plain.trainable[0]) is nn.Linear
