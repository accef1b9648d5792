"""Reading text in pictures: the interface, and the engine behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rewardft.errors import ComponentError


class TextReader(Protocol):
    """What `ocr_accuracy` asks of an engine."""

    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        """The lines of text in a picture `(h, w, 3)`, RGB, in reading order; none where there are
        none. What fails raises."""


class RapidReader:
    """RapidOCR: PP-OCR's networks for finding and reading lines, by onnxruntime on the CPU.

    Its package contains the networks; nothing is downloaded.

    Args:
        detector, recogniser: .onnx files of other ones, with their letters in the file; null: those
            of the package.
        confidence: lines that the recogniser is less sure of, in [0, 1], are left out.
        side: pixels to which the shorter side of smaller pictures is enlarged first.
    """

    def __init__(
        self,
        detector: Path | None,
        recogniser: Path | None,
        confidence: float,
        side: int,
    ) -> None:
        # An extra; where it is missing, the message says how to install it.
        from rapidocr import RapidOCR

        threads = torch.get_num_threads()
        params: dict[str, Any] = {
            "Global.text_score": confidence,
            "Det.limit_side_len": side,
            # It warns of each picture without text.
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
        for name, file in (("Det", detector), ("Rec", recogniser)):
            if file is not None:
                params[f"{name}.model_path"] = str(checked(file))
        self.engine = RapidOCR(params=params)

    def __call__(self, picture: NDArray[np.uint8]) -> list[str]:
        from PIL import Image

        # As a picture, whose colours are RGB; an array would be taken for BGR.
        found: Any = self.engine(Image.fromarray(picture))
        # Without text it is an empty answer of whatever step came last, which may have no `txts`;
        # an answer that is not empty must have it, or a failure would read as no text.
        return list(found.txts) if len(found) else []


def checked(file: Path) -> Path:
    """The file, if it may be a network. Raises ComponentError."""
    if file.suffix != ".onnx" or not file.is_file():
        raise ComponentError(f"ocr_accuracy: expected an .onnx file, got {file}")
    return file
