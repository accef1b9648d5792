"""Values on their way to the log, summed without a read from the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor


def sums_of(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """(sum, count) `(2,)` of the numbers `(n,)` of each name; NaN (not applicable) is left out of
    both."""
    alike: defaultdict[tuple[int, torch.device], list[str]] = defaultdict(list)
    for name, value in values.items():
        alike[value.numel(), value.device].append(name)
    sums: dict[str, Tensor] = {}
    # A step logs many names, nearly all of one number for each sample: those are summed at once.
    for names in alike.values():
        rows = torch.stack([values[name].float() for name in names])
        found = torch.stack([rows.nansum(1), (~rows.isnan()).sum(1).float()], dim=1)
        sums |= zip(names, found.unbind())
    return {name: sums[name] for name in values}
