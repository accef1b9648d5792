"""Retrievers: how well a caption and a pose go together, as PoseScript's (Delmas et al. 2022,
2210.11795), in miniature.

Texts are bags of hashed word n-grams; poses are rotations (A, the reward) or joints (B, the judge).
A and B were trained on different poses and captions, with different features and hashes.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Literal

import torch
from rewardft_plugins.posert.rotations import SIZE, joints, pack, unpack
from rewardft_plugins.posert.weights import ASSETS, load_weights, save_weights
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from rewardft.errors import ComponentError, did_you_mean
from rewardft.files.paths import Place

Features = Literal["rotations", "joints"]
GRAMS = 3  # words in a row, at most
REWARD: tuple[Features, int] = ("rotations", 0)
JUDGE: tuple[Features, int] = ("joints", 1)
SHIPPED = {"shipped_a": REWARD, "shipped_b": JUDGE}
RetrieverWeights = Annotated[str, Place(words=tuple(SHIPPED))]
"""One of `SHIPPED`, or a file that `rewardft posert train-retriever` has written."""


class Retriever(nn.Module):
    """Texts and poses into one space of unit vectors; calling it gives their cosines `(b,)`.

    Args:
        features: what it reads of a pose: `rotations` or `joints`.
        salt: of the hashes.
        buckets, width, size: of n-grams, of the layers, and of the space.
    """

    def __init__(
        self,
        features: Features = "rotations",
        salt: int = 0,
        buckets: int = 512,
        width: int = 64,
        size: int = 48,
    ) -> None:
        super().__init__()
        self.features, self.salt, self.buckets = features, salt, buckets
        entered = SIZE if features == "rotations" else 27 * 3
        self.words = nn.EmbeddingBag(buckets, width, mode="sum")
        self.text_layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, size))
        self.pose_layers = nn.Sequential(
            nn.Linear(entered, 2 * width),
            nn.SiLU(),
            nn.Linear(2 * width, width),
            nn.SiLU(),
            nn.Linear(width, size),
        )
        self.scale = nn.Parameter(torch.tensor(2.5))  # logarithm of the inverse temperature

    def text(self, texts: list[str]) -> Tensor:
        """Unit vectors `(b, size)`."""
        grams = [self.grams(text) for text in texts]
        # EmbeddingBag takes all bags in a row and where each begins; an empty bag sums to 0.
        starts = torch.tensor([0, *[len(g) for g in grams[:-1]]]).cumsum(0)
        flat = torch.tensor([g for row in grams for g in row], dtype=torch.long)
        device = self.words.weight.device
        return normalize(self.text_layers(self.words(flat.to(device), starts.to(device))), dim=-1)

    def pose(self, pose: Tensor) -> Tensor:
        """Unit vectors `(b, size)` of vectors `(b, 132)`; differentiable."""
        # Through `unpack`, so that a sample that is not a rotation is read as the nearest one.
        seen = pack(unpack(pose)) if self.features == "rotations" else joints(pose).flatten(1)
        return normalize(self.pose_layers(seen), dim=-1)

    def forward(self, texts: list[str], pose: Tensor) -> Tensor:
        return (self.text(texts) * self.pose(pose.float())).sum(-1)

    def grams(self, text: str) -> list[int]:
        """Hash buckets of the n-grams of each part between commas; an empty text has none."""
        found = []
        for part in text.lower().replace(".", " ").split(","):
            words = part.split()
            for count in range(1, GRAMS + 1):
                for start in range(len(words) - count + 1):
                    gram = f"{self.salt} {' '.join(words[start : start + count])}"
                    # Not Python's own hash, which differs from process to process.
                    found.append(zlib.crc32(gram.encode()) % self.buckets)
        return found

    def save(self, path: Path) -> None:
        """Write the weights as float16."""
        save_weights(self, path)


def load_retriever(given: str) -> Retriever:
    """One of `SHIPPED`, or a file that `rewardft posert train-retriever` has written.

    Raises ComponentError where there is none.
    """
    if given not in SHIPPED and Path(given).suffix != ".safetensors":
        raise ComponentError(
            f"a retriever is {' or '.join(SHIPPED)}, or a .safetensors file; got {given!r}."
            f"{did_you_mean(Path(given).name, SHIPPED)}"
        )
    path = Path(given).expanduser()
    # Shipped ones by name, so that a recipe does not depend on where the package lies.
    path = ASSETS / f"retriever_{given[-1]}.safetensors" if given in SHIPPED else path
    retriever = Retriever(*(SHIPPED[given] if given in SHIPPED else kind_of(path)))
    load_weights(retriever, path)
    return retriever.requires_grad_(False).eval()


def kind_of(path: Path) -> tuple[Features, int]:
    """Features and salt of the retriever in a file, by what its first layer of poses takes. Raises
    ComponentError for a file that cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            # Only the shape is read, not the weights.
            entered = file.get_slice("pose_layers.0.weight").get_shape()[1]
    except (OSError, SafetensorError) as error:
        raise ComponentError(
            f"{path}: expected a retriever, as `rewardft posert train-retriever` writes it "
            f"({error})"
        ) from error
    return REWARD if entered == SIZE else JUDGE
