"""A comparison as a job array of Slurm (https://slurm.schedmd.com/job_array.html)."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rewardft.contracts.launching import Job, Work
from rewardft.errors import ComponentError
from rewardft.files.atomic import write_text

from .logs import written


@dataclass(frozen=True)
class Slurm:
    """One job array of Slurm, a task for each run, submitted with `sbatch --wait`.

    The array's script is `slurm.sh` in the comparison's folder; one can edit it and submit it
    again. A task that Slurm starts once more goes on with its run.

    Args:
        sbatch: further words for sbatch, such as [--gres=gpu:1, --time=2:00:00].
    """

    sbatch: tuple[str, ...] = ()

    def launch(self, work: Work) -> None:
        script = work.out / "slurm.sh"
        write_text(script, array_script(work.jobs, work.out, work.at_once))
        before = [written(job) for job in work.jobs]
        code = self.submit(script)
        # The code of an array is that of its worst task, so that of a run is not known.
        if code and before == [written(job) for job in work.jobs]:
            raise ComponentError(
                f"--launcher slurm: sbatch ended with exit code {code} before any run began; what "
                f"it said is above. The script is {script}."
            )
        for job in work.jobs:
            work.ended(job, None)

    def submit(self, script: Path) -> int:
        """Wait for the array's end; sbatch's exit code. Upon a KeyboardInterrupt its runs save and
        end."""
        words = ["sbatch", "--wait", "--parsable", *self.sbatch, str(script)]
        try:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise ComponentError(
                f"--launcher slurm: there is no `sbatch` here. Submit {script} where there is one, "
                "then compare again."
            ) from None
        number = ""
        try:
            assert process.stdout is not None
            # The array's number, before it waits; a name of the cluster may follow.
            number = process.stdout.readline().partition(";")[0].strip()
            return process.wait()
        except KeyboardInterrupt:
            # It sends SIGTERM, and those that have not begun never do.
            if number:
                subprocess.run(["scancel", number])
            process.terminate()
            process.wait()
            raise


def array_script(jobs: Sequence[Job], out: Path, at_once: int | None) -> str:
    """A bash script whose array task k makes the k-th run. at_once: None for no limit."""
    limit = "" if at_once is None else f"%{at_once}"
    # Slurm puts job and task in place of %A and %a, and a % in place of two.
    log = shlex.quote(f"{str(out).replace('%', '%%')}/slurm-%A_%a.log")
    head = [
        "#!/bin/bash",
        "#SBATCH --job-name=rewardft-compare",
        f"#SBATCH --array=0-{len(jobs) - 1}{limit}",
        f"#SBATCH --output={log}",
        'case "$SLURM_ARRAY_TASK_ID" in',
    ]
    return "\n".join([*head, *(branch(k, job) for k, job in enumerate(jobs)), "esac", ""])


def branch(number: int, job: Job) -> str:
    """What one task of the array does."""
    parent, mark, log = (shlex.quote(str(p)) for p in (job.folder.parent, job.mark, job.log))
    # `exec`, so that Slurm's signals reach the run and not a shell that waits for it.
    begin, resume = (f"exec {shlex.join(words)} > {log} 2>&1" for words in (job.begin, job.resume))
    return f"{number}) mkdir -p {parent}; if [ -f {mark} ]; then {resume}; else {begin}; fi ;;"
