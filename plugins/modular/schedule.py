"""The noise schedule of a pipeline in the diffusers classes that the samplers read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from rewardft.errors import ComponentError

Flow: Any = FlowMatchEulerDiscreteScheduler  # whose types diffusers hides behind decorators
Levels = Callable[[int], tuple[Tensor, Tensor]]  # steps -> timesteps (T,), sigmas (T + 1,)


def is_flow(scheduler: Any) -> bool:
    """Whether a pipeline's scheduler, of whatever class, is one of flow matching."""
    if isinstance(scheduler, Flow):
        return True
    return bool(getattr(scheduler.config, "use_flow_sigmas", False))


def sampling_schedule(scheduler: Any, levels: Levels, pipeline: str) -> Any:
    """What samplers read: betas as DDIM's, or flow matching on the pipeline's own grid.

    levels: asks the pipeline's block `set_timesteps`, which knows sizes, shifts and fixed grids.

    Raises ComponentError for a scheduler of neither kind.
    """
    if is_flow(scheduler):
        return flow_schedule(scheduler, levels)
    if hasattr(scheduler, "alphas_cumprod"):
        # Betas are all that samplers read, so any class with betas will do.
        return DDIMScheduler.from_config(scheduler.config)
    raise ComponentError(
        f"{pipeline}: expected a scheduler of flow matching or with betas, got "
        f"{type(scheduler).__name__}; there is no sampler for it."
    )


def flow_schedule(scheduler: Any, levels: Levels) -> Any:
    """Euler steps on the levels of the pipeline, whatever solver it comes with."""
    if isinstance(scheduler, Flow):
        config = dict(scheduler.config)
    else:
        config = {"shift": getattr(scheduler.config, "flow_shift", 1.0)}
        config["num_train_timesteps"] = scheduler.config.num_train_timesteps

    class PipelineSchedule(Flow):  # type: ignore[misc]
        """The grid of the pipeline; with another `shift` than its own, that of the base class."""

        def set_timesteps(
            self, num_inference_steps: Any = None, device: Any = None, **options: Any
        ) -> None:
            # A sampler with a shift of its own asks for another grid than the pipeline's.
            if any(self.config[name] != own[name] for name in ("shift", "use_dynamic_shifting")):
                super().set_timesteps(num_inference_steps, device, **options)
                return
            self.timesteps, self.sigmas = levels(num_inference_steps)

    own = Flow.from_config(config).config
    return PipelineSchedule.from_config(config)
