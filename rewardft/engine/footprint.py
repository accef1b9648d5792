"""Memory of a training step, told before there is any: the step itself, on tensors without numbers.

Networks, samples and optimizer are torch's fake tensors, which have shapes and lifetimes and no
memory. The algorithm runs as in training; a dispatch mode adds up the storages that are alive. What
a kernel takes inside (workspaces of convolutions) and what an allocator loses is not seen.

What a run would read from its tensors is assumed: numbers are finite, masks are all true.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

aten = torch.ops.aten
CPU = torch.device("cpu")  # where fake tensors say they are: shapes are the same everywhere


class Ledger(TorchDispatchMode):
    """Bytes of the storages that are alive.

    live: now. most: the most that there were, by phase. phase: what is being done.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.phase = 0, "learn"
        self.most: dict[str, int] = defaultdict(int)
        self._seen = WeakIdKeyDictionary()

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count for `phase` inside."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def track(self, tensor: Tensor) -> None:
        """Count a tensor's storage, once, for as long as anything uses it."""
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        weakref.finalize(storage, self._free, size)
        self.live += size
        self.most[self.phase] = max(self.most[self.phase], self.live)

    def _free(self, size: int) -> None:
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = ANSWERS.get(func)
        result = None if answer is None else answer(*args)
        if result is None:
            result = func(*args, **(kwargs or {}))
        if func in (aten.all.default, aten.all.dim):
            result.is_true = True
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.track(leaf)
        return result


def read(tensor: Tensor) -> Any:
    """What a number that is read from the device is taken to be; None where it is known."""
    if getattr(tensor, "constant", None) is not None:
        return None
    # "Are all of them finite?" is answered by yes, "is any infinite?" by no.
    return getattr(tensor, "is_true", False) if tensor.dtype == torch.bool else 1


def indexed(tensor: Tensor, indices: list[Tensor | None]) -> Tensor | None:
    """`tensor[mask]` as if the whole mask were true; None for other indices."""
    masks = [index for index in indices if index is not None]
    if len(masks) != 1 or masks[0].dtype != torch.bool or indices[0] is None:
        return None
    return tensor.flatten(0, masks[0].ndim - 1).clone()


def unique(tensor: Tensor, *options: Any) -> tuple[Tensor, Tensor, Tensor]:
    """As many different values as there are numbers."""
    flat = tensor.flatten().clone()
    return flat, flat.new_empty(tensor.shape, dtype=torch.long), flat.long()


def nonzero(tensor: Tensor) -> Tensor:
    """As if no number were 0."""
    return tensor.new_empty((tensor.numel(), tensor.ndim), dtype=torch.long)


# Operations whose result, or its size, depends on numbers.
ANSWERS: Mapping[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: read,
    aten.index.Tensor: indexed,
    aten._unique2.default: unique,
    aten.nonzero.default: nonzero,
}


def without_numbers(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A fake tensor of the same shape and precision."""
    # Through meta: a network may be there already, and other tensors lose their numbers so.
    return FakeTensor(mode, tensor.detach().to("meta"), CPU)


def empty_module(mode: FakeTensorMode, module: nn.Module, fakes: dict[int, nn.Parameter]) -> None:
    """Put parameters without numbers into a module.

    fakes: by the identity of those that were there; one that several modules share stays one.
    """
    for owner in module.modules():
        for name, old in owner._parameters.items():
            if old is None or isinstance(old, FakeTensor):
                continue
            if id(old) not in fakes:
                fakes[id(old)] = nn.Parameter(without_numbers(mode, old), old.requires_grad)
            owner._parameters[name] = fakes[id(old)]
        for name, buffer in owner._buffers.items():
            if buffer is not None and not isinstance(buffer, FakeTensor):
                owner._buffers[name] = without_numbers(mode, buffer)


def empty_values(mode: FakeTensorMode, value: Any) -> Any:
    """The same containers with fake tensors."""
    return tree_map(lambda v: without_numbers(mode, v) if isinstance(v, Tensor) else v, value)


@contextmanager
def unmoved() -> Iterator[None]:
    """Modules stay where they are inside: fake weights cannot be moved, and take no place."""
    before = nn.Module.to
    nn.Module.to = lambda module, *args, **kwargs: module  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.to = before  # type: ignore[method-assign]


def networks_in(value: Any, depth: int = 6) -> Iterator[nn.Module]:
    """The modules that an object holds in its attributes, dictionaries and lists."""
    if isinstance(value, nn.Module):
        yield value
    elif depth and isinstance(value, (list, tuple)):
        for item in value:
            yield from networks_in(item, depth - 1)
    elif depth and isinstance(value, Mapping):
        yield from networks_in(list(value.values()), depth - 1)
    elif depth and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from networks_in(list(vars(value).values()), depth - 1)
