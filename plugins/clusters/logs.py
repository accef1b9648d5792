"""The logs of runs, by which a launcher sees what begins elsewhere."""

from __future__ import annotations

from rewardft.contracts.launching import Job


def written(job: Job) -> int:
    """When a run's log was last written, in nanoseconds; 0 without one."""
    return job.log.stat().st_mtime_ns if job.log.is_file() else 0
