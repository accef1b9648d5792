"""Pictures and videos as data URIs: each file once, no larger than a screen needs, and no more of
them than the page can carry."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from rewardft.comparisons.report.verdicts import ranked
from rewardft.contracts.records import ComparisonRecord, Picture

EDGE = 320  # pixels; a picture takes up half of a phone's width at twice its pixels
SMALL = 24_000  # bytes; a file this small is embedded as it is
MOST_BYTES = 12_000_000  # of all pictures together, as embedded
_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class Gallery:
    """Embedded pictures.

    `pairs` name them by their place in `images`; `left_out` counts pairs that found no room.
    """

    def __init__(self, record: ComparisonRecord, folder: Path) -> None:
        self.images: list[str] = []
        self.pairs: list[dict[str, Any]] = []
        self.left_out = 0
        self.unreadable: list[str] = []
        self._places: dict[str, int] = {}
        self._folder = folder
        for index, picture in _in_turns(record):
            self._add(index, picture)

    def data(self) -> dict[str, Any]:
        return {"images": self.images, "pairs": self.pairs}

    def _add(self, variant: int, picture: Picture) -> None:
        # Counted as embedded: base64 is a third longer than the file.
        if sum(map(len, self.images)) >= MOST_BYTES:
            self.left_out += 1
            return
        base, tuned = self._place(picture.base), self._place(picture.tuned)
        if base is None or tuned is None:
            return
        self.pairs.append(
            {
                "variant": variant,
                "sample": picture.sample,
                "group": picture.group,
                "base": base,
                "tuned": tuned,
            }
        )

    def _place(self, name: str) -> int | None:
        """Where the picture stands among the images; the same content stands there once."""
        if name not in self._places:
            uri = self._embed(name)
            if uri is None:
                return None
            # The base's sample is the same in all variants that share a sampler.
            if uri not in self.images:
                self.images.append(uri)
            self._places[name] = self.images.index(uri)
        return self._places[name]

    def _embed(self, name: str) -> str | None:
        try:
            path = (self._folder / name).resolve()
            # A record may come from elsewhere: it must not embed any file of this machine.
            if not path.is_relative_to(self._folder.resolve()):
                raise ValueError("it is outside the comparison's folder")
            return embed(path)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            self.unreadable.append(f"{name} ({type(error).__name__})")
            return None


def embed(path: Path, edge: int = EDGE) -> str:
    """The picture as a data URI, at most `edge` pixels wide or high; of a video its MP4, as it is.

    Raises OSError for a file that is no picture.
    """
    film = path.with_suffix(".mp4")
    # A link could lead out of the folder, which was checked for the GIF alone.
    if path.suffix == ".gif" and film.is_file() and not film.is_symlink():
        return f"data:video/mp4;base64,{base64.b64encode(film.read_bytes()).decode('ascii')}"
    data = path.read_bytes()
    # No other formats: some are read by running programs.
    with Image.open(io.BytesIO(data), formats=(*_TYPES, "BMP")) as image:
        image.load()
        # Formats that browsers show; any other is converted.
        kind = _TYPES.get(image.format or "")
        if kind is None or len(data) > SMALL or max(image.size) > edge:
            data, kind = _smaller(image, edge), "image/webp"
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _smaller(image: Image.Image, edge: int) -> bytes:
    """Every frame of a picture in the size of a screen, as WebP."""
    mode, frames = "RGBA" if "A" in image.getbands() else "RGB", []
    for frame in ImageSequence.Iterator(image):
        copy = frame.convert(mode)
        copy.thumbnail((edge, edge))
        frames.append(copy)
    buffer = io.BytesIO()
    moving = {"save_all": True, "append_images": frames[1:], "loop": 0}
    moving["duration"] = image.info.get("duration", 100)
    frames[0].save(buffer, "WEBP", quality=82, **(moving if len(frames) > 1 else {}))
    return buffer.getvalue()


def _in_turns(record: ComparisonRecord) -> list[tuple[int, Picture]]:
    """Every variant's first picture, then every variant's second, and so on: whatever is left out,
    all variants are seen."""
    variants = ranked(record)
    longest = max((len(variant.pictures) for variant in variants), default=0)
    return [
        (index, variant.pictures[i])
        for i in range(longest)
        for index, variant in enumerate(variants)
        if i < len(variant.pictures)
    ]
