"""One process with batch 4 equals two processes with batch 2."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from rewardft.errors import CheckpointError
from rewardft.testing import run_recipe
from rewardft.testing.recipes import read_steps
from tests import processes

RECIPE = """
plugins: [rewardft.testing.tiny, ./parity.py]
seed: 3
model: {use: tiny, prediction: v_prediction, guidance: 2.0, width: 12}
sampler: {use: ddim, steps: 5, eta: 0.3}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}, {use: corner, weight: 0.1}]
regularizers: [{use: kl, weight: 0.05}]
algorithm: {use: drtune, train_steps: 2, early_stop: 2}
adapter: {kind: lora, rank: 3}
optimizer: {use: adamw, lr: 5e-2, eps: 0.1, schedule: cosine, warmup: 2}
train: {steps: 6, log_every: 2}
evaluate: {every: 3, samples: 6}
save: {every: 2, keep: 9}
"""
PLUGIN = '''
import os

import torch

from rewardft import hookimpl


def corner(rollout, batch):
    """The first pixel; it applies to one sample of the whole data set alone, so most processes see no value."""
    value = rollout.decoded[:, 0, 0, 0]
    return torch.where(torch.tensor([i == "train/3" for i in batch.ids]), value, float("nan"))


@hookimpl
def register_rewards():
    return {"corner": corner}


@hookimpl
def on_run_start(run):
    (run.folder / f"pid-{'main' if run.is_main else 'other'}").write_text(str(os.getpid()))


@hookimpl
def stop_run(run, step):
    """Only one process has this opinion; the main process's counts."""
    return "the other process wants to stop" if not run.is_main and step == 4 else None
