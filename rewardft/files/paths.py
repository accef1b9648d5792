"""The door for names that become files, and the one for paths and files that users give.

A name of a recipe, a variant or a sample is text that anybody may have written: `file_name` makes
one part of a path of it, never more. A path that a user gives is relative to the file that it
stands in, and may name anything: `local_path` and `read_bytes` say what is wrong with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from rewardft.errors import DataError

LONGEST_NAME = 80  # bytes; file systems take 255, and prefixes, endings and hashes are added
LONGEST_PATH = 4096  # bytes, as Linux has it
BELOW_A_RUN = 250  # bytes of the longest path inside a run folder
LARGEST_TABLE = 2**30  # bytes of a text file of data, which is read as a whole
LARGEST_TEXT = 400_000  # bytes of a recipe or a comparison file; the longest shipped one takes 2 kB


def file_name(text: str) -> str:
    """`text` as the name of one file: letters, digits and `_.,=-`, not hidden, at most 80 bytes.

    A text that must be changed for that gets a hash of the original, so that two texts never share
    a file; others stay as they are.
    """
    plain = re.sub(r"[^\w.,=-]", "_", text).lstrip(".")
    # Cut in bytes, which file systems count; half a character at the end is dropped.
    plain = plain.encode()[:LONGEST_NAME].decode(errors="ignore")
    if plain and plain == text:
        return plain
    # surrogatepass: half of a pair is text in Python, but not in UTF-8.
    mark = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{plain}-{mark}" if plain else f"_-{mark}"


def local_path(text: str | os.PathLike[str], base: Path) -> Path:
    """The absolute path that a user means: `~` is a home folder, a relative one starts at `base`.

    Raises DataError for one that cannot name a file: with a NUL, of an unknown user, too
    long, or an endless chain of links.
    """
    given = os.fspath(text)
    # Messages quote the path; megabytes of it would hide what they say.
    shown = given if len(given) <= 80 else f"{given[:60]}... ({len(given):,} characters)"
    try:
        path = (base / Path(given).expanduser()).absolute()
        if len(os.fsencode(path)) >= LONGEST_PATH or any(
            len(os.fsencode(part)) > 255 for part in path.parts
        ):
            raise DataError(
                f"{shown!r} is too long for a path: at most 255 bytes between slashes, "
                f"{LONGEST_PATH:,} in all."
            )
        resolved = path.resolve()
        # From Python 3.13 on, `resolve` lets a chain of links without end pass.
        if path.is_symlink() and resolved.is_symlink():
            raise DataError(f"{shown!r} cannot be a path: symlink loop at {resolved}.")
        return resolved
    except UnicodeEncodeError:
        raise DataError(f"{shown!r} has characters that no file name can hold.") from None
    except (ValueError, RuntimeError, OSError) as error:  # NUL; no such user, a chain of links
        why = "a path has no NUL character" if "\0" in given else str(error).rstrip(".")
        raise DataError(f"{shown!r} cannot be a path: {why}.") from None


def given_folder(path: str | os.PathLike[str]) -> Path:
    """A folder as a command or a caller names it, with `~` for a home folder, and no longer than
    that files of a run fit below it. Raises DataError as `local_path` does."""
    whole = os.fspath(local_path(path, Path.cwd()))
    if len(os.fsencode(whole)) > LONGEST_PATH - BELOW_A_RUN:
        raise DataError(
            f"{whole[:60]!r}... ({len(whole):,} characters) is too long for a folder that a run is "
            f"written to: at most {LONGEST_PATH - BELOW_A_RUN:,} bytes."
        )
    # As it was given: messages then name what the user has typed.
    return Path(path).expanduser() if os.fspath(path).startswith("~") else Path(path)


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises DataError, with the path, for one that is missing, larger, not readable, or no regular
    file: a pipe or a device might never end.
    """
    try:
        # Opened first and asked after: a check by name could be of another file.
        with open(path, "rb", opener=_opened) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise DataError(f"{path}: expected a file, got {_kind(facts.st_mode)}.")
            if facts.st_size > most:
                raise DataError(
                    f"{path} has {facts.st_size:,} bytes; at most {most:,} are read here."
                )
            # Never more, also from a file that grows meanwhile.
            return file.read(most + 1)[:most]
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except IsADirectoryError:
        raise DataError(f"{path}: expected a file, got a folder.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}.") from None


