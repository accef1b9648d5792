"""Frozen encoders: what a picture becomes before the projector makes tokens of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.types import Batch

LANDMARKS = 33


class Encoder(Protocol):
    """A frozen module: a batch -> features `(b, tokens, size)`."""

    tokens: int
    size: int

    def __call__(self, batch: Batch) -> Tensor: ...


class LandmarkEncoder(nn.Module):
    """The landmarks of BlazePose, which saw the picture when the data set was built: one vector.
    Nothing is learned.

    Columns: `landmarks` `(b, 33, 4)` x, y, z in half widths of the picture and visibility, `world`
    `(b, 33, 3)` metres from the middle of the hips, `turned` `(b, 2)` the direction of the
    detector's crop.
    """

    tokens = 1
    size = LANDMARKS * 7 + 2

    def forward(self, batch: Batch) -> Tensor:
        missing = [name for name in ("landmarks", "world", "turned") if name not in batch]
        if missing:
            raise ComponentError(
                f"pose_lm with `vision: landmarks` needs the column {missing[0]!r}: a data set "
                "such as `pose_dialogues`"
            )
        # Brought to a size near 1, as the projector's first layer expects.
        parts = [2 * batch["landmarks"].flatten(1), batch["world"].flatten(1) / 0.4]
        return torch.cat([*parts, batch["turned"]], dim=1).float()[:, None]


class PictureEncoder(nn.Module):
    """CLIP's patches and a pose-aware encoder's, as in the paper: features of the same picture,
    side by side.

    Args:
        clip: folder of a transformers `CLIPVisionModel`; patches of its last layer but one, as
            LLaVA takes them.
        pose: folder of any transformers vision model that gives `last_hidden_state`; the paper's is
            the ViT of HMR2.0. Its mean is put beside every patch of CLIP.

    Column: `picture` `(b, 3, s, s)` in [0, 1], s as CLIP's configuration has it.
    """

    def __init__(self, clip: Path, pose: Path | None) -> None:
        super().__init__()
        from transformers import AutoModel, CLIPVisionModel

        self.clip = _load(CLIPVisionModel, clip)
        self.pose = None if pose is None else _load(AutoModel, pose)
        config = self.clip.config
        self.tokens = (config.image_size // config.patch_size) ** 2
        self.size = config.hidden_size + (0 if self.pose is None else self.pose.config.hidden_size)
        self.side = config.image_size
        mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)
        self.requires_grad_(False).eval()

    def forward(self, batch: Batch) -> Tensor:
        if "picture" not in batch:
            raise ComponentError("pose_lm with `vision: clip` needs the column `picture`")
        picture = batch["picture"].float()
        if tuple(picture.shape[1:]) != (3, self.side, self.side):
            raise ComponentError(
                f"pose_lm with this CLIP needs pictures (3, {self.side}, {self.side}), got "
                f"{tuple(picture.shape[1:])}"
            )
        pixels = (picture - self.mean) / self.deviation
        # Without the class token: patches say where things are.
        seen = self.clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        if self.pose is None:
            return seen
        # One vector for the whole person beside each patch: its patches need not be CLIP's.
        body = self.pose(pixel_values=pixels).last_hidden_state.mean(1, keepdim=True)
        return torch.cat([seen, body.expand(-1, seen.shape[1], -1)], dim=-1)


def _load(kind: Any, folder: Path) -> Any:
    """A transformers model from a folder on this machine. Raises ComponentError where there is
    none."""
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ComponentError(
            f"{folder}: expected a folder with a {kind.__name__} of transformers ({error})"
        ) from error
