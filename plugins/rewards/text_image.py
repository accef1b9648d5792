"""Rewards that are cosines of CLIP embeddings of image and prompt. They differ in weights, scale
and image preparation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from rewardft.errors import RewardError
from rewardft.files.paths import Weights
from rewardft.types import Batch, Rollout

from .clip import Clip, ClipSource, Precision
from .images import pixels_of, prompts_of

TAGS = frozenset({"reward_gradient", "prompt_reward"})


class TextImage(nn.Module):
    """cos(image, prompt), `(b,)`, in [-1, 1]. `column` is the batch's column of prompts."""

    provides = TAGS
    space: str = "pixels"
    range: tuple[float, float] = (-1.0, 1.0)

    def __init__(self, name: str, source: ClipSource, column: str) -> None:
        super().__init__()
        self.name, self.column = name, column
        self.clip = Clip(source, name)
        self.eval()

    def cosine(self, rollout: Rollout, batch: Batch) -> Tensor:
        texts = self.clip.texts(prompts_of(batch, self.column, self.name))
        # Both are unit vectors.
        return (self.clip.images(pixels_of(rollout, self.name)) * texts).sum(1)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        return self.cosine(rollout, batch)


class ClipScore(TextImage):
    """CLIP score of image and prompt: 100 cos (`percent`), or 2.5 max(cos, 0) (`hessel`).

    The second is Hessel et al. 2021 (2104.08718). The first is not clipped: a wrong image has a
    gradient too.

    Args:
        weights, revision, processor, quantise, precision: see `ClipSource`.
        form: scale and clipping.
        column: the batch's column of prompts.
    """

    range = (-100.0, 100.0)

    def __init__(
        self,
        weights: Weights = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        processor: Weights | None = None,
        form: Literal["percent", "hessel"] = "percent",
        column: str = "prompt",
        quantise: bool = False,
        precision: Precision = "float32",
    ) -> None:
        source = ClipSource(weights, revision, processor, quantise=quantise, precision=precision)
        super().__init__("clip_score", source, column)
        self.form = form
        if form == "hessel":
            # Of this object alone; the class has the other form's.
            self.range = (0.0, 2.5)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        cosine = self.cosine(rollout, batch)
        return 100 * cosine if self.form == "percent" else 2.5 * cosine.clamp(min=0)


class PickScore(TextImage):
    """PickScore (Kirstain et al. 2023, 2305.01569): exp(logit_scale) cos, a CLIP-H trained on
    people's picks; about 20.

    The published weights are used with the processor of the CLIP that they were tuned from.

    Args:
        weights, revision, processor, column, quantise, precision: as `clip_score`.
    """

    range = (-100.0, 100.0)

    def __init__(
        self,
        weights: Weights = "yuvalkirstain/PickScore_v1",
        revision: str | None = None,
        processor: Weights | None = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        column: str = "prompt",
        quantise: bool = False,
        precision: Precision = "float32",
    ) -> None:
        source = ClipSource(weights, revision, processor, quantise=quantise, precision=precision)
        super().__init__("pick_score", source, column)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        scale: Tensor = self.clip.model.logit_scale.float().exp()
        # CLIP's training caps the scale there.
        return torch.clamp(scale, max=100) * self.cosine(rollout, batch)


class HpsV2(TextImage):
    """Human Preference Score v2 / v2.1 (Wu et al. 2023, 2306.09341): the cosine of a CLIP-H; 0.2 to
    0.35 is usual.

    As in its own code, images that are not square are padded with black, and resizing is not
    clipped to [0, 1].

    Args:
        weights: a converted folder (`rewardft rewards convert-hps`, docs/rewards.md), as the
            published file has another format.
        revision, processor, column, quantise, precision: as `clip_score`.
    """

    def __init__(
        self,
        weights: Weights,
        revision: str | None = None,
        processor: Weights | None = None,
        column: str = "prompt",
        quantise: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(
            "hps_v2", ClipSource(weights, revision, processor, "pad", quantise, precision), column
        )


class ClipDirection(nn.Module):
    """Does a picture change as its caption does? (Gal et al. 2021, 2108.00946, equation 2.)

    cos(E(sample) - E(picture), E(target) - E(source)), `(b,)`, in [-1, 1], with CLIP's unit
    embeddings E of images and of texts. A sample that is the picture itself has no direction and
    counts 0.

    Args:
        weights, revision, processor, quantise, precision: as `ClipScore`.
        image, source, target: the batch's columns of pictures `(b, 3, h, w)` in [0, 1] and of their
            captions before and after the edit.
    """

    # Not `prompt_reward`: it reads its two captions, so a word before the prompt changes nothing.
    provides = frozenset({"reward_gradient"})
    space: str = "pixels"
    range: tuple[float, float] = (-1.0, 1.0)

    def __init__(
        self,
        weights: Weights = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        processor: Weights | None = None,
        image: str = "image",
        source: str = "source",
        target: str = "target",
        quantise: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        self.columns = (source, target)
        self.image = image
        self.clip = Clip(
            ClipSource(weights, revision, processor, quantise=quantise, precision=precision),
            "clip_direction",
        )
        self.eval()

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        # Texts first: a data set without captions should fail before images are embedded.
        before, after = (
            self.clip.texts(prompts_of(batch, name, "clip_direction")) for name in self.columns
        )
        pixels = pixels_of(rollout, "clip_direction")
        if self.image not in batch:
            raise RewardError(
                f"clip_direction compares with the pictures in batch[{self.image!r}], and the data "
                f"set gives: {', '.join(batch.columns)}"
            )
        # The given picture is a constant; only the sample's embedding has a gradient.
        with torch.no_grad():
            start = self.clip.images(batch[self.image].to(pixels))
        moved = self.clip.images(pixels) - start
        # eps bounds the gradient of a sample that has hardly moved.
        return torch.nn.functional.cosine_similarity(moved, after - before, dim=1, eps=1e-4)
