"""The gradient of each sample by one backward pass, beside a backward pass for each, in float64."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rewardft.policy.lora import Lora
from rewardft.policy.sample_gradients import SampleGradients, flat_gradient
from rewardft.samplers.ddim import DDIM
from rewardft.testing.tiny import CLASSES, TinyModel
from tests.gradients import T, make_context, make_test_batch
from tests.policy.test_adapter import spec


def stacked(model, x, t, cond):
    """Guidance with both halves in one call, as models of text have it."""
    both = torch.cat([torch.full_like(cond["label"], CLASSES), cond["label"]])
    null, full = model.trainable(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
    return null + model.guidance * (full - null)


def side_by_side(model, x, t, cond):
    """The same with the two rows of a sample beside each other."""
    both = torch.stack([torch.full_like(cond["label"], CLASSES), cond["label"]], 1).flatten()
    rows = model.trainable(x.repeat_interleave(2, 0), t.repeat_interleave(2, 0), both)
    null, full = rows[0::2], rows[1::2]
    return null + model.guidance * (full - null)


def log_probs(denoise, count, watched):
    """Of one step of `count` samples; and what to differentiate."""
    ctx = make_context(DDIM(T, eta=1.0), guidance=3.0)
    model, batch = ctx.policy.model, make_test_batch(count)
    rows = ctx.adapter.sample_gradients(count)
    x = ctx.noise(batch).draw("initial", (3, 8, 8))
    taken = ctx.noise(batch).draw("taken", (3, 8, 8))
    with rows.watched() if watched else torch.enable_grad():
        output = denoise(model, x, torch.full((count,), 500), ctx.encode(batch))
        values = -((output - taken) ** 2).flatten(1).mean(1)
        yield ctx, rows, values


@pytest.mark.parametrize("denoise", [stacked, TinyModel.denoise])
@pytest.mark.parametrize("count", [2, 3])
def test_each_samples_gradient_is_its_own(denoise, count):
    """Of one call with twice the rows, and of two calls."""
    for ctx, rows, values in log_probs(denoise, count, watched=True):
        parameters = ctx.adapter.parameters
        alone = torch.stack([flat_gradient(v, parameters, keep=True) for v in values])
        found = rows.of(values, keep=True)
        assert rows.belongs(values, found)
        assert found.shape == (count, sum(p.numel() for p in parameters))
        assert float((found - alone).norm() / alone.norm()) < 1e-12
    # The calls are what they are without it, and afterwards nothing is left behind.
    for _, _, plain in log_probs(denoise, count, watched=False):
        assert torch.equal(plain, values)
    layers = [m for m in ctx.adapter.module.modules() if isinstance(m, nn.Linear)]
    assert not any(layer._forward_hooks for layer in layers)


def test_rows_in_another_order_are_found_out():
    for _, rows, values in log_probs(side_by_side, 3, watched=True):
        assert not rows.belongs(values, rows.of(values, keep=True)) and rows.fits


def test_a_small_layer_in_another_order_is_found_out():
    """Where all other layers, with nearly all of the gradient, are as they are taken for."""
    torch.manual_seed(0)  # a small layer of another draw may be too small to be judged
    first, second = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    third, fourth = nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False)
    pairs = [(first, second), (third, fourth)]
    weights = [part.weight for pair in pairs for part in pair]
    x = torch.randn(4, 5, 3)

    def values(order, scale):
        # Rows 0 and 2 are those of the first of two samples.
        big = second(first(x))
        small = scale * fourth(third(x[order]))[order.argsort()]
        return (big + small).square().reshape(2, 2, -1).sum((0, 2))

    for order, right in (([0, 1, 2, 3], True), ([0, 2, 1, 3], False)):
        rows = SampleGradients(pairs, weights, 2)
        with rows.watched():
            value = values(torch.tensor(order), 0.01)
            found = rows.of(value, keep=True)
            own = flat_gradient(value[0], weights, keep=True)
            assert (found[0] - own).norm() < 0.05 * own.norm()
            assert rows.belongs(value, found) is right


def test_a_gradient_of_zero_tells_nothing():
    for _, rows, values in log_probs(side_by_side, 3, watched=True):
        nothing = 0.0 * values
        assert rows.belongs(nothing, rows.of(nothing, keep=True)) is None


def test_rows_that_are_not_the_samples_are_found_out():
    def shared(model, x, t, cond):
        # As of an embedding that all samples share: one row for all.
        tokens = model.trainable.to_q(torch.ones(1, 8, dtype=x.dtype))
        return model.denoise(x, t, cond) + tokens.mean()

    for _, rows, values in log_probs(shared, 3, watched=True):
        assert not rows.belongs(values, rows.of(values, keep=True)) and not rows.fits


def test_only_adapters_of_linear_maps_have_it():
    def of(targets, **options):
        return Lora(TinyModel(), spec(targets=targets, **options), 0)

    assert of(["to_q"]).sample_gradients(2) is not None
    assert of(["to_q", "enter"]).sample_gradients(2) is None  # a convolution
    biased = of(["to_q"])
    biased.layers[0].lora_B["default"] = nn.Linear(4, 24)
    assert biased.sample_gradients(2) is None
    compiled = of(["to_q"])
    compiled.module._compiled_call_impl = SimpleNamespace()
    assert compiled.sample_gradients(2) is None
