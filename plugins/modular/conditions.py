"""What a sample is conditioned on, as encoder blocks leave it, and a bounded cache of it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Condition:
    """One sample's condition, in host memory. `key` names it; equal keys have equal values.

    values: by the names of the blocks' outputs; tensors and lists have a batch dimension of one.
    """

    key: Hashable
    values: Mapping[str, Any]

    @property
    def layout(self) -> Hashable:
        """Shapes of everything inside: conditions of one layout can share a call of the network."""
        return tuple(shapes(value) for value in self.values.values())

    @property
    def size(self) -> int:
        """Bytes of its tensors."""
        return sum(t.numel() * t.element_size() for t in tensors(self.values.values()))


class ConditionCache:
    """Conditions in host memory, least recently used first out. `limit`: bytes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[Hashable, Condition] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Mapping[str, Any]]) -> Condition:
        """The condition of that key; `make` is called where it is not held."""
        found = self._entries.get(key)
        if found is None:
            # In host memory: thousands of prompts would fill the device.
            found = Condition(key, {n: moved(v, torch.device("cpu")) for n, v in make().items()})
            self._entries[key] = found
            self.size += found.size
        self._entries.move_to_end(key)
        # The newest stays whatever its size, as the caller is about to use it.
        while self.size > self.limit and len(self._entries) > 1:
            self.size -= self._entries.popitem(last=False)[1].size
        return found

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries


def joined(conditions: Sequence[Condition], device: torch.device) -> dict[str, Any]:
    """The values of conditions of one layout as those of a batch, on `device`."""
    rows = [condition.values for condition in conditions]
    values = {name: moved(stacked([row[name] for row in rows]), device) for name in rows[0]}
    if "batch_size" in values:  # some encoders count prompts
        # A count of one would make a batch of one out of it.
        values["batch_size"] = len(rows)
    return values


def can_be_joined(condition: Condition) -> bool:
    """Whether every value has a batch dimension; token ids as plain lists have none."""
    # A list without a batch dimension cannot be told from one with it, once it is stacked.
    return all(has_batch(value) for value in condition.values.values())


def has_batch(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return len(value) == 1
    return not isinstance(value, Tensor) or (value.ndim > 0 and len(value) == 1)


def stacked(values: Sequence[Any]) -> Any:
    """Values of a batch of one each as the value of a batch; what belongs to no sample stays."""
    if isinstance(values[0], Tensor):
        return torch.cat(list(values))
    if isinstance(values[0], (list, tuple)):
        return [item for value in values for item in value]
    return values[0]


def shapes(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple(map(shapes, value))
    return str(value)


def tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(value)


def moved(value: Any, device: torch.device) -> Any:
    """A value with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item, device) for item in value)
    return value


def converted(value: Any, dtype: torch.dtype) -> Any:
    """A value with its floating-point tensors, and a dtype that goes along, as `dtype`."""
    if isinstance(value, torch.dtype):
        return dtype
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)):
        return type(value)(converted(item, dtype) for item in value)
    return value


def key_of(prompt: str, image: Tensor | None) -> Hashable:
    """The key of a condition: its prompt and its picture's pixels."""
    if image is None:
        return prompt
    pixels = image.detach().float().cpu().contiguous()
    # The shape too: two pictures may have the same bytes in another arrangement.
    return prompt, tuple(image.shape), hashlib.blake2b(pixels.numpy().tobytes()).hexdigest()
