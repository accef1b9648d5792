"""The adapter in rollouts: in the weights of a large base, or cast once; the same policy as at every call."""

from types import SimpleNamespace

import pytest
import torch

from rewardft.algorithms.direct_presets import draft, draft_lv, drtune
from rewardft.policy import rollout_weights
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora
from rewardft.samplers.ddim import DDIM
from rewardft.testing.tiny import TinyModel
from rewardft.types import Plan
from tests.gradients import T, drawn_gradients, make_context, make_test_batch
from tests.policy.test_adapter import inputs, spec, tiny_unet, train, trained


@pytest.fixture
def all_large(monkeypatch):
    monkeypatch.setattr(rollout_weights, "LARGE", 0)


def folding(adapter, exact=False, precision=None):
    """What the layers' weights are inside, and whether peft's arithmetic is switched off."""
    with adapter.for_rollout(precision, exact):
        weights = [layer.get_base_layer().weight.clone() for layer in adapter.layers]
        return weights, [layer._disable_adapters for layer in adapter.layers]


def test_a_large_base_has_the_adapter_in_its_weights(all_large):
    _, adapter = trained(rank=4, alpha=8.0)
    before = [layer.get_base_layer().weight.data for layer in adapter.layers]
    copies = [weight.clone() for weight in before]
    weights, off = folding(adapter)
    assert off == [True] * len(adapter.layers) == [True, True]
    for layer, plain, weight in zip(adapter.layers, copies, weights):
        # alpha / rank = 2, from the definition of LoRA.
        own = plain + 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
        assert torch.allclose(weight, own, rtol=0, atol=1e-6) and not torch.equal(weight, plain)
    # The very tensors, not their sum less the adapter.
    after = [layer.get_base_layer().weight.data for layer in adapter.layers]
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(after, before))
    assert all(torch.equal(a, c) for a, c in zip(after, copies))
    assert [layer._disable_adapters for layer in adapter.layers] == [False, False]


def test_outputs_are_those_of_the_adapter(all_large):
    model, adapter = trained()
    model.trainable.double()
    x, t, label = inputs()
    with torch.no_grad():
        wanted = model.trainable(x.double(), t, label)
        with adapter.for_rollout(None, exact=False):
            folded = model.trainable(x.double(), t, label)
    assert not torch.equal(folded, wanted)  # or nothing was folded
    assert torch.allclose(folded, wanted, rtol=1e-12, atol=1e-12)


def test_the_reference_inside_a_rollout_is_the_base(all_large):
    model, adapter = trained()
    plain = TinyModel(width=12).trainable
    x = inputs()
    with torch.no_grad(), adapter.for_rollout(None, exact=False):
        folded = model.trainable(*x)
        with adapter.disabled():
            assert torch.equal(model.trainable(*x), plain(*x))
        assert torch.equal(model.trainable(*x), folded)
        with adapter.for_rollout(None, exact=False):  # once is enough
            assert torch.equal(model.trainable(*x), folded)


def test_a_rollout_of_the_reference_stays_one(all_large):
    model, adapter = trained()
    plain = TinyModel(width=12).trainable
    x = inputs()
    for precision in (None, torch.bfloat16):
        with torch.no_grad(), adapter.disabled(), adapter.for_rollout(precision, exact=False):
            assert torch.equal(model.trainable(*x), plain(*x))


def test_an_error_inside_leaves_the_base_as_it_was(all_large):
    model, adapter = trained()
    x = inputs()
    with torch.no_grad():
        wanted = model.trainable(*x)
        with pytest.raises(RuntimeError, match="in a rollout"), adapter.for_rollout(None, False):
            raise RuntimeError("in a rollout")
        assert torch.equal(model.trainable(*x), wanted)


