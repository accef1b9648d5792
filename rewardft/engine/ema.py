"""The exponential moving average of what learns: smoother than the last weights, which follow every
batch's noise.

    ema_t = d_t ema_{t-1} + (1 - d_t) theta_t,  d_t = min(decay, (1 + t) / (10 + t)),  t = 1, 2, ...

The factor rises from 2/11 to `decay`, so that the average of a short run is not its start (the
warm-up of TensorFlow's `ExponentialMovingAverage` with `num_updates`). Training never sees the
average: gradients and rollouts are those of the weights themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from rewardft.policy.snapshots import Snapshot, blend, check_fit, swapped_in, take_snapshot


class Ema:
    """An average of the adapter's tensors (with full fine-tuning: of all weights, which are then
    held twice).

    Without a decay nothing is held, and nothing happens.
    """

    def __init__(self, adapter: Any, decay: float | None) -> None:
        self.adapter, self.decay = adapter, decay
        self.weights: Snapshot = {} if decay is None else take_snapshot(adapter)

    def update(self, step: int) -> None:
        """After optimizer step number `step`, counted from 1."""
        if self.decay is not None:
            # d_t of the formula above.
            blend(self.weights, self.adapter, min(self.decay, (1 + step) / (10 + step)))

    def forget(self, parameter: Parameter, where: Tensor) -> None:
        """Begin anew for the entries of `parameter` that the mask `where` names: what they were
        belongs to something else."""
        for name, own in self.adapter.named.items():
            if own is parameter and name in self.weights:
                self.weights[name][where] = parameter.detach()[where]

    def applied(self) -> AbstractContextManager[None]:
        """Run the model with the average, without autograd; the weights are back afterwards, to the
        same bits."""
        return swapped_in(self.adapter, self.weights)

    def state_dict(self) -> Snapshot:
        return self.weights

    def load_state_dict(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint's. Raises CheckpointError when they are of another adapter."""
        if self.decay is not None:
            check_fit(weights, self.adapter)
        # Copied into what is there, which another part may hold by reference.
        for name, value in weights.items():
            self.weights[name].copy_(value)
