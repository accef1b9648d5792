"""The landmark network of BlazePose (arXiv 2006.10204), an optional download, which finds 33 points
of a person in a photograph."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rewardft.errors import ComponentError

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""One picture `(256, 256, 3)` in [0, 1] -> 33 landmarks `(33, 2)` in its pixels, x right, y
down."""

MODEL_VARIABLE = "REWARDFT_BLAZEPOSE"
SIDE = 256

# Of 33 landmarks and 6 auxiliary points: x, y, z in pixels, visibility, presence.
_LANDMARK_VALUES = 195
_WORLD_VALUES = 117  # x, y, z in metres of the same points

SOURCE = (
    "It is mediapipe/modules/pose_landmark/pose_landmark_full.tflite in the wheel mediapipe "
    "0.10.21 (Apache-2.0), converted to ONNX, for example with tf2onnx."
)


def find_model(model: Path | None) -> Path:
    """Path of the network's file: `model`, else REWARDFT_BLAZEPOSE. Raises `ComponentError` when
    there is none."""
    given = os.environ.get(MODEL_VARIABLE, "") if model is None else os.fspath(model)
    if not given:
        raise ComponentError(
            "blazepose needs the BlazePose landmark network in ONNX format, which rewardft does "
            "not ship: give its path as the option `model` or in the environment variable "
            f"{MODEL_VARIABLE}. {SOURCE}"
        )
    path = Path(given).expanduser()
    if not path.is_file():
        origin = (
            "the option `model`"
            if model is not None
            else f"the environment variable {MODEL_VARIABLE}"
        )
        raise ComponentError(f"blazepose: {origin} says {given!r}, which is not a file. {SOURCE}")
    return path


@dataclass(frozen=True)
class Landmarks:
    """What the network finds in one picture; x right, y down, z away from the camera.

    places: `(33, 3)` in the picture's pixels.
    visibility: `(33,)` in [0, 1].
    world: `(33, 3)` metres from the middle of the hips.
    """

    places: NDArray[np.float32]
    visibility: NDArray[np.float32]
    world: NDArray[np.float32]


class BlazePose:
    """The landmark network in onnxruntime, on the CPU with torch's number of threads. A
    `Network`."""

    def __init__(self, path: Path) -> None:
        self.session = _open_session(path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        # By shape: converters name outputs as they like.
        landmarks = [output.name for output in outputs if output.shape[1:] == [_LANDMARK_VALUES]]
        if [value.shape[1:] for value in inputs] != [[SIDE, SIDE, 3]] or len(landmarks) != 1:
            got = [[value.shape for value in values] for values in (inputs, outputs)]
            raise ComponentError(
                f"{path} is not the BlazePose landmark network: expected one input [n, {SIDE}, "
                f"{SIDE}, 3] and one output [n, {_LANDMARK_VALUES}], got inputs {got[0]} and "
                f"outputs {got[1]}. {SOURCE}"
            )
        self.input, self.output = inputs[0].name, landmarks[0]
        self.worlds = [o.name for o in outputs if o.shape[1:] == [_WORLD_VALUES]]
        self.path = path

    def __call__(self, picture: NDArray[np.float32]) -> NDArray[np.float32]:
        (values,) = self.session.run([self.output], {self.input: picture[None]})
        # 39 rows of x, y, z, visibility, presence; the last 6 are auxiliary points.
        return np.asarray(values, dtype=np.float32).reshape(-1, 5)[:33, :2]

    def find(self, picture: NDArray[np.float32]) -> Landmarks:
        """All landmarks of a picture `(256, 256, 3)` in [0, 1]. Raises ComponentError for a
        conversion without world landmarks."""
        if len(self.worlds) != 1:
            raise ComponentError(
                f"{self.path} has no output [n, {_WORLD_VALUES}] with the world landmarks. {SOURCE}"
            )
        names = [self.output, self.worlds[0]]
        found, world = self.session.run(names, {self.input: picture[None]})
        values = np.asarray(found, dtype=np.float32).reshape(-1, 5)[:33]
        metres = np.asarray(world, dtype=np.float32).reshape(-1, 3)[:33]
        # The network gives logits.
        visible = (1 / (1 + np.exp(-values[:, 3]))).astype(np.float32)
        return Landmarks(values[:, :3], visible, metres)


def _open_session(path: Path) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ComponentError(
            "blazepose needs the package onnxruntime, which is not installed: pip install "
            "'rewardft[blazepose]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Waiting threads slow torch down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen classes of its own
        raise ComponentError(
            f"{path} cannot be read as an ONNX network (truncated?): {error}. {SOURCE}"
        ) from error