def test_what_is_not_folded(monkeypatch):
    """Small networks, exact rollouts, a base of another precision, a base that is spread."""
    model, adapter = trained()
    assert folding(adapter)[1] == [False, False]
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    assert folding(adapter)[1] == [True, True]
    assert folding(adapter, exact=True)[1] == [False, False]
    assert folding(adapter, precision=torch.bfloat16)[1] == [False, False]
    model.trainable.unshard = lambda: None
    assert folding(adapter)[1] == [False, False]
    del model.trainable.unshard
    adapter.layers[1].get_base_layer().bfloat16()
    assert folding(adapter)[1] == [False, False]


def test_a_network_that_grows_is_what_it_was():
    """Half of a run would round otherwise than the rest."""
    network = torch.nn.Linear(1000, 4999, bias=False)
    same, more = torch.nn.Linear(1000, 5000, bias=False), torch.empty(5001, 1000)
    assert not rollout_weights.is_large(network) and rollout_weights.is_large(same)
    network.weight.data = more
    same.weight.data = more[:1]
    assert not rollout_weights.is_large(network) and rollout_weights.is_large(same)


def test_a_weight_that_two_layers_share_is_not_folded(all_large):
    _, adapter = trained()
    first, second = (layer.get_base_layer() for layer in adapter.layers)
    second.weight = first.weight
    assert folding(adapter)[1] == [False, False]


class Scaled(torch.nn.Linear):
    """Does more with its weight than a linear layer."""

    def forward(self, x):
        return torch.nn.functional.linear(x, self.weight / self.weight.norm(), self.bias)


def odd_layers():
    tied = torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 6))
    tied[1].weight = tied[0].weight
    circular = torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    return {
        "plain": torch.nn.Sequential(torch.nn.Linear(4, 4)),
        "tied": tied,
        "of somebody's own class": torch.nn.Sequential(Scaled(4, 4)),
        "not padded with zeros": torch.nn.Sequential(circular),
        "in groups": torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, groups=2)),
    }


@pytest.mark.parametrize("kind", odd_layers())
def test_layers_that_are_more_than_their_weight_are_not_folded(kind, all_large):
    module = odd_layers()[kind]
    last = str(len(module) - 1)
    adapter = Lora(SimpleNamespace(trainable=module), spec(targets=[last], rank=2), 0)
    assert folding(adapter)[1] == [kind == "plain"]


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_an_adapter_that_was_cast_once_gives_the_same_bits(base):
    model = SimpleNamespace(trainable=tiny_unet().to(base))
    adapter = Lora(model, spec(targets=["to_q", "to_k", "to_v", "to_out.0"], alpha=8.0), 0)
    train(adapter)
    x = torch.randn(2, 4, 8, 8).to(base), torch.tensor([3, 900]), torch.randn(2, 5, 8).to(base)
    before = [p.data_ptr() for p in adapter.parameters]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        wanted = model.trainable(*x).sample
        with adapter.for_rollout(
            torch.bfloat16, exact=True
        ):  # in the first one it shows what to cast
            assert torch.equal(model.trainable(*x).sample, wanted)
        with adapter.for_rollout(torch.bfloat16, exact=True):
            assert {p.dtype for p in adapter.parameters} == {torch.bfloat16}
            found = model.trainable(*x).sample
    assert torch.equal(found, wanted)
    assert [p.data_ptr() for p in adapter.parameters] == before
    assert {p.dtype for p in adapter.parameters} == {torch.float32}


