"""The launcher `slurm`: its script, what it asks of sbatch, and what a refusal or Ctrl-C does."""

import os
import subprocess

import pytest
from rewardft_plugins.clusters.slurm import Slurm, array_script

from rewardft.contracts.launching import Job
from rewardft.contracts.records import load_comparison
from rewardft.errors import ComponentError
from tests.comparisons.test_compare import begun, compare, folder  # noqa: F401 (folder is a fixture)
from tests.comparisons.test_launchers import jobs_in, work_of


def program(place, name, text, monkeypatch):
    """A program of that name on the path."""
    file = place / "bin" / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")


def test_slurm_gets_the_same_list_as_a_job_array(folder, monkeypatch):
    """`sbatch` is played by a script that runs every task of the array in turn."""
    text = (
        'echo "$@" > asked.txt\nscript="${@: -1}"\n'
        "last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' \"$script\")\n"
        'for k in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$k bash "$script" || code=1; done; exit ${code:-0}'
    )
    program(folder, "sbatch", text, monkeypatch)
    words = ["recipe.yaml", "--seeds", "2", "--launcher", "slurm", "--jobs", "2"]
    assert compare(*words, "--launcher-option", "sbatch=[--gres=gpu:1, --time=2:00:00]") == 0
    asked = ["--wait", "--parsable", "--gres=gpu:1", "--time=2:00:00", f"{folder}/out/slurm.sh"]
    assert (folder / "asked.txt").read_text().split() == asked
    assert "#SBATCH --array=0-1%2" in (folder / "out" / "slurm.sh").read_text()
    assert begun(folder) == ["draft_k 3", "draft_k 4"]
    assert [
        r.status for r in load_comparison(folder / "out" / "comparison.json").variants[0].runs
    ] == ["finished"] * 2


def test_a_machine_without_sbatch_says_so(folder, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(folder))
    assert compare("recipe.yaml", "--launcher", "slurm") == 2
    assert capsys.readouterr().err.strip() == (
        f"error: --launcher slurm: there is no `sbatch` here. Submit {folder}/out/slurm.sh where there is one, then compare again."
    )


def test_a_refusal_of_sbatch_is_an_error_and_failed_runs_are_none(tmp_path, monkeypatch):
    program(tmp_path, "sbatch", "exit 7", monkeypatch)
    jobs = jobs_in(tmp_path, 2)
    work, told = work_of(tmp_path, jobs)
    with pytest.raises(ComponentError) as caught:
        Slurm().launch(work)
    assert str(caught.value) == (
        "--launcher slurm: sbatch ended with exit code 7 before any run began; what it said is above. The script is "
        f"{tmp_path}/slurm.sh."
    )
    assert told == []
    # A log shows that a run has begun: the code is that of the worst one, and each says its own.
    program(tmp_path, "sbatch", f"date > {jobs[0].log}; exit 7", monkeypatch)
    Slurm().launch(work)
    assert told == [None, None]


def test_a_task_of_the_script_begins_or_goes_on_whatever_its_folders_are_called(tmp_path):
    place = tmp_path / "it's 100% $HOME; exit 4 "
    words = ["printf", "%s|", "a b", "$HOME", "it's", ";"]
    jobs = [
        Job(
            "",
            place / str(k) / "run",
            place / str(k) / "log",
            words,
            [*words, "--resume"],
            place / str(k) / "mark",
        )
        for k in range(2)
    ]
    script = tmp_path / "slurm.sh"
    script.write_text(array_script(jobs, place, None))
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert (
        f"""#SBATCH --output='{str(place / "slurm-").replace("'", chr(39) + '"' + chr(39) + '"' + chr(39)).replace("%", "%%")}%A_%a.log'"""
        in script.read_text()
    )

    def task(number):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}
        subprocess.run(["bash", str(script)], check=True, env=environment)
        return jobs[number].log.read_text()

    assert task(1) == "a b|$HOME|it's|;|" and not jobs[0].log.exists()
    jobs[1].mark.touch()
    assert task(1) == "a b|$HOME|it's|;|--resume|"


def test_ctrl_c_cancels_the_array(tmp_path, monkeypatch):
    program(
        tmp_path, "sbatch", "echo '77;here'; sleep 0.5; kill -INT $PPID; exec sleep 60", monkeypatch
    )
    program(tmp_path, "scancel", f'echo "$@" > {tmp_path}/cancelled', monkeypatch)
    work, told = work_of(tmp_path, jobs_in(tmp_path, 2))
    with pytest.raises(KeyboardInterrupt):
        Slurm().launch(work)
    assert (tmp_path / "cancelled").read_text() == "77\n" and told == []
