"""Keeping peak memory flat on a CPU.

Replay holds one denoiser graph at a time, but glibc's allocator does not hand back what a backward
pass has freed, and what follows does not fit into the holes. Trimming the heap after optimizer
steps, at most once a second, keeps the resident set flat (benchmarks/memory.py). GPUs have an
allocator of their own and need nothing.
"""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

# Seconds; trimming, and asking for the pages again, takes about a millisecond, which small models
# must not notice.
MIN_INTERVAL = 1.0

_last = 0.0


def return_freed_memory() -> None:
    """Give freed heap pages back to the system; at most once per `MIN_INTERVAL`, and only where
    glibc is."""
    global _last
    libc, now = _glibc(), time.monotonic()
    if libc is not None and now - _last > MIN_INTERVAL:
        libc.malloc_trim(0)
        _last = now


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def peak_memory(device: Any) -> int:
    """Most bytes that this process has held: of the GPU's memory on a GPU, else of its resident
    set."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    # Linux counts in `ru_maxrss` what the process that has started this one held as well.
    if (peak := _resident_peak()) is not None:
        return peak
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts in bytes, others in kibibytes.
    return peak if sys.platform == "darwin" else peak * 1024


def _resident_peak() -> int | None:
    """Bytes, by Linux's own count; None where there is none."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM:")), None)