class Careful(torch.nn.Module):
    """Runs its second layer in its own precision while it is `careful`, as networks do that would
    overflow."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
        self.careful = True

    def forward(self, x):
        x = self.first(x)
        with torch.autocast("cpu", enabled=not self.careful):
            return self.second(x.float())


def test_layers_outside_of_autocast_keep_the_precision_of_the_adapter():
    model = SimpleNamespace(trainable=Careful())
    adapter = Lora(model, spec(targets=["first", "second"], alpha=8.0), 0)
    train(adapter)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        wanted = model.trainable(x)
        for rollout in range(3):
            with adapter.for_rollout(torch.bfloat16, exact=True):
                assert torch.equal(model.trainable(x), wanted), rollout
        with adapter.for_rollout(torch.bfloat16, exact=True):
            found = {name.split(".")[0]: p.dtype for name, p in adapter.named.items()}
    assert found == {"first": torch.bfloat16, "second": torch.float32}


def test_a_layer_that_leaves_autocast_later_has_its_own_precision_from_then_on():
    model = SimpleNamespace(trainable=Careful())
    adapter = Lora(model, spec(targets=["first", "second"], alpha=8.0), 0)
    train(adapter)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    before = [p.data_ptr() for p in adapter.parameters]

    def called(careful):
        model.trainable.careful = careful
        return model.trainable(x)

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        wanted = [called(careful) for careful in (False, True)]
        for _ in range(2):
            with adapter.for_rollout(torch.bfloat16, exact=True):
                assert torch.equal(called(False), wanted[0])
        assert {p.dtype for p in adapter.parameters} == {torch.float32}
        for rollout in range(2):
            with adapter.for_rollout(torch.bfloat16, exact=True):
                for careful in (False, True, True, False):
                    assert torch.equal(called(careful), wanted[careful]), (rollout, careful)
                # One inside another has nothing to do.
                with adapter.for_rollout(torch.bfloat16, exact=True):
                    assert torch.equal(called(True), wanted[True])
                assert torch.equal(called(True), wanted[True])
        with adapter.for_rollout(torch.bfloat16, exact=True):
            found = {name.split(".")[0]: p.dtype for name, p in adapter.named.items()}
    assert found == {"first": torch.bfloat16, "second": torch.float32}
    assert [p.data_ptr() for p in adapter.parameters] == before


def test_gradients_that_wait_survive_the_cast():
    """With `train.accumulate` a rollout comes between two backward passes of one step."""
    model, adapter = trained()
    x = inputs()
    first = adapter.for_rollout(torch.bfloat16, exact=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False), first:
        model.trainable(*x)
    model.trainable(*x).sum().backward()
    once = [p.grad.clone() for p in adapter.parameters]
    cast = adapter.for_rollout(torch.bfloat16, exact=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False), cast:
        assert {p.dtype for p in adapter.parameters} == {torch.bfloat16}
        model.trainable(*x)
    model.trainable(*x).sum().backward()
    for p, g in zip(adapter.parameters, once):
        assert p.grad.dtype == torch.float32 and torch.allclose(p.grad, 2 * g, rtol=1e-5)


@pytest.mark.parametrize("algorithm", [draft(), drtune(2, 2), draft_lv(2)], ids=str)
def test_direct_gradients_are_the_same(algorithm, monkeypatch):
    """In float64, where what is left of the rounding is far below any error."""
    batch = make_test_batch()
    plain = drawn_gradients(make_context(DDIM(T, eta=0.5)), algorithm, batch)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    folded = drawn_gradients(make_context(DDIM(T, eta=0.5)), algorithm, batch)
    assert not all(torch.equal(a, b) for a, b in zip(plain, folded))  # or nothing was folded
    for a, b in zip(plain, folded):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_an_exact_rollout_is_repeated_to_the_last_bit(all_large):
    ctx, batch = make_context(DDIM(T, eta=1.0)), make_test_batch()
    with torch.no_grad():
        rollout = ctx.rollout(batch, Plan(stop=T, keep=frozenset(range(T))))
        assert len(rollout.log_probs) == T - 1  # the last step draws nothing
        for k, log_prob in rollout.log_probs.items():
            assert torch.equal(ctx.replay(rollout, k).log_prob, log_prob)
        # And one that need not be exact is not, so that the line above says something.
        other = ctx.rollout(batch, Plan(stop=T, keep=frozenset(range(T)), exact=False))
    assert not torch.equal(other.x0, rollout.x0)
    assert torch.allclose(other.x0, rollout.x0, rtol=1e-10, atol=1e-12)


def test_full_fine_tuning_has_nothing_to_fold(all_large):
    adapter = FullFineTuning(TinyModel(), keep_reference=False)
    before = [p.data_ptr() for p in adapter.parameters]
    with adapter.for_rollout(torch.bfloat16, exact=False):
        assert [p.data_ptr() for p in adapter.parameters] == before
