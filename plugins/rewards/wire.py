"""The wire format of rewards behind HTTP, version 1: JSON, with samples and gradients as base64 of
safetensors or PNG.

`docs/remote-reward.md` is its specification. Nothing that is received can run code: safetensors
hold numbers, PNG files hold pixels, and both are checked against the shapes that were asked for.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import torch
from safetensors.torch import load, save
from torch import Tensor

from rewardft.types import Batch

from .images import to_bytes

VERSION = 1
MOST_PIXELS = 4096 * 4096  # of one picture: larger than any model makes, 50 MB when decoded
MOST_BYTES = 2**30  # of all pictures of a request as float32
Payload = Literal["safetensors", "png"]


class WireError(Exception):
    """A message is not in the wire format; the text says what was expected and what came."""


@dataclass(frozen=True)
class Request:
    """Samples `(b, ...)` to be scored, with their batch; `gradient`: d(reward_i)/d(sample_i) is
    wanted too."""

    samples: Tensor
    batch: Batch
    gradient: bool


def encode_request(
    samples: Tensor, batch: Batch, columns: Mapping[str, Any], payload: Payload, gradient: bool
) -> bytes:
    """The body of a request; `columns` hold lists, or tensors that are sent as nested lists."""
    # PNG is a tenth of the size and rounds to 8 bits; safetensors are exact.
    data: Any = (
        encode_tensor("samples", samples)
        if payload == "safetensors"
        else [encode_png(s) for s in samples]
    )
    message = {
        "version": VERSION,
        "ids": list(batch.ids),
        "gradient": gradient,
        "payload": payload,
        "samples": data,
        "columns": {
            name: v.tolist() if isinstance(v, Tensor) else list(v) for name, v in columns.items()
        },
    }
    return json.dumps(message, allow_nan=False).encode()


def decode_request(body: bytes) -> Request:
    """Raises WireError for anything but a request of this version."""
    message = parse_object(body)
    if message.get("version") != VERSION:
        raise WireError(
            f"expected version {VERSION} of the wire format, got {message.get('version')!r}"
        )
    ids, columns, payload = message.get("ids"), message.get("columns", {}), message.get("payload")
    if not isinstance(ids, list) or not ids or not all(isinstance(i, str) for i in ids):
        raise WireError("expected `ids`, a list of text with one entry per sample")
    if not isinstance(columns, dict) or not all(
        isinstance(c, list) and len(c) == len(ids) for c in columns.values()
    ):
        raise WireError(f"expected `columns`, a mapping of lists with {len(ids)} entries each")
    if payload == "png" and isinstance(message.get("samples"), list):
        samples = decode_pictures(message["samples"])
    elif payload == "safetensors":
        samples = decode_tensor("samples", message.get("samples"))
    else:
        raise WireError(
            f"expected `payload` safetensors or png (with a list of `samples`), got {payload!r}"
        )
    # A reward would call them "not applicable", which they are not.
    if not samples.numel() or not samples.isfinite().all():
        what = "none" if not samples.numel() else "some that are NaN or infinite"
        raise WireError(f"expected samples of finite numbers, got {what}")
    # An answer is matched to samples by its order alone.
    if len(samples) != len(ids):
        raise WireError(
            f"expected one sample per id, got {len(samples)} samples and {len(ids)} ids"
        )
    # The format has no epochs; a reward that draws noise draws it by id alone.
    return Request(
        samples, Batch(tuple(ids), (0,) * len(ids), columns), bool(message.get("gradient"))
    )


def encode_answer(rewards: Tensor, gradient: Tensor | None) -> bytes:
    """The body of an answer; a NaN (not applicable) is sent as null."""
    # JSON has no NaN, and half of all parsers refuse it.
    values = [None if math.isnan(value) else value for value in rewards.tolist()]
    message: dict[str, Any] = {"rewards": values}
    if gradient is not None:
        message["gradient"] = encode_tensor("gradient", gradient)
    return json.dumps(message, allow_nan=False).encode()


def decode_answer(body: bytes, shape: torch.Size, gradient: bool) -> tuple[Tensor, Tensor | None]:
    """Rewards `(b,)` and, if wanted, their gradient of `shape`. Raises WireError for anything
    else."""
    message = parse_object(body)
    values = message.get("rewards")
    if not isinstance(values, list):
        raise WireError(
            "expected `rewards`, a list of numbers; the answer has: "
            f"{', '.join(message) or 'nothing'}"
        )
    if len(values) != shape[0]:
        raise WireError(f"expected {shape[0]} rewards, one per sample, got {len(values)}")
    wrong = [value for value in values if value is not None and not is_number(value)]
    if wrong:
        raise WireError(
            "expected rewards that are finite numbers, or null where one does not apply, got "
            f"{wrong[0]!r}"
        )
    rewards = torch.tensor([float("nan") if value is None else float(value) for value in values])
    if not gradient:
        return rewards, None
    if "gradient" not in message:
        raise WireError("expected `gradient` beside `rewards`, as the request asks for it")
    slope = decode_tensor("gradient", message["gradient"])
    # One infinite number would reach every weight of the model.
    if slope.shape != shape or not slope.isfinite().all():
        what = (
            f"shape {tuple(slope.shape)}" if slope.shape != shape else "values that are not finite"
        )
        raise WireError(
            f"expected a finite gradient of the samples' shape {tuple(shape)}, got {what}"
        )
    return rewards, slope


# -- parts -----------------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        # In Python True is an int.
        and not isinstance(value, bool)
        # JSON's integers have no limit; float32 would make infinity of a large one.
        and abs(value) <= torch.finfo(torch.float32).max
    )


def parse_object(body: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no Infinity, an object."""
    try:
        message = json.loads(body, parse_constant=refuse_constant)
    except (ValueError, RecursionError, MemoryError) as error:
        start = body[:80].decode("utf-8", "replace")
        raise WireError(
            f"expected JSON, got {len(body)} bytes that begin with {start!r} ({error})"
        ) from error
    if not isinstance(message, dict):
        raise WireError(f"expected a JSON object, got a {type(message).__name__}")
    return message


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"JSON has no {name}; a reward that does not apply is null")


