"""Group-relative policy gradients: several samples per prompt, each judged against the others of
its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_algorithms() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from .branch_grpo import BranchGRPO
    from .dance_grpo import dance_grpo
    from .flow_dppo import FlowDPPO
    from .flow_grpo import flow_grpo
    from .flow_grpo_fast import FlowGRPOFast
    from .grpo import GRPO
    from .grpo_guard import GRPOGuard
    from .mix_grpo import MixGRPO
    from .temp_flow_grpo import TempFlowGRPO

    return {
        "grpo": GRPO,
        "flow_grpo": flow_grpo,
        "flow_grpo_fast": FlowGRPOFast,
        "dance_grpo": dance_grpo,
        "mix_grpo": MixGRPO,
        "grpo_guard": GRPOGuard,
        "flow_dppo": FlowDPPO,
        "branch_grpo": BranchGRPO,
        "temp_flow_grpo": TempFlowGRPO,
    }


@hookimpl
def register_samplers() -> Factories:
    from .cps import CPS
    from .dance_sde import DanceSDE
    from .dpmsolver import DPMSolver
    from .flow_sde import FlowSDE

    return {"flow_sde": FlowSDE, "dance_sde": DanceSDE, "cps": CPS, "dpmsolver++": DPMSolver}
