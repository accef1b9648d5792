"""Low-rank adapters inside the model, through peft."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rewardft.errors import ComponentError, did_you_mean
from rewardft.policy.adapter_casts import AdapterCasts
from rewardft.policy.rollout_weights import foldable, sums, swapped
from rewardft.policy.sample_gradients import SampleGradients
from rewardft.policy.weights import copy_state, to_cpu

if TYPE_CHECKING:
    from rewardft.recipe.recipe import AdapterSpec


PEFT_PREFIX = "base_model.model."  # what peft's own loader expects before the module's name
PIPELINE_FILE = "pytorch_lora_weights.safetensors"  # what diffusers' pipelines look for first


class Lora:
    """Low-rank adapters (Hu et al. 2021, 2106.09685). Its tensors are float32 whatever the
    precision of the base."""

    def __init__(self, model: Any, spec: AdapterSpec, seed: int) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.module: nn.Module = model.trainable
        self.pipeline_part: str | None = getattr(model, "pipeline_part", None)
        # Before the adapter is injected: its own tensors are switched on below.
        self.module.requires_grad_(False)
        targets = lora_targets(self.module, spec.targets or getattr(model, "lora_targets", None))
        alpha = spec.rank if spec.alpha is None else spec.alpha
        self.config = LoraConfig(
            r=spec.rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=targets,
            lora_dropout=spec.dropout,
        )
        # The seed is the run's; the global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(self.config, self.module)
        self.named = {n: p for n, p in self.module.named_parameters() if ".lora_" in n}
        for parameter in self.named.values():
            # A bfloat16 adapter would lose updates smaller than its last bit; float64 is for tests.
            if parameter.dtype != torch.float64:
                parameter.data = parameter.data.float()
            parameter.requires_grad_(True)
        # peft's layers, whatever their class: it has one for each kind of layer that it wraps.
        self.layers = [
            m
            for m in self.module.modules()
            if hasattr(m, "lora_A") and hasattr(m, "disable_adapters")
        ]
        self._casts = AdapterCasts(self.module, self.layers)
        # The base's own dropout stays off: rollout and replay must be the same policy.
        self.module.eval()
        # The base's weights without the adapter, while it is folded into them, see `for_rollout`.
        self._unfolded: list[Tensor] = []
        self.dropouts = (
            [m for layer in self.layers for m in layer.lora_dropout.values()]
            # Without dropout peft puts an Identity there, which need not be switched.
            if spec.dropout
            else []
        )

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.named.values())

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The reference policy. Sets the flag alone: peft's public switch would also touch
        `requires_grad`.

        It may be entered again inside: leaving puts back what was.
        """
        before = [layer._disable_adapters for layer in self.layers]
        # Inside a rollout whose base has the adapter in it, the base is put back.
        folded = self.layers if self._unfolded else []
        bases = [layer.get_base_layer().weight for layer in folded]
        self._switch_off([True] * len(before))
        try:
            with swapped(bases, self._unfolded):
                yield
        finally:
            self._switch_off(before)

    @contextmanager
    def for_rollout(self, precision: torch.dtype | None, exact: bool) -> Iterator[None]:
        """The same policy for calls without autograd, with fewer operations for each.

        precision: that of autocast, to which the adapter is then cast once and not at every call,
            see `AdapterCasts`: to the last bit the same numbers.
        exact: False adds the adapter to the weights of a large base, if that has its precision;
            outputs then differ by rounding (3e-6 in float32).
        """
        off = self._unfolded or any(layer._disable_adapters for layer in self.layers)
        weights = [] if off or exact or precision else foldable(self.module, self.layers)
        if weights:
            with self._folded(weights):
                yield
        elif precision and not off:
            with self._casts.applied(precision):
                yield
        else:
            yield

    @contextmanager
    def _folded(self, weights: list[nn.Parameter]) -> Iterator[None]:
        self._unfolded = [weight.data for weight in weights]
        self._switch_off([True] * len(weights))
        try:
            with swapped(weights, sums(self.layers, weights)):
                yield
        finally:
            self._switch_off([False] * len(weights))
            self._unfolded = []

    def _switch_off(self, states: list[bool]) -> None:
        for layer, off in zip(self.layers, states):
            layer._disable_adapters = off

    def sample_gradients(self, count: int) -> SampleGradients | None:
        """What takes the gradients of `count` samples in one backward pass; None where a layer is
        no linear map, or a compiled block would not see its hooks."""
        # Of an embedding peft keeps both matrices elsewhere.
        if not all("default" in layer.lora_A for layer in self.layers):
            return None
        pairs = [(layer.lora_A["default"], layer.lora_B["default"]) for layer in self.layers]
        maps = [part for pair in pairs for part in pair]
        plain = all(type(part) is nn.Linear for part in maps)
        compiled = any(m._compiled_call_impl is not None for m in self.module.modules())
        # A bias, or an embedding's matrices, are parameters of no such map.
        if not plain or compiled or {id(m.weight) for m in maps} != set(map(id, self.parameters)):
            return None
        return SampleGradients(pairs, self.parameters, count)

    def train_mode(self, on: bool) -> None:
        """Adapter dropout is active in replays alone."""
        for dropout in self.dropouts:
            dropout.train(on)

    def scale(self, factor: float) -> None:
        """Multiply the adapter's strength for evaluation; 1 is as trained, 0 the base model."""
        for layer in self.layers:
            for name in layer.scaling:
                # From the configuration: a second call must not multiply the first one's.
                layer.scaling[name] = self.config.lora_alpha / self.config.r * factor

    def state_dict(self) -> dict[str, Tensor]:
        """The adapter's tensors by the names that peft gives them in files."""
        return {
            # "default" is the adapter's name inside a model; peft leaves it out of files.
            PEFT_PREFIX + name.replace(".default.", "."): p.detach()
            for name, p in self.named.items()
        }

    def load_state_dict(self, state: dict[str, Tensor], source: str) -> None:
        copy_state(self.state_dict(), state, source)

    def save(self, folder: Path) -> None:
        """Write peft's layout, `adapter_model.safetensors` and `adapter_config.json`, and for a
        model that says which part of a diffusers pipeline it trains also `PIPELINE_FILE`.
        """
        write_lora(folder, self.state_dict(), self.config.to_dict(), self.pipeline_part)