def encode_tensor(name: str, value: Tensor) -> str:
    data = save({name: value.detach().float().cpu().contiguous()})
    return base64.b64encode(data).decode()


def decode_tensor(name: str, text: Any) -> Tensor:
    """A float32 tensor of at least one dimension, from the base64 of a safetensors file that holds
    it as `name`."""
    try:
        tensors = load(decode_base64(name, text))
    except Exception as error:  # safetensors raises its own error type; WireError passes through
        raise (
            error
            if isinstance(error, WireError)
            else WireError(f"`{name}` is not a safetensors file: {error}")
        ) from error
    if set(tensors) != {name} or not tensors[name].is_floating_point() or tensors[name].ndim == 0:
        raise WireError(
            f"expected one floating-point tensor {name!r}, got: "
            f"{', '.join(sorted(tensors)) or 'none'}"
        )
    return tensors[name].float()


def encode_png(image: Tensor) -> str:
    """An image `(3, h, w)` in [0, 1], rounded to 8 bits."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image)).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decode_pictures(texts: list[Any]) -> Tensor:
    """Pictures of one size `(b, 3, h, w)`; the first says how much memory all of them take."""
    pictures: list[Tensor] = []
    for text in texts:
        picture = decode_png(text)
        if pictures and picture.shape != pictures[0].shape:
            sizes = " and ".join(f"{p.shape[2]} x {p.shape[1]}" for p in (pictures[0], picture))
            raise WireError(f"expected pictures of one size, got {sizes}")
        # Asked at the first picture, as all have its size: a thousand are never decoded in vain.
        if picture.numel() * 4 * len(texts) > MOST_BYTES:
            raise WireError(
                f"{len(texts)} pictures of {picture.shape[2]} x {picture.shape[1]} take more than "
                f"{MOST_BYTES:,} bytes; send fewer in a request (`batch_size`)"
            )
        pictures.append(picture)
    if not pictures:
        raise WireError("expected one sample per id, got 0 samples")
    return torch.stack(pictures)


def decode_png(text: Any) -> Tensor:
    import numpy as np
    from PIL import Image

    data = decode_base64("samples", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged below
            picture = Image.open(io.BytesIO(data), formats=["PNG"])
        with picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:  # nothing is decoded yet
                raise WireError(
                    f"`samples` has a picture of {width} x {height}; at most {MOST_PIXELS:,} "
                    "pixels are decoded"
                )
            array = np.asarray(picture.convert("RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        OverflowError,
        MemoryError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        why = str(error).partition("<_io")[0].removesuffix(" image file ")
        raise WireError(f"`samples` has an entry that is not a PNG file: {why}") from error
    # Copied, because pillow's array is read-only and torch tensors are not.
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255


def decode_base64(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        got = "nothing" if text is None else type(text).__name__
        raise WireError(f"expected `{name}` as base64 text, got {got}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(f"`{name}` is not base64: {error}") from error
