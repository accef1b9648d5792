"""Training of the networks behind `joint_regression` and `silhouette_score`: a new last level on
g_skel's others.

As g_skel itself, they see disturbed latents of the truth and learn the distance that the reward
uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from rewardft_plugins.drpose.rewards.forms import draw_silhouettes, joint_distance
from rewardft_plugins.drpose.rewards.pose_score import pyramid_distance, skeleton_loss
from rewardft_plugins.drpose.rewards.skeleton_net import SkeletonNet
from rewardft_plugins.drpose.training.fit import FitOptions, Report, fit
from rewardft_plugins.drpose.training.nets import Encoded, columns, disturb
from rewardft_plugins.humans.body import JOINTS, Body
from rewardft_plugins.humans.camera import HALF_EXTENT
from torch import Tensor

from rewardft.contracts.protocols import Dataset


@dataclass(frozen=True)
class Form:
    """What a network reads (a key of `READINGS`), from how many maps, and the distance `(b,)` of
    logits to the truth.

    measure: the held-out quality of logits against the truth, by name, `(b,)` each.
    """

    reads: str
    maps: int
    distance: Callable[[Tensor, Tensor], Tensor]
    measure: Callable[[Tensor, Tensor], dict[str, Tensor]]


def silhouette_distance(logits: Tensor, truth: Tensor) -> Tensor:
    """PoseScore's distance with its default weights."""
    return skeleton_loss(logits, truth, 1.0, 1.0, pyramid_distance)


def joint_error(logits: Tensor, joints2d: Tensor) -> dict[str, Tensor]:
    """Mean distance in the picture plane, in millimetres."""
    return {"error_mm": 1000 * HALF_EXTENT * joint_distance(logits, joints2d)}


def silhouette_overlap(logits: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Intersection over union of what is covered by half or more, mean over views."""
    # A logit of 0 is a probability of one half.
    found, wanted = logits >= 0, truth >= 0.5
    # (b, 6): over the pixels of each view.
    union = (found | wanted).flatten(2).sum(-1)
    return {"iou": ((found & wanted).flatten(2).sum(-1) / union.clamp_min(1)).mean(1)}


FORMS = {
    "joints": Form("joints", len(JOINTS), joint_distance, joint_error),
    "silhouettes": Form("silhouettes", 1, silhouette_distance, silhouette_overlap),
}


def draw_truth(form: Form, data: Encoded, dataset: Dataset, body: Body) -> Tensor:
    """What the form's network must read off `data`, the encoded first samples of the data set.

    Joints `(n, 6, 23, 2)`; silhouettes `(n, 6, 1, s, s)` in [0, 1], s twice the latents' size.
    """
    if form.reads == "joints":
        return data.joints2d
    # g_skel's maps are twice as fine as the latents.
    size, parts = 2 * data.latents.shape[-1], []
    for start in range(0, len(data), 64):
        rows = range(start, min(start + 64, len(data)))
        poses, betas, offsets = columns(dataset, rows, ("pose", "betas", "offset"))
        parts.append(draw_silhouettes(body, poses, betas, offsets, size))
    return torch.cat(parts)


def train_form(
    form: Form,
    skeleton: SkeletonNet,
    sets: Sequence[tuple[Encoded, Tensor]],
    options: FitOptions,
    report: Report,
) -> SkeletonNet:
    """Train a fork of `skeleton` on disturbed latents of the truth.

    sets: encoded samples with their truth (`draw_truth`), pooled.
    """
    torch.manual_seed(options.seed)
    model = skeleton.fork(form.maps, form.reads)
    # Pooled: a set counts by its size.
    latents = torch.cat([data.latents for data, _ in sets])
    truth = torch.cat([truth for _, truth in sets])

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(latents), (options.batch,), generator=generator)
        logits = model(disturb(latents[rows].float(), generator)).float()
        return form.distance(logits, truth[rows]).mean()

    fit(model, loss_of, options, report)
    return model


@torch.no_grad()
def form_quality(form: Form, model: SkeletonNet, data: Encoded, truth: Tensor) -> dict[str, float]:
    """The form's measures on clean latents, mean over samples."""
    values: dict[str, list[Tensor]] = {}
    for start in range(0, len(data), 32):
        logits = model(data.latents[start : start + 32].float())
        for name, value in form.measure(logits, truth[start : start + 32]).items():
            values.setdefault(name, []).append(value)
    return {name: torch.cat(parts).mean().item() for name, parts in values.items()}
