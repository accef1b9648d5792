"""Numbers as a reader wants them: as many digits as the interval earns, and "unknown" for what is
not known."""

from __future__ import annotations

import math

from rewardft.contracts.records import Interval

UNKNOWN = "unknown"
_MINUS = "\N{MINUS SIGN}"


def number(value: float | None, width: float = math.nan, sign: bool = False) -> str:
    """`value` with two digits of `width`, its interval's half-width;
    with three of its own where that is unknown."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    decimals = _decimals(value, width)
    # Beyond eight decimals a number is read more easily in powers of ten.
    style = "+" if sign else ""
    text = f"{value:{style}.2e}" if decimals > 8 else f"{value:{style},.{max(decimals, 0)}f}"
    return _unsigned_zero(text).replace("-", _MINUS)


def interval(estimate: Interval | None, sign: bool = False) -> str:
    """Such as `0.412 [0.398, 0.426]`; with `sign`, `+0.02 [−0.01, +0.05]`."""
    if estimate is None or not math.isfinite(estimate.value):
        return UNKNOWN
    # One number of digits for all three, so that the bounds can be compared with the estimate.
    width = (estimate.high - estimate.low) / 2
    if not math.isfinite(width):
        return f"{number(estimate.value, sign=sign)} [interval {UNKNOWN}]"
    low, high = (number(bound, width, sign) for bound in (estimate.low, estimate.high))
    return f"{number(estimate.value, width, sign)} [{low}, {high}]"


def count(value: float | None) -> str:
    """A number of things, such as `12,800`; means of counts keep one digit after the point."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return f"{value:,.0f}" if float(value).is_integer() or value >= 100 else f"{value:,.1f}"


def duration(seconds: float | None) -> str:
    """Such as `45.2 s`, `12 min 3 s`, `1 h 4 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def size(count_of_bytes: float | None) -> str:
    """Such as `612 MiB`, `1.4 GiB`."""
    if count_of_bytes is None or not math.isfinite(count_of_bytes):
        return UNKNOWN
    mebibytes = count_of_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"


def plural(number_of: int, noun: str) -> str:
    """Such as `1 seed`, `3 seeds`."""
    return f"{number_of} {noun}" + ("" if number_of == 1 else "s")


def _decimals(value: float, width: float) -> int:
    scale = width if math.isfinite(width) and width > 0 else abs(value) / 10
    # Two significant digits of the scale.
    return 2 if scale == 0 else 1 - math.floor(math.log10(scale))


def _unsigned_zero(text: str) -> str:
    """Minus nothing reads as nothing."""
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text
