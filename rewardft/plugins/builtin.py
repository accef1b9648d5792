"""The core's own components, as a plugin like any other; always registered first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rewardft.contracts.hookspecs import Factories, hookimpl

if TYPE_CHECKING:
    from torch import nn, optim


@hookimpl
def register_samplers() -> Factories:
    # Imported when asked: `import rewardft` must not wait for torch.
    from rewardft.samplers.ddim import DDIM
    from rewardft.samplers.ddpm import DDPM
    from rewardft.samplers.flow import FlowEuler

    return {"ddim": DDIM, "ddpm": DDPM, "flow_euler": FlowEuler}


@hookimpl
def register_algorithms() -> Factories:
    from rewardft.algorithms import direct, direct_presets
    from rewardft.algorithms.denoising import Denoising

    return {
        "direct": direct.Direct,
        "draft": direct_presets.draft,
        "draft_k": direct_presets.draft_k,
        "draft_lv": direct_presets.draft_lv,
        "alignprop": direct_presets.alignprop,
        "refl": direct_presets.refl,
        "drtune": direct_presets.drtune,
        "denoising": Denoising,
    }


@hookimpl
def register_regularizers() -> Factories:
    from rewardft.algorithms.regularizers import KL

    return {"kl": KL}


@hookimpl
def register_launchers() -> Factories:
    from rewardft.launchers.local import Local

    return {"local": Local}


@hookimpl(trylast=True)
def create_optimizer(
    parameters: list[nn.Parameter] | list[dict[str, Any]], options: Mapping[str, Any]
) -> optim.Optimizer | None:
    """AdamW with float32 state; fused where the device has it."""
    from torch import optim

    if options["use"] != "adamw":
        return None
    flat = [
        p for each in parameters for p in (each["params"] if isinstance(each, dict) else [each])
    ]
    return optim.AdamW(
        parameters,
        lr=options["lr"],
        betas=tuple(options["betas"]),
        eps=options["eps"],
        weight_decay=options["weight_decay"],
        # None leaves the choice to torch; False would also switch its faster default off.
        fused=all(p.is_cuda for p in flat) or None,
    )


@hookimpl(trylast=True)
def stop_run(metrics: Mapping[str, float]) -> str | None:
    """A loss that is not a number any more ends the run."""
    loss = metrics.get("loss")
    # NaN alone is not equal to itself.
    return None if loss is None or loss == loss else "the loss is NaN"