'''
RUNS = {
    "drtune": [],
    "draft": ["algorithm={use: draft}"],
    "draft_lv": ["algorithm={use: draft_lv}"],
    "accumulate": ["train.accumulate=2"],
    "full": ["adapter={kind: full}", "optimizer.lr=1e-3"],
}
LONG = [
    "train.steps=400",
    "train.log_every=1",
    "save.every=0",
    "optimizer.schedule=constant",
    "adapter.dropout=0.2",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "parity.py").write_text(PLUGIN)
    return folder


def launch(*arguments):
    """Two processes on this machine, without a GPU."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        *map(str, arguments),
    ]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.fixture(scope="module")
def interrupted(folder):
    """The command line in two processes; SIGTERM reaches only the second."""
    out = folder / "interrupted"
    sets = [part for text in [*LONG, "data.batch_size=2"] for part in ("--set", text)]
    process = launch("-m", "rewardft", "run", folder / "recipe.yaml", "--out", out, *sets)
    deadline = time.monotonic() + 300
    while not ((out / "metrics.jsonl").exists() and len(read_steps(out)) >= 5):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no 5 steps after 300 s"
        time.sleep(0.05)
    os.kill(int((out / "pid-other").read_text()), signal.SIGTERM)
    output = process.communicate(timeout=300)[0]
    step = json.loads((out / "summary.json").read_text())["step"]
    saved = sorted(
        p.name for p in (out / "checkpoints").glob("step-*")
    )  # before anything resumes the run
    return SimpleNamespace(
        out=out, output=output, returncode=process.returncode, step=step, saved=saved
    )


@pytest.fixture(scope="module")
def two(folder, interrupted):
    """All runs in two processes, started once: `answers[rank][name]` is a summary or the text of an error."""
    finish = [f"train.steps={interrupted.step + 3}", *LONG[1:], "data.batch_size=2"]
    jobs = [
        (name, f"two-{name}", [*sets, "data.batch_size=2"], False) for name, sets in RUNS.items()
    ]
    jobs += [("again", "two-drtune", ["data.batch_size=2"], False)]
    jobs += [("resumed", "interrupted", finish, True), ("whole", "whole", finish, False)]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    processes.run_ranks(carry_out_jobs, folder)
    return [json.loads((folder / f"answers-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_equal_one(folder, two, name):
    one, other = (
        run_recipe(folder / "recipe.yaml", folder / f"one-{name}", *RUNS[name]),
        folder / f"two-{name}",
    )
    steps = read_steps(other)
    assert [s["step"] for s in steps] == [1, 2, 3, 4, 5, 6] == [s["step"] for s in one.steps]
    for key in (
        "loss",
        "reward",
        "reward/tiny_brightness",
        "reward/corner",
        "penalty/kl",
        "gradient_norm",
    ):
        expected = torch.tensor(one.column(key))
        assert torch.allclose(
            torch.tensor([s[key] for s in steps]), expected, rtol=2e-5, atol=2e-6, equal_nan=True
        ), key
    assert (
        0 < sum(s["reward/corner"] == s["reward/corner"] for s in steps) < 6
    )  # applies now and then: NaN spreads nowhere
    mine, theirs = weights(one.folder), weights(other)
    assert mine.keys() == theirs.keys()
    assert max(float((mine[n] - theirs[n]).abs().max()) for n in mine) < 2e-4
    for step in (0, 3, 6):
        a, b = (
            json.loads((f / "evaluations" / f"step-{step:08d}.json").read_text())
            for f in (one.folder, other)
        )
        assert a["ids"] == b["ids"]
        assert b["per_sample"]["reward/tiny_brightness"] == pytest.approx(
            a["per_sample"]["reward/tiny_brightness"], abs=2e-5
        )


def weights(run):
    (path,) = (run / "adapter").glob("*.safetensors")
    return load_file(path)


def test_every_process_has_the_same_summary_and_only_the_main_one_writes(folder, two):
    own = ("train_seconds", "peak_memory_bytes")  # each process has its own
    one, other = ({k: v for k, v in process["drtune"].items() if k not in own} for process in two)
    assert one == other and one["status"] == "finished"
    files = {
        str(p.relative_to(folder / "one-drtune"))
        for p in (folder / "one-drtune").rglob("*")
        if p.is_file()
    }
    others = {
        str(p.relative_to(folder / "two-drtune"))
        for p in (folder / "two-drtune").rglob("*")
        if p.is_file()
    }
    assert others == files | {"pid-other"}
    assert (
        json.loads((folder / "two-drtune" / "manifest.json").read_text())["hardware"]["processes"]
        == 2
    )
    lines = (folder / "two-drtune" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 6 + 3


def test_an_existing_run_is_refused_on_every_process(folder, two):
    text = f"{folder / 'two-drtune'} already holds a finished run. Continue it with --resume and a larger train.steps"
    assert two[0]["again"] == two[1]["again"] and two[0]["again"].startswith(text)


def test_a_signal_to_one_process_stops_all_at_the_same_step(interrupted):
    assert 5 <= interrupted.step < 400 and interrupted.returncode != 0
    assert "interrupted by SIGTERM" in interrupted.output and "--resume" in interrupted.output
    assert interrupted.saved[-1] == f"step-{interrupted.step:08d}"


def test_resuming_two_processes_continues_to_the_same_bits(folder, two, interrupted):
    """With adapter dropout: every process draws its own masks, and draws them again after a resume."""
    resumed, whole = folder / "interrupted", folder / "whole"
    assert two[0]["resumed"]["step"] == two[0]["whole"]["step"] == interrupted.step + 3
    assert [s["loss"] for s in read_steps(resumed)] == [s["loss"] for s in read_steps(whole)]
    mine, theirs = weights(resumed), weights(whole)
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)


STOPPER = '''
import os
import signal
from pathlib import Path

from rewardft import hookimpl

calls = 0


def stopper(rollout, batch):
    """Sends SIGTERM in its third call, where the first half of the second step has been accumulated; once."""
    global calls
    calls += 1
    flag = Path(__file__).with_name("interrupt")
    if calls == 3 and flag.exists():
        flag.unlink()
        os.kill(os.getpid(), signal.SIGTERM)
    return rollout.decoded.flatten(1).mean(1)


@hookimpl
def on_run_start():
    global calls
    calls = 0


