"""The gradient of each sample of a call, by one backward pass of all of them.

A low-rank adapter is made of linear maps without bias. Let row n of a map's input be x_n `(tokens,
in)`, and g_n `(tokens, out)` the gradient at its output. The row's part in the gradient of the
weight is g_n^T x_n, and both are at hand in the backward pass (Goodfellow 2015, 1510.01799).

Whose row it is, only the model knows. Taken for granted is that row n is sample n mod b, as halves
with and without a condition are stacked; `belongs` tells whether that is so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor, nn

APART = 0.05  # relative; bfloat16 rounds by less, and other rows are as far apart as their norm
SMALL = 1e-3  # of the whole gradient: less than this of a layer is rounding


class SampleGradients:
    """Of calls with `count` samples.

    Args:
        pairs: the first and the second map of each layer; all weights that are trained.
        parameters: the same weights, in the order of the result.

    fits: whether all layers so far had the same number of rows for each sample.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[nn.Linear, nn.Linear]],
        parameters: Sequence[nn.Parameter],
        count: int,
    ) -> None:
        self.pairs, self.parameters, self.count, self.fits = pairs, list(parameters), count, True
        ends = list(accumulate(p.numel() for p in parameters))
        self.size = ends[-1]
        self.starts = {id(p): end - p.numel() for p, end in zip(parameters, ends)}
        # Every first map's output depends on it, so that its gradient takes the whole graph, and
        # leaves out the sums over the batch that those of the weights would be.
        self.anchor = self.parameters[0].new_zeros(()).requires_grad_(True)
        self._found: Tensor | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Around the calls, and their backward passes."""
        hooks = [first.register_forward_hook(partial(self._note, True)) for first, _ in self.pairs]
        hooks += [
            other.register_forward_hook(partial(self._note, False)) for _, other in self.pairs
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def of(self, values: Tensor, keep: bool = False) -> Tensor:
        """d(values_i) / d(parameters), `(b, p)`, of `values` `(b,)`. keep: the graph."""
        self._found = self._new()
        # Samples do not mix, so a row's part in the sum's gradient is of its own sample's value.
        torch.autograd.grad(values.sum(), self.anchor, retain_graph=keep, allow_unused=True)
        found, self._found = self._found, None
        return found

    def belongs(self, values: Tensor, found: Tensor) -> bool | None:
        """Whether rows are what they are taken for: what was `found` for the first sample is
        compared with its own gradient, layer by layer. None where that is zero, which shows
        nothing. Keeps the graph."""
        if not self.fits:
            return False
        own = flat_gradient(values[0], self.parameters, keep=True)
        # By layer: rows of a small one in another order would hide behind the others.
        sizes = [p.numel() for p in self.parameters]
        apart = torch.stack([part.norm() for part in (own - found[0]).split(sizes)])
        norms = torch.stack([part.norm() for part in own.split(sizes)])
        right = (apart <= APART * norms + SMALL * own.norm()).all()
        nothing, same = torch.stack([own.norm() == 0, right]).tolist()
        return None if nothing else same

    def _new(self) -> Tensor:
        return self.parameters[0].new_zeros(self.count, self.size)

    def _note(
        self, anchored: bool, layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        x = inputs[0].detach()
        if x.ndim < 2 or len(x) % self.count:
            self.fits = False
            return None
        output = output + self.anchor if anchored else output
        # In autocast's precision, in which the weight's own gradient would be computed.
        output.register_hook(partial(self._add, self.starts[id(layer.weight)], x.to(output.dtype)))
        return output

    def _add(self, start: int, x: Tensor, gradient: Tensor) -> None:
        if self._found is None:  # another backward pass
            return
        g, x = (rows.reshape(len(rows), -1, rows.shape[-1]) for rows in (gradient, x))
        parts = (g.mT @ x).reshape(-1, self.count, g.shape[-1] * x.shape[-1])
        self._found[:, start : start + parts.shape[-1]] += parts.sum(0)


def flat_gradient(value: Tensor, parameters: Sequence[nn.Parameter], keep: bool = False) -> Tensor:
    """The gradient of a number as one vector `(p,)`; zeros where a parameter has no part in it."""
    parts = torch.autograd.grad(value, parameters, retain_graph=keep, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(parts, parameters)
        ]
    )
