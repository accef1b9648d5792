"""`mesh_judge`: the paper's columns on geometry and appearance, for meshes made from the views.

DrPose (arXiv 2603.02619) carves a mesh out of the generated views and reports its Chamfer distance
and the PSNR of its renderings. Here a body is fitted to the views (`mesh/fit.py`) and compared with
the body that was rendered. Nothing is aligned or scaled first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import torch
from rewardft_plugins.drpose.mesh.reconstruct import Reconstructor, true_mesh
from rewardft_plugins.drpose.model.sampler import split_domains
from rewardft_plugins.drpose.weights import SHIPPED, freeze
from rewardft_plugins.humans.body import OPEN_BODIES
from rewardft_plugins.humans.distances import compare
from rewardft_plugins.humans.mesh import Mesh, stored_views
from torch import Tensor

from rewardft.errors import ComponentError
from rewardft.files.paths import PathOrShipped, Place
from rewardft.types import Batch, Rollout

NEEDED = ("pose", "betas", "offset", "colours")
HIGHER_IS_BETTER = {
    "chamfer_mm": False,
    "p2s_mm": False,
    "normal_consistency": True,
    "psnr": True,
    "ssim": True,
}


class MeshJudge:
    """Metric: per-sample tables, each `(n,)`.

    chamfer_mm: mean of the distances from the mesh to the true surface and back. p2s_mm: from the
        true surface to the mesh. normal_consistency: mean cosine of the normals of nearest points,
        in [-1, 1].
    psnr (dB), ssim: of the coloured mesh in the six views against the rendered truth. lpips: the
        same, where `lpips_weights` is given.

    Args:
        weights: folder of the judge whose joints a fit starts from, or "shipped".
        body: who is fitted and who is the truth: the body that the data set was built with.
        lpips_weights: network of torchmetrics' LPIPS ("alex", "vgg", "squeeze") where torchvision
            and its weights are installed.

    Raises `ComponentError` when weights or LPIPS do not load, `DataError` when the body does not.
    """

    needs = frozenset({"multiview"})

    def __init__(
        self,
        weights: PathOrShipped = SHIPPED,
        body: Annotated[str, Place(words=OPEN_BODIES)] | None = None,
        lpips_weights: str | None = None,
    ) -> None:
        # Loaded when first used, as body and judge take seconds.
        self._options = (body, weights)
        self._lpips = None if lpips_weights is None else _lpips(lpips_weights)
        self.higher_is_better = dict(HIGHER_IS_BETTER)
        if self._lpips is not None:
            self.higher_is_better["lpips"] = False
        self.reset()

    @cached_property
    def reconstruct(self) -> Reconstructor:
        return Reconstructor(*self._options)

    def reset(self) -> None:
        self._rows: list[dict[str, float]] = []

    def update(self, rollout: Rollout, batch: Batch) -> None:
        """Fit and compare the decoded views `(b, 12 or 14, 3, s, s)` of finished samples."""
        # Asked for every batch: columns of a data set are known only when it gives them.
        missing = [name for name in NEEDED if name not in batch]
        if missing:
            raise ComponentError(
                f"mesh_judge needs the columns {', '.join(missing)}: give the data set "
                "`targets: true`"
            )
        normals, colours = split_domains(rollout.decoded)
        truth = true_mesh(self.reconstruct.body, batch["pose"], batch["betas"], batch["offset"])
        found = self.reconstruct(normals, colours).meshes
        shown = batch["colours"].detach().float().cpu()
        self._rows += [self.judge(*triple) for triple in zip(found, truth, shown)]

    @torch.no_grad()
    def judge(self, found: Mesh, truth: Mesh, colours: Tensor) -> dict[str, float]:
        """One mesh against the true one and the true colours `(6, 3, s, s)` in [0, 1]."""
        from torchmetrics.functional.image import (
            peak_signal_noise_ratio,
            structural_similarity_index_measure,
        )

        # No alignment: a body in the wrong place is wrong.
        distance = compare(found, truth)
        # Unlit, as the colours were read off: no light is guessed.
        painted = torch.from_numpy(stored_views(found, colours.shape[-1])[1]).float() / 255
        values = {
            "chamfer_mm": distance.chamfer,
            "p2s_mm": distance.p2s,
            "normal_consistency": distance.consistency,
            "psnr": float(peak_signal_noise_ratio(painted, colours, data_range=1.0)),
            "ssim": float(
                torch.as_tensor(
                    structural_similarity_index_measure(painted, colours, data_range=1.0)
                )
            ),
        }
        if self._lpips is not None:
            values["lpips"] = float(self._lpips(painted, colours))
        return values

    def compute(self) -> Mapping[str, Tensor]:
        return {
            name: torch.tensor([row[name] for row in self._rows]) for name in self.higher_is_better
        }


def _lpips(network: Any) -> Any:
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        # normalize: pictures in [0, 1] are brought to the [-1, 1] that its networks take.
        metric = LearnedPerceptualImagePatchSimilarity(network, normalize=True)
    except (ImportError, ValueError) as error:
        raise ComponentError(
            f"mesh_judge: lpips_weights {network!r} cannot be used: {error}\nInstall torchvision "
            "and its weights, or leave lpips_weights out."
        ) from error
    return freeze(metric)
