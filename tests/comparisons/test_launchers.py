"""Launchers: found by name or file, their options checked before anything runs, and given what they need."""

import os
import threading
from pathlib import Path

import pytest

from rewardft.cli import main
from rewardft.comparisons import runner
from rewardft.comparisons.launching import find_launch, parse_options
from rewardft.comparisons.members import expand
from rewardft.comparisons.runner import Launch, job_of, launch_all, wait_until_free
from rewardft.comparisons.sources import Request, Variant
from rewardft.contracts.launching import Job, Work
from rewardft.contracts.records import load_comparison
from rewardft.errors import ComponentError, RewardftError
from rewardft.launchers.local import Local, visible_gpus
from rewardft.storage.folder import hold
from tests.comparisons.test_compare import begun, compare, folder  # noqa: F401 (folder is a fixture)
from tests.documents import files_in

BACKWARDS = """
from typing import Annotated

from annotated_types import Ge

from rewardft import hookimpl


class Backwards:
    def __init__(self, threads: Annotated[int, Ge(1)] = 1, note: str | None = None):
        self.threads, self.note = threads, note

    def launch(self, work):
        told = [self.note, str(work.at_once), *(job.label for job in work.jobs)]
        (work.out / "told.txt").write_text("\\n".join(map(str, told)))
        for job in reversed(work.jobs):
            work.began(job)
            work.make(job, self.threads)
            work.ended(job, None)


@hookimpl
def register_launchers():
    return {"backwards": Backwards}
"""


def test_hook_register_launchers(folder, capsys):
    """A launcher in a file makes the runs, in its own order, with its options; how each ended is read from it."""
    (folder / "mine.py").write_text(BACKWARDS)
    words = ["recipe.yaml", "--seeds", "2", "--launcher", "./mine.py", "--jobs", "3"]
    assert compare(*words, "--launcher-option", "note=a: b") == 2
    assert compare(*words, "--launcher-option", "note='a: b'") == 0
    assert begun(folder) == ["draft_k 4", "draft_k 3"]
    assert (folder / "out" / "told.txt").read_text().splitlines() == [
        "a: b",
        "3",
        "recipe seed 3",
        "recipe seed 4",
    ]
    record = load_comparison(folder / "out" / "comparison.json")
    assert [run.status for run in record.variants[0].runs] == ["finished"] * 2
    said = capsys.readouterr().err
    assert "recipe seed 4: started\nrecipe seed 4: done, " in said


