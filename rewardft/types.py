"""The data that passes between components: batches, rollouts, transitions, scores and losses.

Nothing here knows images, latents, views or a network architecture. The leading dimension of every
tensor that belongs to samples is the sample; `select` takes rows along it, so that any of these can
be cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from rewardft.noise import Noise


def select_rows(value: Any, rows: slice) -> Any:
    """Take `rows` of the leading dimension of every tensor, list or tuple inside `value`.

    Dictionaries and dataclasses are walked; objects with a `select(rows)` method are asked; `None`,
    numbers and strings belong to the whole batch and are returned as they are.
    """
    if isinstance(value, Tensor):
        # A number without dimensions belongs to the whole batch.
        return value[rows] if value.ndim else value
    if isinstance(value, (list, tuple)):
        return value[rows]
    if isinstance(value, Mapping):
        return {key: select_rows(item, rows) for key, item in value.items()}
    # Before dataclasses: `Batch` and `Rollout` are such, and cut more than their fields.
    if hasattr(value, "select"):
        return value.select(rows)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: select_rows(getattr(value, f.name), rows) for f in fields(value)}
        )
    return value


def is_all(rows: slice, count: int) -> bool:
    """Whether `rows` are all of `count` rows, in their order."""
    return rows.indices(count) == (0, count, 1)


def move(value: Any, device: torch.device) -> Any:
    """Copy every tensor inside dictionaries, lists and tuples to `device`."""
    if isinstance(value, Tensor):
        # The copy may overlap with what the host does next; kernels wait for it by themselves.
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: move(item, device) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(i if isinstance(i, str) else move(i, device) for i in value)
    return value


def _take(value: Any, index: list[int]) -> Any:
    """The rows `index` of the columns of a batch."""
    if isinstance(value, Mapping):
        return {key: _take(item, index) for key, item in value.items()}
    if isinstance(value, Tensor):
        return value[index] if value.ndim else value
    return [value[i] for i in index] if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True)
class Batch:
    """Samples of a data set. `batch["name"]` is a column: a tensor `(b, ...)` or a list of b.

    copies: how many consecutive rows belong to one item, see `repeat`.
    """

    ids: tuple[str, ...]
    # The pass over the data (with sampling weights: a number per draw); part of the noise key.
    epochs: tuple[int, ...]
    columns: Mapping[str, Any]
    copies: int = 1

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Any:
        try:
            return self.columns[name]
        except KeyError:
            raise KeyError(
                f"the batch has no column {name!r}; the data set gave: {', '.join(self.columns)}"
            ) from None

    def select(self, rows: slice) -> Batch:
        """Some of the rows; a slice that cuts an item in two no longer has all of its copies."""
        if is_all(rows, len(self)):
            return self
        first, last, _ = rows.indices(len(self))
        whole = first % self.copies == 0 and last % self.copies == 0
        columns = select_rows(self.columns, rows)
        return Batch(self.ids[rows], self.epochs[rows], columns, self.copies if whole else 1)

    def repeat(self, count: int) -> Batch:
        """Each sample `count` times in a row, as a group: ids `id#0`, `id#1`, ..., each with noise
        of its own."""
        index = [i for i in range(len(self)) for _ in range(count)]
        ids = tuple(f"{self.ids[i]}#{n}" for i in range(len(self)) for n in range(count))
        epochs = tuple(self.epochs[i] for i in index)
        return Batch(ids, epochs, _take(self.columns, index), self.copies * count)

    def to(self, device: torch.device) -> Batch:
        return replace(self, columns=move(self.columns, device))


@dataclass(frozen=True)
class Plan:
    """What a rollout executes and keeps.

    stop:     steps 0 .. stop-1 are executed without autograd; step 0 is the first (noisiest) one.
    keep:     steps whose incoming state (and network output) are kept for replay. `stop` may be
              among them: the state that enters the first unexecuted step is then kept.
    estimate: the sample is the one-step estimate of x0 made at the last executed step, not the next
        state (early stop).
    exact:    a replay of as many samples gives the very numbers of the rollout, as ratios need it;
        False lets it round otherwise where that is quicker (3e-6 in float32).
    """

    stop: int
    keep: frozenset[int] = frozenset()
    estimate: bool = False
    exact: bool = True


@dataclass
class Rollout:
    """A batch of trajectories, rolled out without autograd.

    x0:       the finished samples `(b, ...)` in the model's own space; None while the last step is
        still to be run.
    states:   state entering step k, `(b, ...)`, for the kept k.
    outputs:  raw network output at step k (guidance applied), for the kept k that were executed.
    log_probs: log-probability of step k, `(b,)`, where the sampler has one and the plan keeps k.
    """

    cond: Any
    noise: Noise
    plan: Plan
    x0: Any = None
    states: dict[int, Any] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    log_probs: dict[int, Tensor] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    decoder: Callable[[Any], Any] | None = None
    _decoded: Any = None

    @property
    def decoded(self) -> Any:
        """`model.decode(x0)`: for image models pixels in [0, 1]. Decoded on first use, once."""
        if self._decoded is None:
            if self.decoder is None or self.x0 is None:
                raise RuntimeError(
                    "this rollout cannot be decoded: it has no decoder or is not finished"
                )
            self._decoded = self.decoder(self.x0)
        return self._decoded

    def with_x0(self, x0: Any) -> Rollout:
        """The same trajectories, finished with `x0` (not decoded yet)."""
        # What was decoded is of the other samples.
        return replace(self, x0=x0, _decoded=None)

    def select(self, rows: slice) -> Rollout:
        """The rollout of some of the samples; not decoded yet."""
        if is_all(rows, len(self.noise)):
            return self.with_x0(self.x0)
        pick = partial(select_rows, rows=rows)
        return replace(
            self,
            cond=pick(self.cond),
            noise=self.noise.select(rows),
            x0=pick(self.x0),
            states=pick(self.states),
            outputs=pick(self.outputs),
            log_probs=pick(self.log_probs),
            info=pick(self.info),
            _decoded=None,
        )


@dataclass
class Transition:
    """One visited step. Fields that a policy does not have are None (a token policy has only
    `log_prob`).

    state:    x_k `(b, ...)`; a leaf whose `.grad` may be read after backward when the input
        gradient was asked for.
    output:   raw network output at x_k, guidance applied `(b, ...)`.
    next:     x_{k+1} `(b, ...)`.
    mean, std: of the transition density p(x_{k+1} | x_k); std is 0 for a deterministic sampler.
    x0:       one-step estimate of the clean sample.
    epsilon:  the output expressed as a noise prediction.
    log_prob: `(b,)`, float32, averaged over the dimensions of one sample.
    density:  the distribution that the step draws from, for policies that are not a Gaussian with
        one deviation: over the sample `(b,)`, or over its parts `(b, n)`, tokens for instance.
    mask:     `(b, n)` bool: which of these parts were drawn; None: all.
    """

    state: Any
    next: Any = None
    output: Tensor | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    x0: Tensor | None = None
    epsilon: Tensor | None = None
    log_prob: Tensor | None = None
    density: Distribution | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Scores:
    """Rewards of a rollout. `total` and each of `by_name` are `(b,)`; `gradient` is
    d(total_i)/d(x0_i), like x0.

    skipped: the rewards that failed on this batch and are left out of it (`on_error: skip`), with
        their errors.
    present: the totals with NaN for samples to which no reward applies; None: all have one.
    slopes: the gradient of each weighted reward, where they were taken apart.
    """

    total: Tensor
    by_name: Mapping[str, Tensor]
    gradient: Tensor | None = None
    skipped: Mapping[str, Exception] = field(default_factory=dict)
    present: Tensor | None = None
    slopes: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def rewards(self) -> Tensor:
        """The totals `(b,)`; NaN for a sample to which no reward applies, which takes no part in
        the update."""
        return self.total if self.present is None else self.present

    @property
    def applies(self) -> Tensor:
        """`(b,)` bool: whether any reward applies to a sample."""
        return ~self.rewards.isnan()


@dataclass(frozen=True)
class Loss:
    """What an algorithm hands to the engine: the engine runs backward on `value` before it asks for
    the next one.

    step=True closes the batch's contribution to an optimizer step (with `accumulate: n`, every n-th
    one steps).
    """

    value: Tensor
    metrics: Mapping[str, Tensor | float] = field(default_factory=dict)
    step: bool = False

    def backward(self) -> None:
        """Raises ComponentError for a value that nothing can be learned from."""
        value, is_tensor = self.value, isinstance(self.value, Tensor)
        # Checked first: torch's own error would speak of a grad_fn.
        if not is_tensor or value.ndim > 0 or not value.requires_grad:
            shown = f"shape {tuple(value.shape)}" if is_tensor else type(value).__name__
            cut = is_tensor and not value.requires_grad
            why = ", without a gradient: no replay went into it, or a detach or no_grad cuts it"
            raise ComponentError(
                "a Loss must hold one number with a gradient to the trained weights; got "
                f"{shown}{why if cut else ''}"
            )
        self.value.backward()


def micro_slices(count: int, size: int | None) -> Iterator[slice]:
    """Cut `count` samples into slices of at most `size` (None: one slice)."""
    size = size or count
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