@hookimpl
def register_rewards():
    return {"stopper": stopper}
'''


def test_an_interrupt_waits_until_the_step_is_whole(folder):
    """Gradients that were accumulated but not applied are in no checkpoint, so the run ends after the step."""
    (folder / "stopper.py").write_text(STOPPER)
    sets = [
        f"plugins=[rewardft.testing.tiny, {folder}/stopper.py]",
        "rewards=[{use: stopper}]",
        "evaluate.every=0",
    ]
    sets += ["train.accumulate=2", "data.batch_size=2", "save.every=0"]
    whole = run_recipe(folder / "recipe.yaml", folder / "uninterrupted", *sets)
    (folder / "interrupt").touch()
    first = run_recipe(folder / "recipe.yaml", folder / "halved", *sets)
    assert (first.summary["status"], first.summary["step"], first.summary["samples"]) == (
        "interrupted",
        2,
        8,
    )
    resumed = run_recipe(folder / "recipe.yaml", folder / "halved", *sets, resume=True)
    assert [s["loss"] for s in resumed.steps] == [s["loss"] for s in whole.steps] and len(
        whole.steps
    ) == 6
    mine, theirs = weights(resumed.folder), weights(whole.folder)
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)


def test_exchanges_between_processes(two):
    """Gradients missing here or everywhere, values known to some, decisions and errors of the main process."""
    for rank in (0, 1):
        facts = two[rank]["functions"]
        assert facts["gradients"] == [[3.0, 3.0], [0.5], None]
        assert facts["parameters"] == [0.0, 0.0]
        assert facts["metrics"] == [
            {"everywhere": 2.25, "only 0": 5.0, "nowhere": "nan", "only 1": 7.0}
        ]
        assert (
            facts["decision"] == "rank 0"
            and facts["error"] == "refused by rank 0"
            and facts["largest"] == 15
        )


def exchange(accelerator):
    """What `test_exchanges_between_processes` looks at, computed in each process."""
    from rewardft.engine import processes as distributed

    rank = accelerator.process_index
    parameters = [torch.nn.Parameter(torch.full((n,), float(rank))) for n in (2, 1, 1)]
    parameters[0].grad = torch.tensor([2.0, 2.0]) + 8 * rank
    parameters[1].grad = torch.tensor([2.0]) if rank else None
    distributed.average_gradients(accelerator, parameters, 2)
    distributed.copy_from_main(accelerator, [parameters[0]])
    sums = {"everywhere": torch.tensor([4.0, 1.0] if rank else [5.0, 3.0])}
    sums |= {
        f"only {rank}": torch.tensor([[10.0, 2.0], [7.0, 1.0]][rank]),
        "nowhere": torch.zeros(2),
    }
    means = distributed.average_metrics(accelerator, [sums])

    def refuse():
        raise CheckpointError(f"refused by rank {rank}")

    try:
        error = distributed.main_decides(accelerator, refuse)
    except CheckpointError as refused:
        error = str(refused)
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "parameters": parameters[0].tolist(),
        "metrics": [{k: v if v == v else "nan" for k, v in step.items()} for step in means],
        "decision": distributed.main_decides(accelerator, lambda: f"rank {rank}"),
        "error": error,
        "largest": distributed.largest(accelerator, 15 * rank),
    }


def carry_out_jobs(folder):
    """One of the two processes: do the jobs in order, note what came of each."""
    from accelerate import Accelerator

    torch.set_num_threads(1)
    accelerator = Accelerator()
    answers = {"functions": exchange(accelerator)}
    for name, out, overrides, resume in json.loads((folder / "jobs.json").read_text()):
        torch.manual_seed(accelerator.process_index)
        try:
            answers[name] = run_recipe(
                folder / "recipe.yaml", folder / out, *overrides, resume=resume
            ).summary
        except CheckpointError as error:
            answers[name] = str(error)
    (folder / f"answers-{accelerator.process_index}.json").write_text(json.dumps(answers))
    accelerator.end_training()
