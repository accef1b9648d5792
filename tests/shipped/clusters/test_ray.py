"""The launcher `ray`: the same values as without it, a lost worker, failures that are told."""

import json
import os
import shutil
import signal
import sys
import threading

import pytest
from rewardft_plugins.clusters.ray_tasks import RayTasks

from rewardft.contracts.launching import Job
from rewardft.contracts.records import load_comparison
from rewardft.errors import ComponentError
from tests.comparisons.test_compare import begun, compare, folder  # noqa: F401 (folder is a fixture)
from tests.comparisons.test_launchers import work_of
from tests.processes import wait_for
from tests.shipped.clusters.obedient import obey

MISSING = "--launcher ray: the package is not installed: pip install 'rewardft[ray]'"


@pytest.fixture(autouse=True)
def _workers_are_not_nice(monkeypatch):
    """Ray's workers yield to everybody else (niceness 15), for minutes where a machine is busy."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


def test_a_missing_package_is_told_before_anything_runs(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ComponentError) as caught:
        RayTasks()
    assert str(caught.value) == MISSING
    assert compare("recipe.yaml", "--launcher", "ray") == 2
    assert capsys.readouterr().err.startswith(f"error: {MISSING}\nwhile building launcher 'ray'")
    assert not (folder / "out").exists()


def job(place, name, *words):
    return Job(name, place / name, place / f"{name}.log", words, words, place / name / "mark")


@pytest.mark.slow
def test_lost_workers_failures_and_limits(tmp_path):
    pytest.importorskip("ray", reason="needs ray: pip install ray")
    jobs = [
        job(tmp_path, "good", "go"),
        job(tmp_path, "once", "die", "1"),
        job(tmp_path, "always", "die", "9"),
        job(tmp_path, "full", "raise"),
    ]
    work, told = work_of(tmp_path, jobs, obey, at_once=2)
    RayTasks(cpus=1, retries=2).launch(work)
    # Four runs, each told once when it begins and once when it ends.
    assert sorted(map(str, told)) == ["1", "1", "10", "10", "always", "full", "good", "once"]
    assert (tmp_path / "once.log").read_text().count("\n") == 2, "lost once, made again"
    said = (tmp_path / "always.log").read_text()
    assert "\nended by Ray: WorkerCrashedError: " in said
    assert sum(line.isdigit() for line in said.splitlines()) == 3, "made, and taken up twice"
    assert "No space left on device" in (tmp_path / "full.log").read_text()


# Notes the process that the run's server was started by: the worker.
SLOW = """

@hookimpl
def on_step_end(step):
    server = Path(f"/proc/{os.getppid()}/stat")
    (HERE / "worker.txt").write_text(server.read_text().split()[3])
    time.sleep(0.3 if os.environ.get("SLOW") else 0)
"""


@pytest.mark.slow
def test_ray_makes_the_same_runs_though_a_worker_is_lost(folder, monkeypatch):
    pytest.importorskip("ray", reason="needs ray: pip install ray")
    (folder / "events.py").write_text((folder / "events.py").read_text() + SLOW)
    words = ["recipe.yaml", "--seeds", "2", "--set", "train.steps=20"]

    def lose():
        runs = folder / "out" / "runs" / "recipe"
        wait_for(lambda: any(runs.glob("seed3-*/metrics.jsonl")))
        (run,) = runs.glob("seed3-*/metrics.jsonl")
        wait_for(lambda: len(run.read_text().splitlines()) > 3)
        os.kill(int((folder / "worker.txt").read_text()), signal.SIGKILL)

    thread = threading.Thread(target=lose)
    monkeypatch.setenv("SLOW", "1")
    thread.start()
    assert compare(*words, "--launcher", "ray", "--jobs", "1") == 0
    thread.join()
    monkeypatch.delenv("SLOW")
    by_ray = load_comparison(folder / "out" / "comparison.json").variants[0]
    assert [run.status for run in by_ray.runs] == ["finished"] * 2
    (manifest,) = (folder / "out" / "runs" / "recipe").glob("seed3-*/manifest.json")
    (resumed,) = json.loads(manifest.read_text())["resumed"]
    assert 0 < resumed["step"] < 20
    assert begun(folder) == ["draft_k 3", "draft_k 3", "draft_k 4"]
    shutil.rmtree(folder / "out")
    assert compare(*words) == 0
    assert load_comparison(folder / "out" / "comparison.json").variants[0].values == by_ray.values