def write_lora(
    folder: Path, state: Mapping[str, Tensor], settings: Mapping[str, Any], part: str | None
) -> None:
    """Write the tensors of an adapter, by peft's names, as `Lora.save` says.

    settings: peft's configuration. part: of the diffusers pipeline; None: for no pipeline.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        # Sorted: JSON has no sets, and equal adapters must give equal files.
        k: sorted(v) if isinstance(v, set) else v
        for k, v in settings.items()
    }
    facts = {
        PEFT_PREFIX + k: config[k] for k in ("r", "lora_alpha", "target_modules", "lora_dropout")
    }
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(facts, sort_keys=True)}
    save_file(to_cpu(state), folder / "adapter_model.safetensors", metadata=metadata)
    (folder / "adapter_config.json").write_text(
        json.dumps(config, indent=2, default=str, sort_keys=True)
    )
    if part is not None:
        strength = config["lora_alpha"] / config["r"]
        save_file(
            to_cpu(pipeline_state(state, part, strength)),
            folder / PIPELINE_FILE,
            metadata={"format": "pt"},
        )


def pipeline_state(state: Mapping[str, Tensor], part: str, strength: float) -> dict[str, Tensor]:
    """The tensors as `pipe.load_lora_weights` reads them. alpha / rank is multiplied into the
    B matrices, because not every reader knows alpha: all of them then have the same strength.
    """
    return {
        f"{part}.{name.removeprefix(PEFT_PREFIX)}": value
        * (strength if ".lora_B." in name else 1.0)
        for name, value in state.items()
    }


def lora_targets(module: nn.Module, targets: list[str] | str | None) -> list[str]:
    """Names (or suffixes) of the layers that get an adapter; None takes every linear layer."""
    # The whole has no name: a layer that is all there is cannot be replaced by one with an adapter.
    named = [(name, part) for name, part in module.named_modules() if name]
    linear = [n for n, m in named if isinstance(m, (nn.Linear, nn.Conv2d))]
    if targets is None or targets == "all-linear":
        found = [n for n, m in named if isinstance(m, nn.Linear)]
        if not found:
            raise ComponentError(no_linear_layer(module, linear))
        return found
    wanted = [targets] if isinstance(targets, str) else list(targets)
    suffixes = {".".join(n.split(".")[-depth:]) for n in linear for depth in (1, 2)}
    for target in wanted:
        if not any(n == target or n.endswith("." + target) for n in linear):
            raise ComponentError(
                f"adapter.targets: no linear or convolution layer of {type(module).__name__} is "
                f"called {target!r}.{did_you_mean(target, suffixes)}"
            )
    return wanted


def no_linear_layer(module: nn.Module, convolutions: list[str]) -> str:
    """What is said of a network that an adapter has no place in unless one is named."""
    if isinstance(module, nn.Linear):
        return (
            "adapter: the model's `trainable` is a single layer, inside which there is no place "
            "for an adapter. Wrap it, as in torch.nn.Sequential(layer), or set adapter.kind: full."
        )
    name = f" (such as adapter.targets: [{convolutions[0]}])" if convolutions else ""
    return (
        f"adapter: {type(module).__name__} has no linear layer. Name other layers in "
        f"adapter.targets{name}, or train all weights with adapter.kind: full."
    )
