"""Guidance of a modular pipeline: its guiders, or the scale that a distilled network reads."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import diffusers.guiders
import torch
from diffusers.guiders.guider_utils import BaseGuidance
from rewardft_plugins.modular.blocks import BlockChain

from rewardft.errors import ComponentError, did_you_mean

GuidanceGradient = Literal["inside", "outside"]
SCALE = "guidance_scale"


class Guidance:
    """The guidance of a chain of blocks, as one scale.

    Args:
        scale: replaces the pipeline's own; 1 is the conditional prediction alone.
        guider: the class and options of another guider, `{use: NAME, ...}`.
        gradient: `outside` makes all passes but the conditional one constants.

    Raises ComponentError for a scale that nothing reads, or a guider that cannot be replayed.
    """

    def __init__(
        self,
        chain: BlockChain,
        scale: float | None,
        guider: Mapping[str, Any] | None,
        gradient: GuidanceGradient,
    ) -> None:
        self._chain = chain
        self.guiders = install(chain, guider)
        # A distilled network takes the scale as an input; its name alone does not say so.
        self.embedded = SCALE in chain.input_names and not self.guiders and reads_scale(chain)
        if self.embedded:
            default = {p.name: p.default for p in chain.blocks.inputs}[SCALE]
            chain.inputs.setdefault(SCALE, default)
        self.check(scale, gradient)
        for each in self.guiders.values():
            refuse_memory(each)
            if gradient == "outside":
                cut_gradient(each)
        # What each guider was built with, to come back to after a scale of 1.
        self._own = {name: float(getattr(each, SCALE)) for name, each in self.guiders.items()}
        self._scale = self.found_scale()
        if scale is not None and self.exists:
            self.set(scale)

    @property
    def exists(self) -> bool:
        return bool(self.guiders) or self.embedded

    @property
    def scale(self) -> float:
        """The current scale; of several guiders, the first one's."""
        return self._scale

    def found_scale(self) -> float:
        """As the pipeline has it."""
        if self.embedded:
            return float(self._chain.inputs[SCALE])
        first = next(iter(self.guiders), None)
        return self._own[first] if first and self.guiders[first]._enabled else 1.0

    def set(self, scale: float) -> None:
        """1 switches guiders off; their original scale restores each as it was built."""
        self._scale = scale
        if self.embedded:
            self._chain.inputs[SCALE] = scale
        if self.guiders and scale not in (1.0, next(iter(self._own.values()))):
            self._own = dict.fromkeys(self._own, scale)
        self.apply()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Guiders on inside, so that encoders make both halves, whatever the scale is set to now.

        Some encoders fail where only one half is wanted.
        """
        for name, guider in self.guiders.items():
            guider._enabled = True
            setattr(guider, SCALE, self._own[name] if self._own[name] != 1.0 else 2.0)
        try:
            yield
        finally:
            self.apply()

    def apply(self) -> None:
        """Tell the guiders; some loops switch them on when they are set up."""
        for name, guider in self.guiders.items():
            # A private attribute, but diffusers has no other switch.
            guider._enabled = self._scale != 1.0
            setattr(guider, SCALE, self._own[name] if guider._enabled else 1.0)

    def check(self, scale: float | None, gradient: str) -> None:
        if scale is not None:
            check_scale(scale)
        if scale not in (None, 1.0) and not self.exists:
            raise ComponentError(
                f"{type(self._chain.pipe).__name__} has no guidance: its network was distilled "
                f"without, so `guidance: {scale:g}` would do nothing. Leave it out."
            )
        if gradient == "outside" and not self.guiders:
            raise ComponentError(
                f"{type(self._chain.pipe).__name__} has no guider, so every pass is the "
                "conditional one; leave `guidance_gradient` out."
            )


def install(chain: BlockChain, wanted: Mapping[str, Any] | None) -> dict[str, BaseGuidance]:
    """The loop's guiders by the names of their components, replaced where another is wanted."""
    found = {s.name: getattr(chain.pipe, s.name, None) for s in chain.loop.expected_components}
    guiders = {name: part for name, part in found.items() if isinstance(part, BaseGuidance)}
    if wanted is None:
        return guiders
    if not guiders:
        raise ComponentError(f"{type(chain.pipe).__name__} has no guider that could be replaced")
    # One object each: guiders count their passes.
    guiders = {name: build(wanted) for name in guiders}
    chain.pipe.update_components(**guiders)
    return guiders


