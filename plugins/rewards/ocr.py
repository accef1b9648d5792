"""`ocr_accuracy`: how much of the text that a sample should show can be read in it.

With N_e the fewest letters to insert, delete or replace between what is read and what is wanted,
and N_ref the letters wanted, the score is that of Flow-GRPO (Liu et al. 2025, 2505.05470):

    r = max(1 - N_e / N_ref, 0)
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rewardft.errors import RewardError, did_you_mean
from rewardft.recipe.bounds import Count, Fraction
from rewardft.types import Batch, Rollout

from .images import pixels_of, to_bytes
from .readers import RapidReader, TextReader

QUOTED = re.compile(r'"([^"]*)"|\u201c([^\u201d]*)\u201d')  # straight or typographic


class OcrAccuracy:
    """The text in a sample against the text in its row of the data set, `(b,)`, in [0, 1].

    Texts are compared in Unicode's compatibility form (NFKC), without case, and letter by letter
    without blanks. NaN (not applicable) where no text is wanted; a picture without text counts 0.
    There is no gradient.

    Args:
        column: of the batch, with the text that a sample should show; empty: none.
        quoted: the text is what the column has in double quotes, as prompts often do.
        form: `edits`, the formula above; `words`: the share of the wanted words that are read.
        anywhere: N_e is to the nearest part of what is read, so that other text costs nothing.
        case: capitals differ from small letters.
        confidence: lines that the engine is less sure of, in [0, 1], are not read.
        side: the shorter side of smaller pictures is enlarged to it before text is looked for; less
            is faster, and small text is missed.
        detector, recogniser: .onnx files in place of the networks that come with RapidOCR.
    """

    provides: frozenset[str] = frozenset()
    space: str = "pixels"
    range = (0.0, 1.0)

    def __init__(
        self,
        column: str = "text",
        quoted: bool = False,
        form: Literal["edits", "words"] = "edits",
        anywhere: bool = False,
        case: bool = False,
        confidence: Fraction = 0.5,
        side: Count = 736,
        detector: Path | None = None,
        recogniser: Path | None = None,
    ) -> None:
        self.column, self.quoted, self.form = column, quoted, form
        self.anywhere, self.case = anywhere, case
        self.reader: TextReader = RapidReader(detector, recogniser, confidence, side)

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        pixels = pixels_of(rollout, "ocr_accuracy").detach()
        wanted = texts_of(batch, self.column, self.quoted)
        scores = [self.score(text, sample) for text, sample in zip(wanted, pixels)]
        return torch.tensor(scores, dtype=torch.float32, device=pixels.device)

    def score(self, wanted: str, sample: Tensor) -> float:
        """Of one sample `(3, h, w)`; NaN where nothing is wanted."""
        letters, words = self.parts(wanted)
        if not (words if self.form == "words" else letters):
            return float("nan")
        read, read_words = self.parts(" ".join(self.reader(to_bytes(sample))))
        if self.form == "words":
            # As often as they are wanted: one "no" is half of "no no".
            return (Counter(words) & Counter(read_words)).total() / len(words)
        return max(1 - fewest_edits(read, letters, self.anywhere) / len(letters), 0.0)

    def parts(self, text: str) -> tuple[str, list[str]]:
        """The letters without blanks, and the words without punctuation."""
        text = unicodedata.normalize("NFKC", text)
        text = text if self.case else text.casefold()
        return "".join(text.split()), re.findall(r"\w+", text)


def fewest_edits(read: str, wanted: str, anywhere: bool = False) -> int:
    """Levenshtein's distance; with `anywhere`, of `wanted` to the nearest part of `read` (Sellers
    1980)."""
    # row[i]: the edits between the first i wanted letters and what has been read so far.
    row = list(range(len(wanted) + 1))
    best = row[-1]
    for count, letter in enumerate(read, 1):
        # The part may begin at any letter, so what came before it is free.
        new = [0 if anywhere else count]
        for i, other in enumerate(wanted, 1):
            new.append(min(row[i] + 1, new[i - 1] + 1, row[i - 1] + (letter != other)))
        row = new
        # And end at any.
        best = min(best, row[-1])
    return best if anywhere else row[-1]


def texts_of(batch: Batch, column: str, quoted: bool) -> list[str]:
    """The text that each sample should show; "" for none. Raises RewardError."""
    if column not in batch:
        raise RewardError(
            f"ocr_accuracy: the data set has no column {column!r} with the text to show."
            f"{did_you_mean(column, batch.columns)} The option `columns` of `prompts` names those "
            "that it gives; with `quoted: true` the text is read from a prompt."
        )
    values = batch[column]
    # A tensor is a column of numbers.
    if not isinstance(values, (list, tuple)) or not all(isinstance(v, str | None) for v in values):
        got = next((v for v in values if not isinstance(v, str | None)), values)
        raise RewardError(
            f"ocr_accuracy: expected text in the column {column!r}, got {type(got).__name__}"
        )
    texts = [value or "" for value in values]
    return [" ".join("".join(p) for p in QUOTED.findall(t)) for t in texts] if quoted else texts
