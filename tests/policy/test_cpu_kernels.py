"""Attention and group normalization in float32 where bfloat16 is slow to differentiate on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from rewardft.policy import cpu_kernels
from rewardft.policy.lora import Lora
from rewardft.policy.policy import Policy
from rewardft.types import Plan
from tests.policy.test_adapter import spec, tiny_unet, train

CPU = torch.device("cpu")


def normalized(x, scale, shift):
    return F.group_norm(x, 2, scale, shift, 1e-5)


def attended(query, key, value):
    return F.scaled_dot_product_attention(query, key, value=value)


def operands(kind):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 6, 6), (4,), (4,)] if kind is normalized else [(2, 2, 9, 8)] * 3
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


@pytest.mark.parametrize("kind", [normalized, attended])
@pytest.mark.parametrize("autocast", [False, True])
def test_results_and_gradients_are_those_of_more_precision(kind, autocast):
    """Against float64; what rounding to bfloat16 leaves is 2^-9 of a value."""
    given = operands(kind)
    wide = [value.double().requires_grad_(True) for value in given]
    wanted = kind(*wide)
    wanted.square().sum().backward()
    own = [value.clone().requires_grad_(True) for value in given]
    seen = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), cpu_kernels.quick_backward(CPU):
        result = kind(*own)
        result.register_hook(lambda gradient: seen.append(gradient.dtype))
    assert result.dtype == torch.bfloat16
    assert torch.allclose(result.double(), wanted, rtol=2**-8, atol=1e-6)
    result.double().square().sum().backward()
    assert seen == [torch.bfloat16]
    for narrow, full in zip(own, wide):
        assert narrow.grad.dtype == torch.bfloat16
        error = (narrow.grad.double() - full.grad).abs().max() / full.grad.abs().max()
        assert error < 2**-6
    # Computed wide, and not only rounded at the end.
    names = set()
    node = result.grad_fn
    while node is not None:
        names.add(type(node).__name__)
        node = node.next_functions[0][0] if node.next_functions else None
    assert "ToCopyBackward0" in names


def test_nothing_else_changes():
    """Float32, other operations, other devices."""
    with cpu_kernels.quick_backward(CPU):
        for kind in (normalized, attended):
            given = [value.float() for value in operands(kind)]
            inside = kind(*given)
            assert inside.dtype == torch.float32
            with torch._C.DisableTorchFunction():
                assert torch.equal(inside, kind(*given))
        x, *_ = operands(normalized)
        assert F.silu(x).dtype == torch.bfloat16
    with cpu_kernels.quick_backward(torch.device("cuda")) as mode:
        assert mode is None


def test_the_policy_uses_it_under_autocast_alone(monkeypatch):
    """And decodes inside it; the gradient of the adapter is that of float64 up to bfloat16's rounding."""
    used = []
    plain = cpu_kernels.InFloat32.__torch_function__

    def noted(self, func, types, args=(), kwargs=None):
        result = plain(self, func, types, args, kwargs)
        if func in cpu_kernels.SLOW:
            used.append(func)
        return result

    monkeypatch.setattr(cpu_kernels.InFloat32, "__torch_function__", noted)
    gradients = {}
    for dtype in (torch.float64, torch.bfloat16):
        unet = tiny_unet().to(dtype)
        adapter = Lora(SimpleNamespace(trainable=unet), spec(targets=["to_q", "to_k", "to_v"]), 0)
        train(adapter)
        text = torch.ones(2, 5, 8, dtype=dtype)

        def denoise(x, t, cond, unet=unet, dtype=dtype, text=text):
            return unet(x.to(dtype), t, text).sample

        norm = torch.nn.GroupNorm(2, 4).to(dtype)
        model = SimpleNamespace(trainable=unet, denoise=denoise, decode=norm)
        policy = Policy(model, torch.bfloat16 if dtype == torch.bfloat16 else None)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
        used.clear()
        policy.denoise(x, torch.tensor([3, 900]), None).square().sum().backward()
        assert bool(used) == (dtype == torch.bfloat16)
        gradients[dtype] = torch.cat([p.grad.flatten().double() for p in adapter.parameters])
        used.clear()
        assert policy.decode(x).shape == x.shape
        assert used == ([F.group_norm] if dtype == torch.bfloat16 else [])
        used.clear()
        with torch.no_grad(), policy.rounding(Plan(1, exact=False)):
            policy.denoise(x, torch.tensor([3, 900]), None)
            policy.decode(x)
        assert used == []
    one, other = gradients.values()
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.99


def short_unet(checkpointed=False):
    """(policy, adapter, arguments of a call)."""
    unet = tiny_unet()
    adapter = Lora(SimpleNamespace(trainable=unet), spec(targets=["to_q", "to_k", "to_v"]), 0)
    train(adapter)
    if checkpointed:
        unet.enable_gradient_checkpointing()
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(2, 5, 8, generator=generator)
    model = SimpleNamespace(trainable=unet, denoise=lambda x, t, cond: unet(x, t, text).sample)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    return Policy(model, torch.bfloat16, checkpointed), adapter, (x, torch.tensor([3, 900]), None)


def test_a_replay_that_is_differentiated_rounds_as_an_exact_rollout():
    """Or every ratio of densities, and every divergence from the reference, would have the rounding of
    bfloat16 in it before anything has been learned."""
    policy, _, given = short_unet()
    replayed = policy.denoise(*given).detach()
    with torch.no_grad():
        with policy.rounding(Plan(1)):
            assert torch.equal(policy.denoise(*given), replayed)
        assert torch.equal(policy.denoise(*given), replayed)  # the reference
        with policy.rounding(Plan(1, exact=False)):
            other = policy.denoise(*given)
    assert not torch.equal(other, replayed)  # or the lines above say nothing
    assert torch.allclose(other, replayed, rtol=0, atol=0.05 * float(replayed.abs().max()))
    assert not policy.rounds


def test_what_is_checkpointed_is_computed_again_in_the_same_precision():
    """Torch computes it again outside of the policy's call, and refuses tensors of another precision."""
    gradients = []
    for checkpointed in (False, True):
        policy, adapter, given = short_unet(checkpointed)
        policy.denoise(*given).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in adapter.parameters]))
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99
