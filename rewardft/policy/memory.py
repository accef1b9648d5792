"""What an algorithm must remember from one step to the next, through checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Memory(dict[str, Any]):
    """Tensors, numbers, text, and dictionaries and lists of them, by name."""

    def state_dict(self) -> dict[str, Any]:
        """The containers are copies, the tensors are not: a tensor that is changed in place
        afterwards changes here too, see `versions`."""
        return {name: copy_containers(value) for name, value in self.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clear()
        self.update(state)

    def versions(self) -> list[tuple[int, int]]:
        """(identity, number of changes in place) of every tensor, in order; read nothing from the
        device."""
        # The identity as well: a new tensor in the place of an old one begins at version 0 again.
        return [(id(tensor), changes(tensor)) for tensor in tensors_in(dict(self))]


def changes(tensor: Tensor) -> int:
    """How often a tensor was changed in place; torch does not count those of inference mode."""
    return 0 if tensor.is_inference() else tensor._version


def copy_containers(value: Any) -> Any:
    """New dictionaries and lists around the same leaves."""
    if isinstance(value, dict):
        return {key: copy_containers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copy_containers(item) for item in value)
    return value


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors inside dictionaries, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            if not isinstance(item, str):  # columns of texts are long
                yield from tensors_in(item)
