"""`check_algorithm`, `check_model` and `check_dataset`: contracts as assertions.

Each raises AssertionError, with a sentence, for the first broken rule of its protocol in
`rewardft.contracts.protocols`. `tiny_context` is the surrounding that they share: a denoiser of
5 K parameters in float64, where two ways to the same gradient agree to rounding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rewardft.noise import Noise
from rewardft.policy.batches import make_batch
from rewardft.policy.context import Context, WeightedRegularizer
from rewardft.policy.lora import Lora
from rewardft.policy.policy import Policy
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.testing.rewards import flipped
from rewardft.testing.tiny import TinyBlobs, TinyModel
from rewardft.types import Batch, Rollout, select_rows

TOLERANCE = 1e-8  # of float64 gradients; sums in another order differ by less


def curved_reward(rollout: Rollout, batch: Batch) -> Tensor:
    """Not linear in x0, different for each sample, and dependent on the condition."""
    x = rollout.x0.flatten(1)
    return (x.sin() * (1 + batch["label"].to(x))[:, None]).mean(1) - 0.1 * (x**2).mean(1)


def tiny_context(
    sampler: Any,
    *,
    model: Any = None,
    # Curved: for a linear reward a gradient at the wrong sample would be right.
    reward: Callable[[Rollout, Batch], Tensor] = curved_reward,
    regularizers: Sequence[WeightedRegularizer] = (),
    micro_batch: int | None = None,
    step: int = 0,
) -> Context:
    """A context in float64 on the CPU, with an adapter away from its start, where KL is zero."""
    model = model or TinyModel(width=8)
    model.trainable.double()
    # What `Lora` reads of a recipe's section; dropout would make two passes differ.
    spec = SimpleNamespace(kind="lora", rank=3, alpha=None, targets=None, dropout=0.0)
    adapter = Lora(model, spec, seed=1)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.parameters:
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        # B is zero in a new adapter: A would have no gradient, and any penalty would be 0.
        parameter.data = 0.3 * noise
    sampler.setup(model)
    context = Context(
        policy=Policy(model),
        sampler=sampler,
        adapter=adapter,
        rewards=[WeightedReward("curved", reward, 1.3)],
        regularizers=regularizers,
        seed=5,
        dtype=torch.float64,
        micro_batch=micro_batch,
    )
    context.start_step(step)
    return context


def tiny_batch(size: int = 4) -> Batch:
    """The first samples of `tiny_blobs`."""
    data = TinyBlobs()
    return make_batch([data[i] for i in range(size)], [0] * size)


def check_algorithm(
    algorithm: Any,
    make_context: Callable[[int | None], Context],
    batch: Batch | None = None,
    *,
    order_matters: bool = False,
    micro_batches: Sequence[int] = (1, 2),
) -> None:
    """Check what every algorithm promises, on the gradients that it leaves.

    Checked: at least one loss, finite, the last of them closing the step; the same gradients when
    it is repeated, for micro-batches, and for the reversed batch; the calls that `calls`
    predicts, where there is such a method; some gradient that is not zero.

    Args:
        make_context: a new context for a micro-batch size, such as
            `lambda size: tiny_context(DDIM(4), micro_batch=size)`.
        order_matters: for algorithms that compare neighbours; the reversed batch is left out.
        micro_batches: their sizes, in samples.
    """
    batch = batch or tiny_batch()
    context = make_context(None)
    before = calls_of(context)
    # The reference for all that follows: the whole batch at once.
    expected = gradients_of(algorithm, context, batch)
    assert any(bool(g.any()) for g in expected), "every gradient is zero: nothing would be learned"
    check_calls(algorithm, context, batch, before)
    again = gradients_of(algorithm, make_context(None), batch)
    assert_equal(again, expected, "repeating the step changes the gradients")
    for size in micro_batches:
        parts = gradients_of(algorithm, make_context(size), batch)
        assert_equal(parts, expected, f"a micro-batch of {size} changes the gradients")
    if not order_matters:
        # Noise is keyed by sample, so the order may only change the order of a sum.
        backwards = gradients_of(algorithm, make_context(None), flipped(batch))
        assert_equal(backwards, expected, "the order of the batch changes the gradients")


def gradients_of(algorithm: Any, context: Context, batch: Batch) -> list[Tensor]:
    """What one step leaves on the adapter, as the engine would run it."""
    losses = 0
    closed = False
    # A context that is used again still has the gradients of the step before.
    for parameter in context.adapter.parameters:
        parameter.grad = None
    for loss in algorithm.losses(context, batch):
        assert torch.isfinite(loss.value).all(), f"loss {losses} is {float(loss.value)}"
        loss.backward()
        losses, closed = losses + 1, loss.step
    assert losses, "the algorithm yields no loss"
    assert closed, "the last loss does not close the step: pass step=True with it"
    return [
        torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for p in context.adapter.parameters
    ]


def calls_of(context: Context) -> tuple[int, int]:
    """(forwards, backwards) of the network so far, in samples."""
    return context.policy.forward_samples, context.policy.backward_samples


def check_calls(
    algorithm: Any, context: Context, batch: Batch, before: tuple[int, int] = (0, 0)
) -> None:
    """The calls that were made in `context` since `before` against those that `calls` predicts."""
    if not hasattr(algorithm, "calls"):
        return
    # The same choices as `Context.rng_of` makes, from a generator that nothing was drawn from.
    rng = random.Random(f"{context.seed}/{context.step}")
    told = algorithm.calls(context.sampler.steps, rng, bool(context.regularizers))
    made = tuple((now - old) / len(batch) for now, old in zip(calls_of(context), before))
    assert tuple(told) == made, f"`calls` says {tuple(told)} per sample, but it was {made}"


def check_model(model: Any, batch: Batch) -> None:
    """Check shapes, independence of the samples and the gradients of a `DiffusionModel`.

    Checked: `denoise` keeps the shape of x; a sample's output does not depend on its batch;
    `decode` is differentiable, and decodes pictures into [0, 1] unless `pictures` is False; the
    trainable weights get gradients.
    """
    with torch.no_grad():
        cond = model.encode(batch)
    dtype = next(model.trainable.parameters()).dtype
    noise = Noise(0, batch.ids, batch.epochs, dtype=dtype)
    x = noise.draw("initial", model.sample_shape(cond))
    # Mid-schedule, where neither signal nor noise is close to nothing.
    t = torch.full((len(batch),), 500.0)
    output = model.denoise(x, t, cond)
    assert output.shape == x.shape, f"denoise gives {tuple(output.shape)} for {tuple(x.shape)}"
    first = slice(0, 1)
    alone = model.denoise(x[first], t[first], select_rows(cond, first))
    close = torch.allclose(alone, output[first], atol=1e-4)
    assert close, "a sample's output depends on the batch it is in"
    weights = [p for p in model.trainable.parameters() if p.requires_grad]
    # Unused weights are allowed (a head for other inputs), but not all of them.
    found = torch.autograd.grad(output.square().sum(), weights, allow_unused=True)
    assert any(g is not None and bool(g.any()) for g in found), "no trainable weight is used"
    # Noise will do: `decode` must pass a gradient on for any sample.
    leaf = x.clone().requires_grad_(True)
    check_decoded(model, model.decode(leaf), leaf)


def check_decoded(model: Any, decoded: Any, leaf: Tensor) -> None:
    """Pictures lie in [0, 1], and a gradient reaches what they were decoded from."""
    if not isinstance(decoded, Tensor):
        return
    assert decoded.requires_grad, "decode detaches the samples: no reward could teach the model"
    (slope,) = torch.autograd.grad(decoded.sum(), leaf)
    assert torch.isfinite(slope).all(), "the gradient of decode has NaN or inf"
    if getattr(model, "pictures", True):
        low, high = (float(bound) for bound in decoded.detach().aminmax())
        assert low >= -1e-4 and high <= 1 + 1e-4, (
            f"decoded samples range over [{low:.3g}, {high:.3g}] instead of [0, 1]"
        )


def check_dataset(dataset: Any) -> None:
    """Check that items have unique ids, the same columns, and are the same when asked again."""
    assert len(dataset) > 0, "the data set is empty"
    # The first 64: a check must end, also for a data set of millions.
    items = [dataset[i] for i in range(min(len(dataset), 64))]
    ids = [item.get("id") for item in items]
    assert all(isinstance(id_, str) for id_ in ids), "an item's `id` is text, and not all have one"
    assert len(set(ids)) == len(ids), "two items have the same id: they would share their noise"
    columns = [sorted(item) for item in items]
    assert all(names == columns[0] for names in columns), "items differ in their columns"
    one, two = make_batch([dataset[0]], [0]), make_batch([dataset[0]], [0])
    for name in one.columns:
        assert_same(one[name], two[name], f"column {name!r} is another one when asked again")


def assert_same(one: Any, two: Any, message: str) -> None:
    """Equal, tensors by their values."""
    same = torch.equal(one, two) if isinstance(one, Tensor) else str(one) == str(two)
    assert same, message


def assert_equal(got: Sequence[Tensor], expected: Sequence[Tensor], message: str) -> None:
    """Lists of gradients to rounding."""
    worst = max(float((a - b).abs().max()) for a, b in zip(got, expected))
    # One scale for all tensors: a tensor that is zero but for rounding has none of its own.
    scale = max(float(b.abs().max()) for b in expected)
    assert worst <= TOLERANCE * scale, f"{message}: by {worst:.2g} of {scale:.2g}"
