"""`pose_answers`: the quality of answers, measured independently of the rewards."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from rewardft_plugins.humans.poses.errors import aligned_distance, mean_distance
from rewardft_plugins.posert import posecodes
from rewardft_plugins.posert.retriever import RetrieverWeights, load_retriever
from rewardft_plugins.posert.rewards import of_task
from rewardft_plugins.posert.rotations import joints
from rewardft_plugins.posert.text import CAPTION_FORM, POSE_FORM
from torch import Tensor

from rewardft.types import Batch, Rollout


class PoseAnswers:
    """Per-item values `(n,)`; NaN where a value belongs to another task.

    `format`: 1 where the text is in the wanted form. Of image -> pose, in millimetres:
        `mpjpe`, `pa_mpjpe` of the sample, `mpjpe_mean`, `pa_mpjpe_mean` of the Gaussian's mean. Of
        text -> pose: `rules`, the share of the caption's phrases that are true of the sample, and
        `similarity` of caption and sample by a retriever, with `..._mean` likewise. Of pose ->
        text: `rules`. Of all poses: `sigma`, the mean deviation of the head. Neither direction is
        better: samples improve when it falls, even if nothing else has been learned.

    Evaluate with `evaluate.sampler: {use: hybrid, complete: true}`, so that every answer has a pose
    to be judged.

    Args:
        judge: weights of the retriever, `shipped_b`: one that no reward uses; or `shipped_a` or a
            path.
    """

    higher_is_better = {
        "format": True,
        **{f"{name}{of}": False for name in ("mpjpe", "pa_mpjpe") for of in ("", "_mean")},
        **{f"{name}{of}": True for name in ("rules", "similarity") for of in ("", "_mean")},
        "sigma": None,
    }

    def __init__(self, judge: RetrieverWeights = "shipped_b") -> None:
        self.judge = load_retriever(judge)
        self.reset()

    def reset(self) -> None:
        self._values: dict[str, list[Tensor]] = {}

    def update(self, rollout: Rollout, batch: Batch) -> None:
        found = rollout.decoded
        image, text, describe = (of_task(batch, task) for task in ("image", "text", "describe"))
        values = {"format": in_form(found["text"], batch)}
        mean = rollout.info["mean"].float().cpu()
        # The sample is what a user gets, the mean what the model believes.
        for suffix, pose in (("", found["pose"].float().cpu()), ("_mean", mean)):
            for name, value in of_poses(pose, batch, self.judge).items():
                asked = image if "mpjpe" in name else text
                values[f"{name}{suffix}"] = torch.where(asked, value, torch.nan)
        # A description without a single phrase is wrong, not missing: 0 and not NaN.
        told = posecodes.satisfied(found["text"], joints(batch["pose"].float().cpu())).nan_to_num(0)
        values["rules"] = torch.where(describe, told, values["rules"])
        sigma = rollout.info["deviation"].float().cpu().mean(1)
        values["sigma"] = torch.where(describe, torch.nan, sigma)
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def compute(self) -> Mapping[str, Tensor]:
        return {name: torch.cat(values) for name, values in self._values.items()}


def of_poses(pose: Tensor, batch: Batch, judge: torch.nn.Module) -> dict[str, Tensor]:
    """Every value of poses `(b, 132)`, whatever their task."""
    found, truth = joints(pose), joints(batch["pose"].float().cpu())
    return {
        "mpjpe": mean_distance(found, truth),
        "pa_mpjpe": aligned_distance(found, truth),
        "rules": posecodes.satisfied(batch["caption"], found),
        "similarity": judge(batch["caption"], pose),
    }


def in_form(texts: list[str], batch: Batch) -> Tensor:
    """1 where a text matches the form of its task as a whole, else 0, `(b,)`."""
    forms = [CAPTION_FORM if group == "describe" else POSE_FORM for group in batch["group"]]
    return torch.tensor(
        [float(re.fullmatch(form, text) is not None) for form, text in zip(forms, texts)]
    )
