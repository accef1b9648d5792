"""Noise schedules as checkpoints describe them, in the diffusers classes that the samplers read."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from rewardft.errors import ComponentError

from .source import Source


class PipelineSchedule(FlowMatchEulerDiscreteScheduler):
    """Flow matching on the grid of the family's diffusers pipeline, with what it passes to
    `set_timesteps`.

    Two entries of its config say what that is (the underscore keeps diffusers from warning about
    them).
    _mu: the shift for the image size (see `resolution_shift`); only with `use_dynamic_shifting`.
    _unit_grid: start from the levels 1, (T - 1) / T, ..., 1 / T, as FLUX does.
    """

    def set_timesteps(
        self, num_inference_steps: Any = None, device: Any = None, **options: Any
    ) -> None:
        """The T levels of a chain, shifted."""
        if self.config.get("_unit_grid"):  # type: ignore[attr-defined]
            # Its own grid would end at 1 / num_train_timesteps, not at 1 / T.
            options["sigmas"] = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
        if self.config.use_dynamic_shifting:  # type: ignore[attr-defined]
            options["mu"] = self.config["_mu"]  # type: ignore[attr-defined]
        super().set_timesteps(num_inference_steps, device, **options)  # type: ignore[misc]


def load_beta_schedule(source: Source, subfolder: str = "scheduler") -> DDIMScheduler:
    """The betas, prediction type and spacing of any scheduler that has betas.

    Raises ComponentError for one that has none: the defaults would be another model's.
    """
    config = source.scheduler_config(subfolder)
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise wrong_scheduler(source, subfolder, "with betas", config)
    # Samplers read betas alone, so any class with betas will do; DDIM's keeps all that they read.
    scheduler: DDIMScheduler = DDIMScheduler.from_config(config)
    return scheduler


def load_flow_schedule(source: Source, tokens: int, unit_grid: bool = False) -> PipelineSchedule:
    """The schedule of a flow-matching checkpoint, for images of `tokens` tokens; see
    `PipelineSchedule`."""
    config = source.scheduler_config("scheduler")
    if not str(config.get("_class_name")).startswith("FlowMatch"):
        raise wrong_scheduler(source, "scheduler", "of flow matching", config)
    scheduler: PipelineSchedule = PipelineSchedule.from_config(config)
    # Part of the config, so that a copy made from it has the same grid.
    facts = {"_unit_grid": unit_grid, "_mu": resolution_shift(scheduler.config, tokens)}  # type: ignore[attr-defined]
    scheduler.register_to_config(**facts)  # type: ignore[attr-defined]
    return scheduler


def read_schedule(source: Source, subfolder: str) -> Any:
    """Betas or flow matching, as `scheduler_config.json` says."""
    config = source.scheduler_config(subfolder)
    if str(config.get("_class_name")).startswith("FlowMatch"):
        return FlowMatchEulerDiscreteScheduler.from_config(config)
    return load_beta_schedule(source, subfolder)


def new_schedule(options: dict[str, Any]) -> Any:
    """A schedule from its arguments; `flow: true` is one of flow matching."""
    rest = {name: value for name, value in options.items() if name != "flow"}
    return FlowMatchEulerDiscreteScheduler(**rest) if options.get("flow") else DDPMScheduler(**rest)


def resolution_shift(config: Any, tokens: int) -> float:
    """mu, linear in the number of image tokens (Esser et al. 2024, 2403.03206,
    section 5.3.2, as released)."""
    # A line through two sizes that the family was tuned at.
    low, high = config.base_image_seq_len, config.max_image_seq_len
    slope = (config.max_shift - config.base_shift) / (high - low)
    return float(config.base_shift + slope * (tokens - low))


def wrong_scheduler(
    source: Source, subfolder: str, expected: str, config: dict[str, Any]
) -> ComponentError:
    return ComponentError(
        f"{source.place(subfolder)}: expected a scheduler {expected}, got "
        f"{config.get('_class_name')}. The checkpoint is of another model family; change `use` in "
        "the recipe's model section."
    )
