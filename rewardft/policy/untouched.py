"""What a reward or a metric must leave as it found it: the samples, their columns, and torch's own
settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import RewardError, RewardftError
from rewardft.policy.memory import changes, tensors_in
from rewardft.types import Batch, Rollout


def set_device(device: torch.device) -> None:
    """Set the default device; the CPU is what torch has without one."""
    torch.set_default_device(None if device.type == "cpu" else device)


def default_device() -> torch.device:
    """As `torch.get_default_device` says, in a tenth of the time."""
    return torch.empty(0).device


# name -> (read it, set it, what to do instead)
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object], str]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype, "x.double()"),
    "default device": (default_device, set_device, "x.to(device)"),
    "gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled, "with torch.no_grad():"),
}


class Untouched:
    """What a batch and torch were like before the rewards. Changes in place are counted by torch;
    `whole` also compares the values, for a numpy view changes them uncounted."""

    def __init__(self, rollout: Rollout, batch: Batch, whole: bool) -> None:
        self.whole = whole
        self.settings = {name: read() for name, (read, _, _) in SETTINGS.items()}
        # (name, tensor, number of changes, copy of the values or None)
        self.seen: list[tuple[str, Tensor, int, Tensor | None]] = []
        self.watch("rollout.x0", rollout.x0)
        for name, column in batch.columns.items():
            self.watch(f"the column {name!r} of the batch", column)

    def watch(self, words: str, value: Any) -> None:
        """Remember the tensors in `value`."""
        for tensor in tensors_in(value):
            # At the first step alone: a copy of every batch would double what it holds.
            copy = tensor.detach().clone() if self.whole else None
            self.seen.append((words, tensor, changes(tensor), copy))

    def check(self, who: str, error: type[RewardftError] = RewardError) -> None:
        """Raises `error` for what `who`, such as "reward 'clip'", has changed; torch's settings are
        put back."""
        for words, (read, put_back, cure) in SETTINGS.items():
            now, before = read(), self.settings[words]
            if now != before:
                # Restored before raising: what handles the error runs under the old settings.
                put_back(before)
                raise error(
                    f"{who} changed torch's {words} from {before} to {now}, which changes the "
                    "results of everything after it. Set it for its own work alone, such as by "
                    f"`{cure}`."
                )
        for words, tensor, before, copy in self.seen:
            if changes(tensor) != before or (copy is not None and differ(tensor, copy)):
                raise error(
                    f"{who} changed {words} in place, so that what comes after it would see other "
                    "samples than were drawn. Work on a copy: x = x.clone()."
                )


def differ(tensor: Tensor, copy: Tensor) -> bool:
    """Whether any value is another; NaN is equal to itself."""
    same = tensor.detach() == copy
    return not bool((same | (copy != copy)).all())


def described(value: Any) -> str:
    """What a component gave: 'nothing (None)', 'a tensor of shape (3, 1)', "'high' (str)"."""
    if value is None:
        return "nothing (None)"
    if not isinstance(value, Tensor):
        return f"{value!r:.60} ({type(value).__name__})"
    kind = "complex numbers" if value.is_complex() else "a tensor"
    return f"{kind} of shape {tuple(value.shape)}"


def check_plain(name: str, value: Tensor) -> None:
    """Raises RewardError for a tensor that holds no plain numbers."""
    kind = kind_of(value)
    if kind is not None:
        raise RewardError(
            f"reward {name!r} must return plain numbers, one per sample; got {kind}. Return a "
            "dense tensor of a floating-point type on the samples' device."
        )


def kind_of(value: Tensor) -> str | None:
    """What a tensor is, if it is something else than numbers in a row."""
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {value.layout}"
    if value.is_quantized:
        return "a quantized tensor"
    if value.is_complex():
        return f"complex numbers ({value.dtype})"
    return "a tensor without data (on the meta device)" if value.is_meta else None
