"""Earlier versions of the policy: copied, blended, run in the policy's place, and put away without a trace."""

import pytest
import torch

from rewardft.errors import CheckpointError
from rewardft.policy.snapshots import blend, swapped_in, take_snapshot
from rewardft.samplers.ddim import DDIM
from tests.gradients import T, make_context, make_test_batch, move


@pytest.fixture
def ctx():
    return make_context(DDIM(T))


def output(ctx):
    """What the policy says at a fixed point."""
    x = torch.linspace(-1, 1, 3 * 64, dtype=torch.float64).view(1, 3, 8, 8)
    return ctx.policy.denoise(x, torch.tensor([500]), {"label": torch.tensor([1])})


def test_a_snapshot_gives_the_outputs_of_its_time(ctx):
    before = output(ctx).detach()
    snapshot = take_snapshot(ctx.adapter)
    move(ctx)
    after = output(ctx).detach()
    assert (before - after).abs().max() > 1e-3
    with swapped_in(ctx.adapter, snapshot):
        assert torch.equal(output(ctx), before)
    assert torch.equal(output(ctx).detach(), after)


def test_the_policy_is_back_to_the_bit_and_to_the_storage_whatever_happens_inside(ctx):
    snapshot = take_snapshot(ctx.adapter)
    kept = {name: value.clone() for name, value in snapshot.items()}
    move(ctx)
    mine = [(p, p.data_ptr(), p.detach().clone()) for p in ctx.adapter.parameters]
    with pytest.raises(ZeroDivisionError), swapped_in(ctx.adapter, snapshot):
        output(ctx)
        1 / 0
    for parameter, address, value in mine:
        assert (
            parameter.data_ptr() == address
            and torch.equal(parameter, value)
            and parameter.requires_grad
        )
    assert all(torch.equal(snapshot[name], kept[name]) for name in kept)
    assert torch.is_grad_enabled()


def test_no_graph_is_built_with_the_snapshot_in_place(ctx):
    with swapped_in(ctx.adapter, take_snapshot(ctx.adapter)):
        assert not output(ctx).requires_grad
    assert output(ctx).requires_grad


def test_a_graph_of_the_policy_survives_a_swap_before_its_backward(ctx):
    """Autograd keeps the parameter, not its bits: a backward after the swap must see the policy's own weights."""
    output(ctx).square().sum().backward()
    expected = [p.grad.clone() for p in ctx.adapter.parameters]
    snapshot = take_snapshot(ctx.adapter)
    for value in snapshot.values():
        value.add_(1.0)
    for parameter in ctx.adapter.parameters:
        parameter.grad = None
    loss = output(ctx).square().sum()
    with swapped_in(ctx.adapter, snapshot):
        output(ctx)
    loss.backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(ctx.adapter.parameters, expected))


def test_a_later_step_of_the_optimizer_leaves_the_snapshot_alone(ctx):
    snapshot = take_snapshot(ctx.adapter)
    kept = {name: value.clone() for name, value in snapshot.items()}
    optimizer = torch.optim.SGD(ctx.adapter.parameters, lr=0.5)
    with swapped_in(ctx.adapter, snapshot):
        output(ctx)
    output(ctx).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(snapshot[name], kept[name]) for name in kept)
    assert any((p - kept[n]).abs().max() > 1e-6 for n, p in ctx.adapter.named.items())


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0])
def test_blending_is_the_moving_average(ctx, decay):
    snapshot = take_snapshot(ctx.adapter)
    old = {name: value.clone() for name, value in snapshot.items()}
    move(ctx, 0.7)
    blend(snapshot, ctx.adapter, decay)
    for name, parameter in ctx.adapter.named.items():
        expected = decay * old[name] + (1 - decay) * parameter.detach()
        assert torch.allclose(snapshot[name], expected, rtol=0, atol=1e-15)
        assert decay != 0.0 or torch.equal(snapshot[name], parameter)


def test_autocast_does_not_serve_the_snapshot_from_its_cache_to_the_policy():
    """With the cache on, a cast made for the snapshot under no_grad would be reused, and its gradient lost."""
    ctx = make_context(DDIM(T))
    ctx.policy.model.trainable.float()
    ctx.policy.precision = torch.bfloat16
    x, t, cond = torch.randn(2, 3, 8, 8), torch.tensor([500, 20]), ctx.encode(make_test_batch(2))
    snapshot = take_snapshot(ctx.adapter)
    move(ctx)
    alone = ctx.policy.denoise(x, t, cond).detach()
    with torch.autocast(
        "cpu", dtype=torch.bfloat16
    ):  # one block around both calls is what keeps the cache alive
        with swapped_in(ctx.adapter, snapshot):
            old = ctx.policy.denoise(x, t, cond)
        new = ctx.policy.denoise(x, t, cond)
    new.sum().backward()
    assert torch.equal(new, alone) and not torch.equal(old, alone)
    assert all(p.grad is not None and p.grad.any() for p in ctx.adapter.parameters)


def test_a_snapshot_of_another_adapter_is_refused(ctx):
    snapshot = take_snapshot(ctx.adapter)
    name = sorted(snapshot)[0]
    snapshot[name] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as error, swapped_in(ctx.adapter, snapshot):
        pass
    assert str(error.value) == (
        f"a snapshot of the policy does not fit the adapter: 1 tensors differ, the first is {name} (expected "
        f"{tuple(ctx.adapter.named[name].shape)}, got (2, 2)). Was the checkpoint saved by a run with another adapter?"
    )