REFUSED = {
    ("slrum",): "--launcher: there is no launcher 'slrum'. Did you mean 'slurm'?",
    (
        "local",
        "gpus=1",
    ): "--launcher-option: launcher 'local' has no option 'gpus'. It has no options.",
    (
        "./mine.py",
        "thread=2",
    ): "--launcher-option: launcher 'backwards' has no option 'thread'. Did you mean 'threads'?",
    (
        "./mine.py",
        "threads=0",
    ): "--launcher-option: option 'threads' of launcher 'backwards': expected a whole number "
    "of at least 1, got 0 (a whole number).",
    (
        "./mine.py",
        "threads=two",
        "note=3",
    ): "--launcher-option: option 'threads' of launcher 'backwards': expected a "
    "whole number of at least 1, got 'two' (text).\n--launcher-option: option 'note' of launcher 'backwards': expected "
    "text or null, got 3 (a whole number); put it in quotes.",
    ("./mine.py", "threads"): "--launcher-option threads: expected NAME=VALUE, such as gpus=1.",
    ("./mine.py", "threads=1", "threads=2"): "--launcher-option threads=2: threads is given twice.",
    (
        "slurm",
        "--gres=gpu:1",
    ): "--launcher-option: launcher 'slurm' has no option '--gres'. Choose one of: sbatch.",
    (
        "./events.py",
    ): "--launcher ./events.py: expected a plugin that registers one launcher; it has none.",
    (
        "./two.py",
    ): "--launcher ./two.py: expected a plugin that registers one launcher; it has a, b.",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_wrong_launcher_or_option_is_refused_before_anything_runs(folder, words, capsys):
    (folder / "mine.py").write_text(BACKWARDS)
    (folder / "two.py").write_text(BACKWARDS.replace('{"backwards": ', '{"a": Backwards, "b": '))
    name, *options = words
    given = [f"--launcher-option={text}" for text in options]
    assert compare("recipe.yaml", "--launcher", name, *given) == 2
    assert capsys.readouterr().err.strip() == f"error: {REFUSED[words]}"
    assert not (folder / "out").exists()


def test_a_launcher_that_cannot_be_built_says_where_it_is(folder):
    (folder / "mine.py").write_text(
        BACKWARDS.replace("self.threads, ", "self.threads = 1 / 0\n        ")
    )
    with pytest.raises(ComponentError) as caught:
        find_launch("./mine.py", {}, None)
    line = 1 + BACKWARDS.splitlines().index("class Backwards:")
    assert str(caught.value) == (
        f"launcher 'backwards' (plugin 'mine', {folder}/mine.py:{line}) could not be built: ZeroDivisionError: "
        "division by zero"
    )


def test_options_are_read_as_a_recipe_reads_them():
    texts = ["a=1e-3", "b=[x, 2]", "c=", "d=x=y"]
    assert parse_options(texts) == {"a": 1e-3, "b": ["x", 2], "c": None, "d": "x=y"}
    with pytest.raises(RewardftError, match=r"^--launcher-option seed=010: 010 begins with 0"):
        parse_options(["seed=010"])


def test_a_component_of_another_kind_is_told_from_a_launcher(folder, capsys):
    assert main(["ls", "launchers"]) == 0
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert ["local", "builtin"] in rows and ["ray", "clusters"] in rows
    assert main(["show", "launcher", "ray"]) == 0
    shown = capsys.readouterr().out
    assert "how often a run is taken up again after its worker was lost." in " ".join(shown.split())
    assert shown.rstrip().endswith("--launcher ray --launcher-option option=value")


# -- what a launcher is given ----------------------------------------------------------------------------------------


def jobs_in(place, count):
    words = ["sh", "-c", "echo began; exit 3"]
    return [
        Job(
            f"v seed {k}",
            place / f"{k}",
            place / f"{k}.log",
            words,
            ["echo", "resumed"],
            place / f"{k}" / "mark",
        )
        for k in range(count)
    ]


def work_of(place, jobs, make=None, at_once=None):
    told = []
    began, ended = (lambda job: told.append(job.label)), (lambda job, code: told.append(code))
    return Work(jobs, at_once, place, make, began, ended), told


def test_each_run_at_a_time_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    lent, both = [], threading.Barrier(2)

    def make(job, threads, device):
        lent.append((threads, device))
        if job.label in ("v seed 0", "v seed 1") and len(work.jobs) > 1:
            both.wait(300)  # for the other one, so that two are under way at once
        return 0

    cores = os.cpu_count()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    work, told = work_of(tmp_path, jobs_in(tmp_path, 5), make, at_once=2)
    Local().launch(work)
    devices = [device for _, device in lent]
    assert sorted(devices[:2]) == ["2", "5"] and set(devices) == {"2", "5"} and len(lent) == 5
    assert {threads for threads, _ in lent} == {max(cores // 2, 1)}
    assert told.count(0) == 5 and told[:2] == ["v seed 0", "v seed 1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    lent.clear()
    work, _ = work_of(tmp_path, jobs_in(tmp_path, 1), make)
    Local().launch(work)
    assert lent == [(cores, None)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_the_launcher_of_the_documentation_begins_and_resumes(tmp_path):
    names = {}
    exec(files_in("docs/writing-a-plugin.md")["politely.py"], names)
    jobs = jobs_in(tmp_path, 2)
    jobs[1].folder.mkdir()
    jobs[1].mark.touch()
    work, told = work_of(tmp_path, jobs)
    names["Politely"](niceness=1).launch(work)
    assert told == ["v seed 0", 3, "v seed 1", 0]
    assert [job.log.read_text() for job in jobs] == ["began\n", "resumed\n"]


def test_a_job_is_the_command_that_one_would_type(folder):
    (member,) = expand(
        Request((Variant("v", Path("recipe.yaml"), ("sampler.eta=0.5",)),)), Path("out")
    )
    job = job_of(member)
    typed = ["run", "recipe.yaml", "--set", "sampler.eta=0.5", "--set", "seed=3"]
    assert list(job.begin[1:]) == ["-m", "rewardft", *typed, "--out", str(member.folder)]
    assert list(job.resume) == [*job.begin, "--resume"]
    assert (job.mark, job.log) == (member.folder / "recipe.yaml", Path(f"{member.folder}.log"))
    assert member.folder.is_absolute() and job.label == "v seed 3"


def test_a_folder_that_is_held_is_waited_for(tmp_path, monkeypatch):
    """A run that lost its parent saves and ends; until then another may not begin."""
    handle = hold(tmp_path / "run", make=True)
    freed = []
    timer = threading.Timer(0.3, lambda: (freed.append(True), os.close(handle)))
    timer.start()
    wait_until_free(tmp_path / "run")
    assert freed == [True]
    monkeypatch.setattr(runner, "PATIENCE", 0.2)
    handle = hold(tmp_path / "run", make=True)
    wait_until_free(tmp_path / "run")  # not for ever: the run then says who is in the way
    os.close(handle)


def test_an_unknown_exit_code_is_read_from_the_folder(folder):
    class Idle:
        def launch(self, work):
            for job in work.jobs:
                work.ended(job, None)

    members = expand(Request((Variant("v", Path("recipe.yaml")),), seeds=2), Path("out"))
    members[1].folder.mkdir(parents=True)
    (members[1].folder / "summary.json").write_text('{"status": "finished"}')
    told = []
    launch_all(members, members, Path("out"), Launch(Idle()), lambda *each: told.append(each))
    assert told == [(members[0], 1, 2), (members[1], 0, 2)]
