"""`scene_render`: the sampler of scenes, whose one step takes a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.recipe.bounds import NotNegative
from rewardft.types import Plan, Rollout, Transition


class Render:
    """Pictures of scenes from near the cameras of the data set.

    Args:
        jitter, elevation_jitter: degrees; each camera is drawn evenly within so many around the
            item's. Views of one sample move together.
        cameras: azimuths in degrees from where each scene is drawn beside its sample, for metrics:
            `rollout.info["pictures"]` `(b, m, c, h, w)`, `["coverage"]` `(b, m, h, w)` and
            `["azimuths"]` `(b, m)`.
    """

    steps = 1
    needs = frozenset({"scene"})
    provides = frozenset({"renders"})

    def __init__(
        self,
        jitter: NotNegative = 0.0,
        elevation_jitter: NotNegative = 0.0,
        cameras: Sequence[float] = (),
    ) -> None:
        if jitter < 0 or elevation_jitter < 0:
            raise ComponentError(
                f"render: expected jitter >= 0, got {jitter} and {elevation_jitter} degrees"
            )
        self.jitter = {"azimuth": jitter, "elevation": elevation_jitter}
        self.cameras = tuple(cameras)

    def setup(self, model: Any) -> None:
        """Raises ComponentError for a model without scenes."""
        if not hasattr(model, "render"):
            raise ComponentError(
                "render needs a model of scenes, such as `gaussian_scene`; got "
                f"{type(model).__name__}"
            )

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        """Pictures, without autograd."""
        with torch.no_grad():
            x0 = model.sample(self.moved(cond, noise))
            info = self.beside(model, cond["scene"])
        states = dict.fromkeys(sorted(plan.keep))
        return Rollout(cond, noise, plan, x0=x0, states=states, info=info, decoder=model.decode)

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        """The same pictures again, in the caller's gradient mode."""
        # Nothing is kept but the cameras, which are drawn again: a picture is cheap.
        x0 = model.sample(self.moved(rollout.cond, rollout.noise))
        return Transition(state=None, next=x0, x0=x0)

    def moved(self, cond: Any, noise: Noise) -> dict[str, Any]:
        """The condition with cameras drawn around those of the items."""
        return {**cond, **{name: self.near(cond[name], name, noise) for name in self.jitter}}

    def near(self, angle: Tensor, name: str, noise: Noise) -> Tensor:
        """Angles `(b,)` or `(b, v)` moved by at most the jitter."""
        if self.jitter[name] == 0:
            return angle
        by = self.jitter[name] * (2 * noise.uniform(name) - 1)
        return angle + by.view(-1, *[1] * (angle.ndim - 1)).to(angle)

    def beside(self, model: Any, scene: Tensor) -> dict[str, Tensor]:
        """What the scenes look like from `cameras`."""
        if not self.cameras:
            return {}
        azimuth = torch.tensor(self.cameras, device=scene.device).repeat(len(scene), 1)
        level = torch.zeros_like(azimuth)
        pictures, coverage = model.render(scene, azimuth, level, level.bool())
        return {"pictures": pictures, "coverage": coverage, "azimuths": azimuth}
