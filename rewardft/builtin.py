"""The core's own components, as a plugin like any other; always registered first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rewardft.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import nn, optim

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_samplers() -> Factories:
    from rewardft.samplers.ddim import DDIM
    from rewardft.samplers.ddpm import DDPM
    from rewardft.samplers.flow import FlowEuler

    return {"ddim": DDIM, "ddpm": DDPM, "flow_euler": FlowEuler}


@hookimpl
def register_algorithms() -> Factories:
    from rewardft.algorithms import direct
    from rewardft.algorithms.denoising import Denoising

    return {
        "direct": direct.Direct, "draft": direct.draft, "draft_k": direct.draft_k, "draft_lv": direct.draft_lv,
        "alignprop": direct.alignprop, "refl": direct.refl, "drtune": direct.drtune, "denoising": Denoising,
    }  # fmt: skip


@hookimpl
def register_regularizers() -> Factories:
    from rewardft.regularizers import KL

    return {"kl": KL}


@hookimpl(trylast=True)
def create_optimizer(parameters: list[nn.Parameter], options: Mapping[str, Any]) -> optim.Optimizer | None:
    """AdamW with float32 state; fused where the device has it."""
    from torch import optim

    if options["use"] != "adamw":
        return None
    return optim.AdamW(
        parameters, lr=options["lr"], betas=tuple(options["betas"]), eps=options["eps"],
        weight_decay=options["weight_decay"], fused=all(p.is_cuda for p in parameters) or None,
    )  # fmt: skip


@hookimpl(trylast=True)
def stop_run(metrics: Mapping[str, float]) -> str | None:
    """A loss that is not a number any more ends the run."""
    loss = metrics.get("loss")
    return None if loss is None or loss == loss else "the loss is NaN"
