"""`class_conditional_unet`: a `UNet2DModel` on pixels, conditioned on a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import NotNegative
from rewardft.types import Batch

from .guidance import Condition, GuidanceGradient, guide, replace_rows
from .unet import UnconditionalUNet


@dataclass(kw_only=True, eq=False)
class ClassConditionalUNet(UnconditionalUNet):
    """A `UNet2DModel` on pixels, conditioned on a class.

    The class is `batch["label"]`, whole numbers from 0. Guidance and condition dropout take the
    last of the network's `num_class_embeds` classes for "no class"; train the network with one
    class more than the data have.

    Args:
        guidance: classifier-free guidance scale; 1 is the conditional prediction alone, without a
            second pass.
        guidance_gradient: `inside`: both halves carry gradient; `outside`: the half without a class
            is a constant.
    """

    guidance: NotNegative = 1.0
    guidance_gradient: GuidanceGradient = "inside"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.unet_config.num_class_embeds:
            raise ComponentError(
                "class_conditional_unet: the network has no class embedding (num_class_embeds is "
                "not set); use `unconditional_unet`"
            )

    def encode(self, batch: Batch) -> Condition:
        """Raises ComponentError for labels that the network does not know."""
        if "label" not in batch:
            raise ComponentError(
                "class_conditional_unet needs a column `label` of whole numbers, and the data set "
                f"gives: {', '.join(batch.columns)}. The data set `class_labels` has one."
            )
        # Checked here: a label out of range fails on a GPU later, and without saying where.
        label, count = batch["label"], self.unet_config.num_class_embeds
        if label.is_floating_point() or int(label.min()) < 0 or int(label.max()) >= count:
            raise ComponentError(
                f"labels must be whole numbers from 0 to {count - 1}, got {label.unique().tolist()}"
            )
        return {"label": label}

    def drop(self, cond: Condition, mask: Tensor) -> Condition:
        return replace_rows(cond, self.null(cond), mask)

    def null(self, cond: Condition) -> Condition:
        # The last class is "no class"; the data never have it.
        return {"label": torch.full_like(cond["label"], self.unet_config.num_class_embeds - 1)}

    def denoise(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        # null + 1 * (cond - null) is cond: no second pass.
        if self.guidance == 1.0:
            return super().denoise(x, t, cond)
        # The samplers' state is float32; the network may be in half precision.
        x = x.to(self.trainable.dtype)  # type: ignore[arg-type]
        return guide(
            self.predict, x, t, cond, self.null(cond), self.guidance, self.guidance_gradient
        )
