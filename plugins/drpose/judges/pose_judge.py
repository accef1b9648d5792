"""`pose_judge`: held-out metrics on decoded pixels, independent of the reward.

The judge shares nothing with PoseScore: it looks at pixels, not latents; its network has another
architecture, another seed and other targets (3D joints and body parts, not skeleton maps). It is
used for evaluation only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from rewardft_plugins.drpose.model.attention import BODY_VIEWS, DOMAINS
from rewardft_plugins.drpose.weights import freeze, load_network, locate, save_network
from rewardft_plugins.humans.body import JOINTS, PARTS
from rewardft_plugins.humans.camera import HALF_EXTENT, MIRRORED, view_axes
from rewardft_plugins.humans.positions import expected_position
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped
from rewardft.types import Batch, Rollout

# A unit normal n is painted (n + 1) / 2 on white: its darkest channel is 0.21 to 1 below white, an
# edge pixel's less. This margin agrees best with the labels after decoding: IoU 0.92 on rendered
# truth, 0.87 through the autoencoder.
BACKGROUND_MARGIN = 0.3
VIEW_FLOOR = 0.05  # every view keeps some weight in the triangulation, so that it stays well-posed


def silhouettes(normals: Tensor) -> Tensor:
    """Foreground of normal maps `(..., 3, s, s)` on white -> `(..., s, s)` bool."""
    return normals.amin(dim=-3) < 1 - BACKGROUND_MARGIN


def silhouette_iou(normals: Tensor, labels: Tensor) -> Tensor:
    """Intersection over union with the rendered truth, mean over views.

    normals: `(n, v, 3, s, s)` in [0, 1]. labels: `(n, v, s, s)`, 0 = background. Returns `(n,)` in
        [0, 1].
    """
    # (n, v, s, s) bool.
    found, truth = silhouettes(normals), labels > 0
    union = (found | truth).flatten(2).sum(-1)
    return ((found & truth).flatten(2).sum(-1) / union.clamp_min(1)).mean(1)


def gradient_energy(pictures: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels along both axes: `(n, ...)` -> `(n,)`."""
    down, across = torch.diff(pictures, dim=-2), torch.diff(pictures, dim=-1)
    return down.square().flatten(1).mean(1) + across.square().flatten(1).mean(1)


def sharpness(normals: Tensor, truth: Tensor) -> Tensor:
    """Gradient energy of normal maps `(n, v, 3, s, s)` against the truth's, `(n,)`.

    1 is as sharp as the truth; clouds in place of limbs are below it, speckles above.
    """
    return gradient_energy(normals) / gradient_energy(truth).clamp_min(1e-12)


def part_iou(parts: Tensor, labels: Tensor) -> Tensor:
    """Mean IoU over the body parts that the truth shows, with the pixels of all views pooled; the
    background does not count.

    parts, labels: `(n, v, s, s)` integers. Returns `(n,)` in [0, 1].
    """
    total = torch.zeros(len(parts), device=parts.device)
    count = torch.zeros_like(total)
    for part in range(1, len(PARTS)):
        found, truth = (parts == part).flatten(1), (labels == part).flatten(1)
        # A part that no view shows has no IoU, and none of 0.
        shown = truth.any(1)
        iou = (found & truth).sum(1) / (found | truth).sum(1).clamp_min(1)
        total, count = total + iou * shown, count + shown
    return total / count.clamp_min(1)


def triangulate(points: Tensor, weights: Tensor) -> Tensor:
    """3D joints from their places in the six stored views, by weighted least squares.

    points: `(n, 6, j, 2)` in [-1, 1], mirrored where stored so. weights: `(n, 6, j)`, positive.
    Returns `(n, j, 3)` metres in the frame of the condition camera.
    """
    # Least squares in the ground plane: each view gives one equation x_v = axis_v . (x, z) for
    # every joint. Heights are the same in all views, so y is their weighted mean.
    axes = torch.as_tensor(view_axes()[0], device=points.device)
    signs = torch.where(torch.tensor(MIRRORED, device=points.device), -1.0, 1.0)
    ground = (axes * signs[:, None])[:, [0, 2]]  # (6, 2): image x of a view as a function of (x, z)
    matrix = torch.einsum("nvj,va,vb->njab", weights, ground, ground)
    vector = torch.einsum("nvj,va,nvj->nja", weights, ground, points[..., 0])
    a, b, d = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 1, 1]
    det = (a * d - b * b).clamp_min(1e-8)
    # The 2 x 2 normal equations, solved by Cramer's rule.
    x = (d * vector[..., 0] - b * vector[..., 1]) / det
    z = (a * vector[..., 1] - b * vector[..., 0]) / det
    y = -(weights * points[..., 1]).sum(1) / weights.sum(1)
    return torch.stack([x, y, z], dim=-1) * HALF_EXTENT


def mpjpe_mm(found: Tensor, truth: Tensor) -> Tensor:
    """Mean per-joint position error in millimetres, pelvis to pelvis: `(n, j, 3)` metres, twice ->
    `(n,)`."""
    difference = (found - found[:, :1]) - (truth - truth[:, :1])
    return 1000 * difference.norm(dim=-1).mean(-1)


def _layer(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()
    )