def read_text(path: Path, most: int = LARGEST_TEXT) -> str:
    """The content of a text file, with or without a byte-order mark; raises DataError as
    `read_bytes` does."""
    raw = read_bytes(path, most)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # As editors count.
        line = raw[: error.start].count(b"\n") + 1
        byte = f"byte 0x{raw[error.start]:02x}"
        raise DataError(
            f"{path}:{line}: not UTF-8 text ({byte}); save the file as UTF-8."
        ) from None


def reason(error: Exception) -> str:
    """What the system says, without the path that it repeats."""
    return str(getattr(error, "strerror", None) or error)


@dataclass(frozen=True)
class Place:
    """Marks an option that is a path: `Annotated[str, Place(...)]`. `Path` is one without mark.

    hub: text that looks like no path is the id of a hub repository, and is left as it is.
    words: text that stands for something else, such as `shipped`.
    """

    hub: bool = False
    words: tuple[str, ...] = ()

    def anchored(self, text: str, base: Path) -> str:
        """The option as an absolute path, or as it is. Raises DataError for what cannot be one."""
        if text in self.words or (self.hub and not self.is_local(text, base)):
            return text
        return str(local_path(text, base))

    def is_local(self, text: str, base: Path) -> bool:
        """Whether a text that may be a hub id is a path: by its looks, or because its first part is
        there."""
        if looks_local(text):
            return True
        here = local_path(text.partition("/")[0], base)
        if here.exists():
            return True
        # Taken for a hub id, it would start a download under a name that means a folder.
        if Path.cwd() != base and Path(text).exists():
            raise DataError(
                f"{text!r} is no folder in {base}, which relative paths start at, but it is one in "
                f"the current folder; write {Path(text).absolute()}."
            )
        return False


Weights = Annotated[str, Place(hub=True)]
"""A folder or file, or the id of a hub repository (`owner/name`)."""
PathOrShipped = Annotated[str, Place(words=("shipped",))]
"""A folder or file, or the word `shipped` for what comes with the plugin."""


def looks_local(text: str) -> bool:
    """Whether text is no hub id, which is `owner/name`: `./x`, `x`, `a/b/c`, or a file's ending."""
    endings = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".json", ".npz", ".gguf")
    return text.endswith(endings) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text)


def anchored(annotation: Any, value: Any, base: Path) -> Any:
    """`value` with the paths in it made absolute, as its annotation says where there are some."""
    if isinstance(value, list):
        inner = [arg for part in _leaves(annotation) for arg in get_args(part)]
        return [anchored(inner[0], item, base) for item in value] if inner else value
    if not isinstance(value, str):
        return value
    place = _place(annotation, value)
    return value if place is None else place.anchored(value, base)


def _place(annotation: Any, value: str) -> Place | None:
    """What the annotation says about text; None where it is not a path."""
    found = None
    for part in _leaves(annotation):
        # One of the fixed words that the option takes beside paths.
        if get_origin(part) is Literal and value in get_args(part):
            return None
        marks = [mark for mark in getattr(part, "__metadata__", ()) if isinstance(mark, Place)]
        if marks:
            found = marks[0]
        elif isinstance(part, type) and issubclass(part, Path):
            found = Place()
    return found


def _leaves(annotation: Any) -> Iterator[Any]:
    """The alternatives of a union, or the annotation itself."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        for arg in get_args(annotation):
            yield from _leaves(arg)
    else:
        yield annotation


def _opened(path: str, flags: int) -> int:
    """Without waiting for the other end of a pipe."""
    # Windows has neither named pipes in folders nor the flag.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "something else")
