"""The rewards of Pose-RFT (2508.07804, equations 7 to 10)."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any

import torch
from rewardft_plugins.posert.retriever import RetrieverWeights, load_retriever
from rewardft_plugins.posert.rotations import joints
from rewardft_plugins.posert.text import CAPTION_FORM, POSE_FORM
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Positive
from rewardft.types import Batch, Rollout

BUCKETS = 1024
GRAMS = 2  # words in a row of the default embedding, at most


class JointAccuracy:
    """Image -> pose: 1 / max(error, floor), `(b,)` in 1/metres, at most 1 / floor (equation 7).

    The error is the mean distance of the root-relative joints from the truth. The paper's reward
    has no floor, and no bound near 0. Not applicable (NaN) to other tasks and to answers without a
    pose.

    Args:
        floor: metres, > 0.
    """

    def __init__(self, floor: Positive = 0.02) -> None:
        if floor <= 0:
            raise ComponentError(f"joint_accuracy: floor must be above 0, got {floor}")
        self.floor = floor

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        found = rollout.decoded
        # (b, 27, 3) metres from the pelvis, by the same body as the answer's.
        truth = joints(batch["pose"].to(found["pose"]))
        # Both have the pelvis at the origin.
        error = (found["joints"] - truth).norm(dim=-1).mean(-1)
        # NaN and not 0: an answer without a pose is the format's affair.
        applies = of_task(batch, "image", error.device) & found["valid"]
        return torch.where(applies, 1 / error.clamp(min=self.floor), torch.nan)


class PoseTextSimilarity(nn.Module):
    """Text -> pose: cosine of caption and pose in a retriever's space, `(b,)` in [-1, 1] (equation
    8). Not applicable to other tasks and to answers without a pose.

    Args:
        retriever: `shipped_a`, `shipped_b` (the judge of `pose_answers`), or a path.
    """

    def __init__(self, retriever: RetrieverWeights = "shipped_a") -> None:
        super().__init__()
        self.retriever = load_retriever(retriever)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        found = rollout.decoded
        similarity = self.retriever(batch["caption"], found["pose"])
        applies = of_task(batch, "text", similarity.device) & found["valid"]
        return torch.where(applies, similarity, torch.nan)


class Format:
    """1 where an answer matches its form as a whole, else 0, `(b,)` (equation 9).

    Args:
        pose, caption: regular expressions of answers with a pose, and of those to pose -> text.
    """

    def __init__(self, pose: str = POSE_FORM, caption: str = CAPTION_FORM) -> None:
        self.forms = {"pose": compiled("pose", pose), "caption": compiled("caption", caption)}

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        texts = rollout.decoded["text"]
        names = ["caption" if group == "describe" else "pose" for group in batch["group"]]
        # As a whole: the form in the middle of babble is not the form.
        right = [self.forms[name].fullmatch(text) for name, text in zip(names, texts)]
        return torch.tensor([float(found is not None) for found in right]).to(rollout.x0["pose"])


class AnswerSimilarity:
    """Cosine between an answer and the wanted one, `(b,)` in [-1, 1] (equation 10).

    Args:
        model: folder of a transformers text encoder, whose first token is the text's embedding, as
            BGE-M3's (the paper's) is; null: bags of words and of pairs of words, without weights.
    """

    def __init__(self, model: Path | None = None) -> None:
        self.embed = bags_of_words if model is None else TextEncoder(model)

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        # Texts have no gradient, so neither has this reward.
        said, wanted = self.embed(rollout.decoded["text"]), self.embed(batch["reference"])
        return cosine_similarity(said, wanted, dim=-1).to(rollout.x0["pose"])


class TextEncoder:
    """A transformers encoder and its tokenizer: texts -> `(b, h)`. Raises ComponentError for a
    folder without them."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self.model: Any = AutoModel.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ComponentError(
                f"answer_similarity: expected a folder with a text encoder of transformers and its "
                f"tokenizer at {folder} ({error})"
            ) from error
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        entered = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        # The first token's state, as BGE-M3 is trained.
        states: Tensor = self.model(**entered).last_hidden_state
        return states[:, 0]


def bags_of_words(texts: list[str]) -> Tensor:
    """Counts of words and of pairs of words, hashed, `(b, 1024)`."""
    bags = torch.zeros(len(texts), BUCKETS)
    for row, text in enumerate(texts):
        # `<POSE>` counts as a word: an answer without it is another answer.
        words = re.findall(r"<POSE>|\w+", text)
        for count in range(1, GRAMS + 1):
            for start in range(len(words) - count + 1):
                gram = " ".join(words[start : start + count])
                bags[row, zlib.crc32(gram.encode()) % BUCKETS] += 1
    return bags


def of_task(batch: Batch, task: str, device: torch.device | None = None) -> Tensor:
    """Which items are of a task, `(b,)` bool."""
    return torch.tensor([group == task for group in batch["group"]], device=device)


def compiled(name: str, form: str) -> re.Pattern[str]:
    """Raises ComponentError for anything but a regular expression."""
    try:
        return re.compile(form)
    except re.error as error:
        raise ComponentError(
            f"format: {name} is not a regular expression: {form!r} ({error})"
        ) from error
