"""`aesthetic`: LAION's predictor of how people rate an image, a head on CLIP's image embedding."""

from __future__ import annotations

from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import Weights
from rewardft.types import Batch, Rollout

from .clip import Clip, ClipSource, Precision
from .images import pixels_of
from .weights import linear_stack, locate_file, read_tensors


class Aesthetic(nn.Module):
    """Predicted rating `(b,)`, trained on ratings of 1 to 10 and not clipped to them. It reads no
    prompt.

    The head is a stack of linear layers on the unit embedding of CLIP ViT-L/14:
    768-1024-128-64-16-1 for the "improved" predictor, 768-1 for the first one. Its sizes are read
    from the file.

    Args:
        head: safetensors file, folder or hub id; docs/rewards.md says how to convert the published
            one.
        head_file: its name there, where `head` is a folder or a hub id.
        head_revision: revision of a hub id.
        clip, revision, quantise, precision: the CLIP, see `ClipSource`.
    """

    provides = frozenset({"reward_gradient"})
    space, range = "pixels", (-float("inf"), float("inf"))

    def __init__(
        self,
        head: Weights,
        head_file: str = "model.safetensors",
        head_revision: str | None = None,
        clip: Weights = "openai/clip-vit-large-patch14",
        revision: str | None = None,
        quantise: bool = False,
        precision: Precision = "float32",
    ) -> None:
        super().__init__()
        path = locate_file(head, head_file, head_revision, "aesthetic")
        self.head = linear_stack(
            read_tensors(path, "aesthetic"), f"aesthetic: {path}"
        ).requires_grad_(False)
        self.clip = Clip(
            ClipSource(clip, revision, quantise=quantise, precision=precision),
            "aesthetic",
            texts=False,
        )
        # Only the width can be checked: another CLIP of this width gives ratings without meaning.
        reads, given = self.head[0].in_features, self.clip.model.config.projection_dim
        if reads != given:
            raise ComponentError(
                f"aesthetic: the head {path} reads embeddings of {reads} numbers, the CLIP "
                f"{clip!r} gives {given}. LAION's published heads of 768 go with CLIP ViT-L/14."
            )
        self.eval()

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        # (b, 768) unit vectors for ViT-L/14, as the head was trained on.
        embedding = self.clip.images(pixels_of(rollout, "aesthetic"))
        rating: Tensor = self.head(embedding)
        return rating.squeeze(1)
