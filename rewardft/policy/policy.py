"""The model as samplers and algorithms see it: called under autocast, and counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from rewardft.policy.answers import check_output
from rewardft.policy.cpu_kernels import quick_backward
from rewardft.policy.lean_decoding import LeanDecoding
from rewardft.policy.rollout_weights import is_large
from rewardft.types import Plan


class Policy:
    """The model as samplers and algorithms see it: `denoise`, or `call` for a policy that does
    something else, under autocast and counted.

    forwards, backwards: calls so far, and how many of them have been differentiated.
        forward_samples, backward_samples: the samples that these calls held.
    checkpointed, decoder_checkpointed: whether the model computes parts of a call, or of decoding,
        again for its gradient. That happens outside of `quick_backward` and `LeanDecoding`, and
        would find other tensors.
    rounds: whether calls without autograd may round otherwise than those that are differentiated.
    """

    def __init__(
        self,
        model: Any,
        precision: torch.dtype | None = None,
        checkpointed: bool = False,
        decoder_checkpointed: bool = False,
    ) -> None:
        self.model, self.precision = model, precision
        self.checkpointed, self.decoder_checkpointed = checkpointed, decoder_checkpointed
        self.rounds = False
        self.forwards = self.backwards = self.forward_samples = self.backward_samples = 0

    def __getattr__(self, name: str) -> Any:
        # Whatever is not counted (scheduler, sample_shape) is the model's own.
        return getattr(self.model, name)

    @property
    def settings(self) -> tuple[Any, torch.dtype | None, bool, bool]:
        """What makes another one that has counted nothing."""
        return self.model, self.precision, self.checkpointed, self.decoder_checkpointed

    @property
    def cost(self) -> dict[str, int]:
        """The counts, by the names in the logs."""
        return {
            "denoiser_forwards": self.forwards,
            "denoiser_backwards": self.backwards,
            "denoiser_forward_samples": self.forward_samples,
            "denoiser_backward_samples": self.backward_samples,
        }

    def set_cost(self, cost: Mapping[str, int]) -> None:
        """Count on from `cost`."""
        self.forwards = cost["denoiser_forwards"]
        self.backwards = cost["denoiser_backwards"]
        self.forward_samples = cost["denoiser_forward_samples"]
        self.backward_samples = cost["denoiser_backward_samples"]

    def denoise(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.forwards += 1
        self.forward_samples += x.shape[0]
        if self.precision is None:
            output = self.model.denoise(x, t, cond)
        else:
            kernels = self._kernels(self.rounds, self.checkpointed)
            with self.autocast(x.device.type), kernels:
                output = self.model.denoise(x, t, cond)
        check_output(self.model, x, output)
        if output.requires_grad:
            # Counted when a gradient arrives: a replay that is not differentiated costs none.
            output.register_hook(self._count_backward)
        # bfloat16 ends here: sampler arithmetic and log-probabilities are float32.
        return output.float() if self.precision else output

    def call(self, method: str, count: int, *args: Any) -> tuple[Tensor, ...]:
        """One call of the model's `method`, which takes `count` samples through the trained network
        and returns tensors, the first of which every loss goes through."""
        self.forwards += 1
        self.forward_samples += count
        with self.autocast(self._device.type):
            outputs: tuple[Tensor, ...] = getattr(self.model, method)(*args)
        # On one output only: a hook on each would count the same backward several times.
        if outputs[0].requires_grad:
            outputs[0].register_hook(lambda gradient: self._count(count))
        return outputs

    def autocast(self, device: str) -> Any:
        """Without the weight cache: a cast made under no_grad would be reused with gradients on,
        and cut the graph."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(device, dtype=self.precision, cache_enabled=False)

    def decode(self, x0: Any) -> Any:
        """The model's own, without autocast: an autoencoder has a precision of its own."""
        # Nothing compares decoded samples to the last bit.
        lean = LeanDecoding() if self._is_lean else nullcontext()
        with self._kernels(True, self.decoder_checkpointed), lean:
            return self.model.decode(x0)

    @property
    def _is_lean(self) -> bool:
        """Whether a decoder's graph is worth the work that keeps it small."""
        if self.decoder_checkpointed or not torch.is_grad_enabled():
            return False
        return is_large(self.model.trainable)

    @property
    def _device(self) -> torch.device:
        return next(self.model.trainable.parameters()).device

    def _kernels(self, rounds: bool, checkpointed: bool) -> AbstractContextManager[Any]:
        """What is around a call: the operations that are quick to differentiate."""
        differentiated = torch.is_grad_enabled() or not rounds
        quick = self.precision is not None and not checkpointed and differentiated
        return quick_backward(self._device) if quick else nullcontext()

    @contextmanager
    def rounding(self, plan: Plan) -> Iterator[None]:
        """Around the rollout of a plan: for one that is not `exact`, calls are as quick as they
        can be. Others round as a replay that is differentiated, and as the reference does."""
        before, self.rounds = self.rounds, not plan.exact
        try:
            yield
        finally:
            self.rounds = before

    @contextmanager
    def unguided(self) -> Iterator[None]:
        """The conditional prediction alone: a model that has `guidance` runs with 1 inside.

        Losses that compare an output with the noise that was added need this: a guided output is no
        prediction of it.
        """
        if not hasattr(self.model, "guidance"):
            yield
            return
        # Guidance of 1 is the conditional prediction: u + 1 * (c - u) = c.
        before, self.model.guidance = self.model.guidance, 1.0
        try:
            yield
        finally:
            self.model.guidance = before

    def _count_backward(self, gradient: Tensor) -> None:
        self._count(len(gradient))

    def _count(self, samples: int) -> None:
        self.backwards += 1
        self.backward_samples += samples