def build(wanted: Mapping[str, Any]) -> BaseGuidance:
    """A guider of diffusers by the name of its class. Raises ComponentError for what is unknown."""
    known = {name: kind for name, kind in vars(diffusers.guiders).items() if is_guider(kind)}
    name = str(wanted.get("use", ""))
    if name not in known:
        raise ComponentError(f"guider: {what_is_wrong(name)}.{did_you_mean(name, known)}")
    options = {key: value for key, value in wanted.items() if key != "use"}
    parameters = list(inspect.signature(known[name].__init__).parameters)[1:]
    for key in options:
        if key not in parameters:
            hint = did_you_mean(key, parameters)
            raise ComponentError(f"guider: {name} has no option {key!r}.{hint}")
    try:
        guider: BaseGuidance = known[name](**options)
        check_scale(float(getattr(guider, SCALE)))
    except (TypeError, ValueError) as error:
        raise ComponentError(f"guider: {name} takes no such options ({error})") from error
    return guider


def check_scale(scale: float) -> None:
    if scale < 0:
        raise ComponentError(f"expected guidance of at least 0, got {scale:g}")


def what_is_wrong(name: str) -> str:
    """With a name that `build` does not know."""
    if changes_layers(getattr(diffusers.guiders, name, None)):
        return f"{name} changes layers of the network, which it does not find under an adapter"
    return f"{name!r} is not a guider" if name else "expected {use: NAME, ...}"


def is_guider(kind: Any) -> bool:
    if not inspect.isclass(kind) or not issubclass(kind, BaseGuidance) or changes_layers(kind):
        return False
    return SCALE in inspect.signature(kind.__init__).parameters


def changes_layers(kind: Any) -> bool:
    """Whether a guider skips or perturbs layers, by hooks on the stack of blocks."""
    names = inspect.signature(kind.__init__).parameters if inspect.isclass(kind) else []
    return any(name.endswith("_layers") for name in names)


def refuse_memory(guider: BaseGuidance) -> None:
    """A guider with momentum gives another result when a step is replayed."""
    momentum = {k: v for k, v in guider.config.items() if "momentum" in k and v is not None}
    for key, value in momentum.items():
        raise ComponentError(
            f"{type(guider).__name__} has {key}={value}: what it remembers of earlier steps is "
            "lost when a step is replayed alone. Set it to null."
        )


def reads_scale(chain: BlockChain) -> bool:
    """Whether `guidance_scale` reaches the network; a distilled one may say that it does not."""
    said = [getattr(net.config, "guidance_embeds", True) for net in chain.networks.values()]
    return all(said)


def cut_gradient(guider: BaseGuidance) -> None:
    """Run every pass but the first, which is the conditional one, without autograd.

    diffusers calls `prepare_models` in front of each pass and `cleanup_models` behind it.
    """
    prepare, cleanup = guider.prepare_models, guider.cleanup_models
    modes: list[bool] = []

    def prepare_pass(network: Any) -> None:
        prepare(network)
        modes.append(torch.is_grad_enabled())
        # diffusers counts passes from 1, and the conditional one comes first.
        torch.set_grad_enabled(modes[-1] and guider._count_prepared == 1)

    def cleanup_pass(network: Any) -> None:
        # Back to the mode that the caller had.
        torch.set_grad_enabled(modes.pop())
        cleanup(network)

    vars(guider).update(prepare_models=prepare_pass, cleanup_models=cleanup_pass)
