"""Numbers that are not finite, traced to where they arose: denoiser, decoder or reward."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.errors import NonFiniteError
from rewardft.noise import Noise
from rewardft.policy.answers import check_decoded
from rewardft.policy.memory import tensors_in
from rewardft.policy.untouched import Untouched
from rewardft.types import Batch, Rollout


def finite_rows(value: Any, count: int) -> Tensor | None:
    """Which of `count` samples hold finite numbers alone, `(count,)` bool; None for samples without
    numbers of that kind.

    value: a tensor `(count, ...)`, or dictionaries and lists of them.
    """
    rows = None
    for tensor in tensors_in(value):
        if tensor.is_floating_point() and tensor.ndim and len(tensor) == count:
            # A sample is good if all of its numbers are, in every tensor of it.
            own = torch.isfinite(tensor.detach()).reshape(count, -1).all(1)
            rows = own if rows is None else rows & own
    return rows


def is_surely_finite(value: Any) -> bool:
    """A cheap yes for a tensor of finite numbers. A no says nothing: their sum may overflow."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return False
    # NaN and infinities do not leave a sum again.
    return math.isfinite(value.sum(dtype=torch.float32).item())


def check_samples(rollout: Rollout, batch: Batch) -> None:
    """Raises NonFiniteError for finished samples that are NaN or infinite: before a reward sees
    them, so that none calls them "not applicable"."""
    if is_surely_finite(rollout.x0):
        return
    rows = finite_rows(rollout.x0, len(batch))
    if rows is None or bool(rows.all()):
        return
    # The first bad state tells a denoiser that diverged from one bad last step.
    steps = sorted(k for k, state in rollout.states.items() if not all_finite(state, len(batch)))
    since = f", from the state that enters step {steps[0]} on" if steps else ""
    raise NonFiniteError(
        "the denoiser and the sampler produced NaN or infinite samples: "
        f"{ids_at(batch, ~rows)}{since}. Try train.precision fp32 or a model in float32; if the "
        "run had gone well until here, the weights have grown too far: lower the learning rate."
    )


def all_finite(value: Any, count: int) -> bool:
    """Whether all samples are finite."""
    rows = finite_rows(value, count)
    return rows is None or bool(rows.all())


def checked(rollout: Rollout, batch: Batch, untouched: Untouched) -> Rollout:
    """The same rollout, which raises NonFiniteError when the decoder makes NaN or infinite pictures
    of samples that are finite. What it decodes is to stay `untouched`."""
    # Decoding is lazy, so the check goes with the decoder: it costs nothing where none decodes.
    decode = rollout.decoder
    if decode is None:
        return rollout

    def decode_and_check(x0: Any) -> Any:
        decoded = decode(x0)
        # The first rows of a batch may be decoded alone, see `averages_over_the_batch`.
        count = len(x0) if isinstance(x0, Tensor) else len(batch)
        check_decoded(decoded, count)
        rows = None if is_surely_finite(decoded) else finite_rows(decoded, count)
        if rows is not None and not bool(rows.all()):
            raise NonFiniteError(
                "the decoder produced NaN or infinite values from finite samples: "
                f"{ids_at(batch, ~rows)}. Decode in float32: float16 overflows in some decoders."
            )
        untouched.watch("rollout.decoded", decoded)
        return decoded

    return replace(rollout, decoder=decode_and_check)


def watched(rollout: Rollout, batch: Batch) -> tuple[Rollout, Untouched]:
    """Finished samples as components are shown them that may change nothing, and what tells whether
    one did. Raises NonFiniteError for samples that are NaN or infinite."""
    check_samples(rollout, batch)
    untouched = Untouched(rollout, batch, whole=False)
    return checked(rollout, batch, untouched), untouched


def ids_at(batch: Batch | Noise, rows: Tensor) -> str:
    """The ids of the samples that the mask `(b,)` selects."""
    return ", ".join(batch.ids[i] for i in rows.nonzero().flatten().tolist())


def bad_base(model: Any, trained: Iterable[Tensor]) -> str | None:
    """A sentence on the model's own weights that are NaN or infinite; None where all are finite,
    and where they are sharded.

    For finding a fault: every weight is read.

    Args:
        model: a module, or an object that holds some.
        trained: tensors that are not the model's own any more.
    """
    parts = [model] if isinstance(model, nn.Module) else list(vars(model).values())
    learning = {id(tensor) for tensor in trained}
    own = {
        # peft's layers hold the base's under a name of their own.
        name.replace(".base_layer.", "."): weight
        for part in (model.trainable, *parts)
        if isinstance(part, nn.Module)
        for name, weight in part.named_parameters()
        if id(weight) not in learning
    }
    # Reading a sharded weight is a collective, and this process may be the only one that is here.
    if any(hasattr(weight, "full_tensor") for weight in own.values()):
        return None
    bad = [name for name, weight in own.items() if not bool(torch.isfinite(weight).all())]
    if not bad:
        return None
    return (
        f"the base model's own weights are NaN or infinite, in {len(bad)} of {len(own)} tensors: "
        f"{', '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}. The file that they come from is "
        "damaged, or was written in a precision that is too narrow: load another one."
    )


def bad_slopes(
    reward: Callable[[Rollout, Batch], Tensor], rollout: Rollout, batch: Batch
) -> tuple[Tensor, Tensor, Tensor]:
    """One reward alone: its values `(b,)`, where its gradient at the samples is not finite, and
    where it is not even at the decoded ones; masks `(b,)`.

    For finding a fault: the reward is called twice.
    """
    count = len(batch)
    # First through the decoder, then with the decoded samples as a leaf: what is bad in the first
    # pass alone is the decoder's.
    x0 = rollout.x0.detach().requires_grad_(True)
    with torch.enable_grad():
        view = rollout.with_x0(x0)
        value = reward(view, batch)
        at_samples = bad_rows(value, [x0], count)
        if not isinstance(view._decoded, Tensor):  # it did not decode
            return value.detach(), at_samples, at_samples
        leaf = view._decoded.detach().requires_grad_(True)
        x0 = rollout.x0.detach().requires_grad_(True)
        again = reward(replace(rollout, x0=x0, _decoded=leaf), batch)
        return value.detach(), at_samples, at_samples & bad_rows(again, [x0, leaf], count)


def bad_rows(value: Tensor, inputs: list[Tensor], count: int) -> Tensor:
    """Where d(sum of the values that apply) / d(an input) is not finite, `(count,)` bool."""
    bad = torch.zeros(count, dtype=torch.bool, device=value.device)
    # NaN values do not apply; they must not make the sum, and all slopes with it, NaN.
    total = torch.where(value.isnan(), 0.0, value).sum()
    if not total.requires_grad:
        return bad
    for slope in torch.autograd.grad(total, inputs, allow_unused=True):
        if slope is not None:
            bad |= ~torch.isfinite(slope).reshape(count, -1).all(1)
    return bad


def absent_as_nan(
    total: Tensor, by_name: Mapping[str, Tensor], weights: Mapping[str, float]
) -> Tensor:
    """The totals `(b,)`, NaN for samples to which no reward of a weight applies."""
    # A reward of weight 0 is only watched: it gives a sample no reason to learn.
    counted = [value for name, value in by_name.items() if weights[name] != 0]
    if not counted:
        return total
    absent = [value.isnan() for value in counted]
    everywhere = absent[0] if len(absent) == 1 else torch.stack(absent).all(0)
    return total.masked_fill(everywhere, float("nan"))
