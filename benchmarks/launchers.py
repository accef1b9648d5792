"""A comparison of 60 runs on two Ray workers, one of which is killed on the way, against the same
comparison on this machine alone.

    python benchmarks/launchers.py FOLDER [--seeds 20] [--kill-after 20]

Each worker is a node of Ray with one core, on this machine. SIGKILL ends everything of one of them
while it makes a run. Needs `pip install 'rewardft[ray]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rewardft.contracts.records import load_comparison

# How long Ray waits for its own parts, which take long to start on a busy machine.
PATIENCE = {
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_gcs_server_request_timeout_seconds": "300",
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_health_check_timeout_ms": "60000",
}
WORDS = ["compare", "toy_draft", "--vary", "algorithm=draft_k,drtune,refl", "--pictures", "0"]
SETS = ["train.steps=8", "evaluate.every=4", "evaluate.samples=8", "save.every=2"]
WORDS += [word for text in SETS for word in ("--set", text)]


def start(out: Path, seeds: int, *more: str) -> subprocess.Popen[str]:
    """`rewardft compare` of the runs, with its output in a file."""
    words = [*WORDS, "--seeds", str(seeds), "--out", str(out), *more]
    with out.with_suffix(".txt").open("w") as said:
        command = [sys.executable, "-m", "rewardft", *words]
        return subprocess.Popen(command, stdout=said, stderr=said, text=True)


def ended(out: Path) -> int:
    """How many runs have come to their end."""
    return len(list(out.glob("runs/*/*/summary.json")))


def result(out: Path) -> list:
    """Everything that was measured, and how each run ended."""
    record = load_comparison(out / "comparison.json")
    return [
        (v.name, [value.model_dump() for value in v.values], [run.status for run in v.runs])
        for v in record.variants
    ]


def by_ray(out: Path, seeds: int, kill_after: int) -> tuple[float, int]:
    """Make the comparison, kill a worker; returns seconds and how many runs had ended by then."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "wait": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(wait=False, num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes(timeout=300)
    began = time.monotonic()
    process = start(
        out, seeds, "--launcher", "ray", "--launcher-option", f"address={cluster.address}"
    )
    while ended(out) < kill_after:
        if process.poll() is not None:
            raise SystemExit((out.with_suffix(".txt")).read_text())
        time.sleep(0.05)
    by_then = ended(out)
    cluster.remove_node(nodes[0], allow_graceful=False)
    code = process.wait()
    seconds = time.monotonic() - began
    cluster.shutdown()
    if code:
        raise SystemExit(f"exit code {code}\n{(out.with_suffix('.txt')).read_text()}")
    return seconds, by_then


def main() -> None:
    """Print the rows of a table: what became of the runs, and how long both took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--kill-after", type=int, default=20)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", **PATIENCE}  # before Ray is imported
    ray, here = given.folder / "ray", given.folder / "here"
    seconds, by_then = by_ray(ray, given.seeds, given.kill_after)
    began = time.monotonic()
    if code := start(here, given.seeds, "--jobs", "2").wait():
        raise SystemExit(f"exit code {code}\n{here.with_suffix('.txt').read_text()}")
    alone = time.monotonic() - began
    manifests = [json.loads(p.read_text()) for p in ray.glob("runs/*/*/manifest.json")]
    resumed = [one["step"] for m in manifests for one in m.get("resumed", [])]
    statuses = [status for _, _, all_of in result(ray) for status in all_of]
    print(f"| runs finished | {statuses.count('finished')} of {len(statuses)} |")
    print(f"| runs ended when the worker was killed | {by_then} |")
    print(f"| runs that went on elsewhere, from step | {len(resumed)}: {resumed} |")
    print(f"| values equal to the comparison without Ray | {result(ray) == result(here)} |")
    print(f"| seconds, with Ray's start | {seconds:.0f} |")
    print(f"| seconds here, --jobs 2 | {alone:.0f} |")


if __name__ == "__main__":
    main()
