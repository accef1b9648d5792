"""Body model files: what must be in them, and the object of the smplx package made from one."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray
from rewardft_plugins.humans.archives import DAMAGED, fault, read_archive

from rewardft.errors import DataError

# The 55 skinning joints: 22 body joints, jaw, two eyes, fifteen joints for each hand.
PART_OF_JOINT = (
    [2, 9, 10, 2, 11, 12, 2, 13, 14, 2, 13, 14, 1, 2, 2, 1, 3, 4, 5, 6, 7, 8, 1, 1, 1]
    + [7] * 15
    + [8] * 15
)


BETAS = 10

_NEEDED_ARRAYS = (
    "v_template",
    "f",
    "shapedirs",
    "posedirs",
    "J_regressor",
    "weights",
    "kintree_table",
)


_MORE_ARRAYS = (
    "hands_componentsl",
    "hands_componentsr",
    "hands_meanl",
    "hands_meanr",
    "lmk_bary_coords",
    "lmk_faces_idx",
    "dynamic_lmk_bary_coords",
    "dynamic_lmk_faces_idx",
)


_MIN_VERTICES = 9930  # the smplx package indexes its landmark vertices by fixed numbers up to 9929


def check_file(file: Path) -> bool:
    """Check the arrays that `smplx` needs; return whether this is the licensed model (the open
    bodies carry a notice)."""
    arrays = _read_arrays(file)
    missing = [name for name in _NEEDED_ARRAYS if name not in arrays]
    if missing:
        raise DataError(
            f"{file} is not an SMPL-X body model: it lacks the arrays {', '.join(missing)}."
        )
    vertices = len(np.atleast_1d(arrays["v_template"]))
    if vertices < _MIN_VERTICES:
        raise DataError(
            f"{file} has {vertices} vertices; the smplx package needs at least {_MIN_VERTICES}."
        )
    _check_shapes(file, arrays)
    with ZipFile(file) as archive:
        # By its notice, as sizes and names are the licensed model's.
        return "license.npy" not in archive.namelist()


def _check_shapes(file: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Raises DataError for arrays that do not belong to one body of 55 joints."""
    vertices, joints = len(np.atleast_1d(arrays["v_template"])), len(PART_OF_JOINT)
    expected: dict[str, tuple[int | None, ...]] = {
        "v_template": (vertices, 3),
        "f": (None, 3),
        "shapedirs": (vertices, 3, None),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "weights": (vertices, joints),
        "kintree_table": (2, joints),
    }
    for name, shape in expected.items():
        found = arrays[name].shape
        # smplx takes arrays of other sizes and fails far from the cause.
        if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found)):
            words = ", ".join("any" if n is None else str(n) for n in shape)
            raise DataError(f"{file}: the array {name!r} is {list(found)}; expected [{words}].")
    faces = arrays["f"]
    if not len(faces) or faces.min() < 0 or faces.max() >= vertices:
        raise DataError(f"{file}: the array 'f' must hold faces of its {vertices} vertices.")


def _read_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays that `smplx` may read, as numbers; nothing else in the file is touched.

    The licensed file holds Python objects beside them, which only unpickling could read.
    """
    try:
        arrays = read_archive(file, (*_NEEDED_ARRAYS, *_MORE_ARRAYS))
    except DAMAGED as error:
        raise DataError(f"{file} is not a readable .npz body model: {fault(error)}") from error
    for name, array in arrays.items():
        if name in _NEEDED_ARRAYS and (
            not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all()
        ):
            raise DataError(f"{file}: the array {name!r} must hold finite numbers only.")
    return arrays


def create_model(file: Path) -> Any:
    """The model of the `smplx` package. It unpickles what it is given, so it gets a file of plain
    arrays that was written here."""
    try:
        import smplx
    except ImportError as error:
        raise DataError(
            "posing a body needs the `smplx` package (non-commercial research licence): pip "
            "install 'rewardft[drpose]'."
        ) from error
    arrays: dict[str, Any] = _read_arrays(file)
    try:
        # It prints two warnings about 10 shape columns, which are expected here.
        # smplx reads files by path only.
        with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            plain = Path(folder) / "SMPLX_NEUTRAL.npz"
            np.savez(plain, **arrays)
            model = smplx.create(
                str(plain),
                model_type="smplx",
                gender="neutral",
                ext="npz",
                use_pca=False,
                flat_hand_mean=True,
                num_betas=BETAS,
                batch_size=1,
            )
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{file} does not fit the smplx package: {error}") from error
    return model.requires_grad_(False)