class JudgeNet(nn.Module):
    """Six normal maps -> 3D joints and body parts.

    A convolutional encoder, shared by the views and told which it sees, places every joint in each
    view (the mean of a softmax over positions, and a confidence); `triangulate` joins the views. A
    second head labels body parts.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        w = width
        self.view = nn.Parameter(torch.zeros(BODY_VIEWS, 2 * w, 1, 1))
        # Half the resolution without losing a pixel: four neighbours become channels.
        self.enter = nn.Sequential(nn.PixelUnshuffle(2), _layer(12, 2 * w))
        self.at2 = _layer(2 * w, 2 * w)
        self.at4 = nn.Sequential(_layer(2 * w, 3 * w, 2), _layer(3 * w, 3 * w))
        self.at8 = nn.Sequential(
            _layer(3 * w, 4 * w, 2), _layer(4 * w, 4 * w), _layer(4 * w, 4 * w)
        )
        self.at16 = nn.Sequential(
            _layer(4 * w, 6 * w, 2), _layer(6 * w, 6 * w), _layer(6 * w, 4 * w)
        )
        self.up8, self.up4, self.up2 = (
            _layer(4 * w, 3 * w),
            _layer(3 * w, 2 * w),
            _layer(2 * w, 2 * w),
        )
        self.joints = nn.Conv2d(2 * w, len(JOINTS), 1)
        self.confidence = nn.Linear(4 * w, len(JOINTS))
        self.parts = nn.Sequential(
            nn.Conv2d(2 * w, 4 * len(PARTS), 3, padding=1), nn.PixelShuffle(2)
        )

    @property
    def config(self) -> dict[str, int]:
        return {"width": self.width}

    def forward(self, normals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normals `(n, 6, 3, 64, 64)` in [0, 1], as stored.

        Returns joints `(n, 23, 3)` in metres, their places `(n, 6, 23, 2)` in [-1, 1] and part
        logits `(n, 6, 15, 64, 64)`.
        """
        count = normals.shape[:2]
        # White becomes 0, which is what convolutions pad with.
        x = self.enter(1 - normals.flatten(0, 1))
        half = self.at2((x.unflatten(0, count) + self.view).flatten(0, 1))
        quarter = self.at4(half)
        eighth = self.at8(quarter)
        deep = self.at16(eighth)
        up = self.up4(_grow(self.up8(_grow(deep) + eighth)) + quarter)
        features = self.up2(_grow(up) + half)
        # float32: a place is a small difference between sums over thousands of pixels.
        places = expected_position(self.joints(features).float()).unflatten(0, count)
        # (n, 6, 23): how far each view is trusted with each joint.
        scores = self.confidence(deep.mean((2, 3))).float().unflatten(0, count)
        weights = scores.softmax(dim=1) + VIEW_FLOOR
        return triangulate(places, weights), places, self.parts(features).unflatten(0, count)

    def save(self, folder: Path, *, half: bool = False) -> None:
        """Write judge.json and judge.safetensors."""
        save_network(self, folder, "judge", half=half)

    @classmethod
    def load(cls, folder: Path) -> JudgeNet:
        """Read what `save` wrote. Raises `ComponentError` when something is missing or does not
        fit."""
        return load_network(cls, folder, "judge")


def _grow(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class PoseJudge:
    """Metric: per-sample tables `iou`, `part_iou`, `sharpness` (higher is better) and `mpjpe_mm`
    (lower is better), each `(n,)`.

    Batches need `normals`, `labels` and `joints`: a data set with targets.

    Args:
        weights: folder of a judge network, or "shipped".
    """

    needs = frozenset({"multiview"})
    higher_is_better = {"iou": True, "part_iou": True, "mpjpe_mm": False, "sharpness": True}

    def __init__(self, weights: PathOrShipped = "shipped") -> None:
        self.net = JudgeNet.load(locate(weights, "judge"))
        freeze(self.net)
        self.reset()

    def reset(self) -> None:
        self._tables: dict[str, list[Tensor]] = {name: [] for name in self.higher_is_better}

    def update(self, rollout: Rollout, batch: Batch) -> None:
        """Judge the decoded normals `(b, 12 or 14, 3, s, s)` of finished samples."""
        for name in ("labels", "joints", "normals"):
            if name not in batch:
                raise ComponentError(
                    f"pose_judge needs the column {name!r}: give the data set `targets: true`"
                )
        pixels = rollout.decoded
        # Normals come first, colours second; a face crop follows the six body views.
        normals = pixels[:, : pixels.shape[1] // DOMAINS][:, :BODY_VIEWS].float()
        values = self.judge(normals, batch["labels"], batch["joints"])
        values["sharpness"] = sharpness(normals, batch["normals"].to(normals.device))
        for name, value in values.items():
            self._tables[name].append(value.cpu())

    @torch.no_grad()
    def judge(self, normals: Tensor, labels: Tensor, joints: Tensor) -> dict[str, Tensor]:
        """Normals `(n, 6, 3, 64, 64)`, labels `(n, 6, 64, 64)`, joints `(n, 23, 3)` in metres ->
        all tables except `sharpness`."""
        self.net.to(normals.device)
        # Evaluations may run on another device than the data's.
        labels, joints = labels.to(normals.device), joints.to(normals.device)
        with torch.autocast(normals.device.type, enabled=False):
            found, _, parts = self.net(normals)
        return {
            "iou": silhouette_iou(normals, labels),
            "part_iou": part_iou(parts.argmax(2), labels),
            "mpjpe_mm": mpjpe_mm(found, joints),
        }

    def compute(self) -> Mapping[str, Tensor]:
        return {
            name: torch.cat(values) if values else torch.zeros(0)
            for name, values in self._tables.items()
        }
