"""Reading numpy files from strangers: what damaged ones can raise, and a limit on what small ones
can unpack to."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from rewardft.errors import DataError

DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    AttributeError,
    SyntaxError,
    MemoryError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    BadZipFile,
    zlib.error,
    struct.error,
    tokenize.TokenError,
)
"""Raised by `numpy.load(..., allow_pickle=False)` and `zipfile` on truncated, altered or foreign
files."""


LARGEST = 2**29  # bytes of all arrays that are read from one file: months of motion
# Bytes, numpy's own limit; numpy reads a header before it looks at its length
_LONGEST_HEADER = 10_000


def fault(error: Exception) -> str:
    """The text of one of DAMAGED, without the addresses of objects that numpy's parser prints."""
    text = str(error) or type(error).__name__
    return "its header is not numpy's" if " object at 0x" in text else text


def read_archive(
    path: Path, wanted: Collection[str], most: int = LARGEST
) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file: the `wanted` ones, or all if it has none of them.

    The headers are read first: nothing is unpacked when the arrays together would take more than
    `most` bytes.

    Raises:
        DataError: the arrays are too large, or one of them holds Python objects.
        One of DAMAGED: the file is not a readable archive.
    """
    with ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        chosen = {name: info for name, info in members.items() if name in wanted} or members
        total = 0
        # A few kilobytes of zip may announce terabytes of zeros.
        for name, info in chosen.items():
            with archive.open(info) as file:
                total += stated_bytes(file, f"{path}: {name!r}")
            check_size(path, total, most)
        arrays = {}
        for name, info in chosen.items():
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


def read_array(path: Path) -> NDArray[Any]:
    """Read an .npy file; raises as `read_archive` does."""
    with path.open("rb") as file:
        check_size(path, stated_bytes(file, str(path)))
        file.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


def stated_bytes(file: IO[bytes], where: str) -> int:
    """Size of the array that a stream in .npy format is about to give, from its header alone.

    Raises:
        DataError: its elements are Python objects, which only unpickling could read.
        ValueError: this is not an .npy header.
    """
    is_old = np.lib.format.read_magic(file) == (1, 0)
    # The length field has 2 bytes in version 1.0 of the format and 4 since.
    size = file.read(2 if is_old else 4)
    length = int.from_bytes(size, "little")
    # numpy would read the announced length first, which may be 4 GB.
    if length > _LONGEST_HEADER:
        raise ValueError(f"{where} has a header of {length} bytes")
    header = io.BytesIO(size + file.read(length))
    formats = np.lib.format
    read = formats.read_array_header_1_0 if is_old else formats.read_array_header_2_0
    shape, _, dtype = read(header)
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are never read; expected numbers.")
    return math.prod(shape) * dtype.itemsize


def check_size(path: Path, total: int, most: int = LARGEST) -> None:
    """Raises DataError when `total` bytes are more than such a file can reasonably hold."""
    if total > most:
        raise DataError(
            f"{path} would unpack to {total / 2**20:,.0f} MiB of arrays or more; at most "
            f"{most // 2**20} MiB are read from one file. Is it a motion file? Split a larger set "
            "into several files."
        )
