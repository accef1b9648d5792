"""rewardft beside TRL 0.23.1, the last that had DDPO and AlignProp, and beside flow_grpo: time and
memory of a training step, on the same random weights, prompts, reward and LoRA.

    python benchmarks/peers.py                                # on a CPU, one thread
    python benchmarks/peers.py --device cuda --size sd15 --steps 50 --batch 4
    python benchmarks/peers.py --only draft_1 --count 5
    git clone https://github.com/yifan123/flow_grpo
    python benchmarks/peers.py --only grpo --clone flow_grpo

TRL goes into a virtual environment of its own (`--venv`), which sees this one's packages: both
sides run on the same torch, diffusers and peft, and nothing large is installed. There flow_grpo's
script runs too, as it is in a clone of its repository.

All implementations of a case run at once, each in a process, and take steps in turn, so that what
else the machine does meets all of them. The first step of each is left out, the least of the others
counts. On a CPU: processor seconds of one thread, and resident memory; on a GPU: seconds, and what
torch's allocator has handed out. `at rest` is what is there before the model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIDES = HERE / "side_by_side"
TRL = "trl==0.23.1"
OTHERS = ["absl-py", "ml_collections", "wandb"]  # what flow_grpo's script needs
DEFAULT = Path.home() / ".cache" / "rewardft" / "peers"
Side = tuple[str, str, str, list[str]]  # its name, script, precision and settings
THEIRS: Side = ("TRL", "with_trl.py", "no", [])
THEIRS_BF16: Side = ("TRL, bf16", "with_trl.py", "bf16", [])
HAND: Side = ("a loop by hand", "by_hand.py", "no", [])
OURS: Side = ("rewardft", "with_rewardft.py", "no", [])
OURS_ONE: Side = ("rewardft, `micro_batch: 1`", "with_rewardft.py", "no", ["train.micro_batch=1"])
OURS_BF16: Side = ("rewardft, bf16", "with_rewardft.py", "bf16", [])
FLOW_GRPO: Side = ("flow_grpo", "with_flow_grpo.py", "no", [])
# Name -> algorithm, trained steps (None: all), and who takes part; the first is what others are
# compared with.
CASES: dict[str, tuple[str, int | None, list[Side]]] = {
    "draft_1": ("draft", 1, [THEIRS, HAND, OURS, THEIRS_BF16, OURS_BF16]),
    "draft_5": ("draft", 5, [THEIRS, HAND, OURS]),
    "draft_all": ("draft", None, [THEIRS, OURS]),
    "ddpo": ("ddpo", 0, [THEIRS, HAND, OURS, OURS_BF16]),
    "grpo": ("grpo", 0, [FLOW_GRPO, OURS, OURS_ONE]),
}


def make_environment(folder: Path, packages: list[str]) -> Path:
    """The Python of an environment with `packages`; made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    # It looks here for what it has not: torch above all, which pip would fetch with CUDA.
    site = next(folder.glob("lib/python*/site-packages"))
    shared = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "shared.pth").write_text("".join(f"{path}\n" for path in shared))
    pins = folder / "constraints.txt"
    names = ("torch", "diffusers", "peft", "accelerate", "transformers", "numpy")
    pins.write_text("".join(f"{name}=={version(name)}\n" for name in names))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(pins), *packages]
    subprocess.run(pip, check=True)
    return python


class Worker:
    """One implementation in a process of its own."""

    def __init__(self, python: Path, side: Side, case: dict[str, Any]) -> None:
        name, script, precision, settings = side
        self.name, self.answers = name, []
        words = json.dumps(case | {"precision": precision, "settings": settings})
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (open as long as the process)
        self.process = subprocess.Popen(
            [python, SIDES / script, words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env=environment(case["device"]),
        )
        self.rest = self.read()["rest_mb"]

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        self.answers.append(self.read())

    def read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.log.seek(0)
            raise SystemExit(f"{self.name} ended with {code}:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def end(self) -> dict[str, float]:
        """The least seconds of a step after the first, and the most memory."""
        self.process.communicate()
        seconds = min(answer["seconds"] for answer in self.answers[1:])
        return {"seconds": seconds, "peak": self.answers[-1]["peak_mb"], "rest": self.rest}


def environment(device: str) -> dict[str, str]:
    """One thread; no network; no GPU where it is not asked for."""
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {**os.environ, **threads, **hidden}


def run_case(name: str, pythons: dict[str, Path], case: dict[str, Any]) -> list[str]:
    """Rows of the table."""
    algorithm, trained, sides = CASES[name]
    case = case | {"algorithm": algorithm}
    case["trained"] = case["steps"] if trained is None else trained
    workers = [Worker(pythons[side[1]], side, case) for side in sides]
    for _ in range(case["count"]):
        for worker in workers:
            worker.step()
    return rows_of(name, [(worker.name, worker.end()) for worker in workers])


def rows_of(case: str, found: list[tuple[str, dict[str, float]]]) -> list[str]:
    """A row for each implementation, beside the first."""
    first, rows = found[0][1], []
    for title, facts in found:
        speed, size = first["seconds"] / facts["seconds"], facts["peak"] / first["peak"]
        own = (facts["peak"] - facts["rest"]) / (first["peak"] - first["rest"])
        cells = [case, title, f"{facts['seconds']:.2f}", f"{speed:.2f}", f"{facts['peak']:,.0f}"]
        rows.append(f"| {' | '.join([*cells, f'{size:.2f}', f'{own:.2f}'])} |")
    return rows


def heading(case: dict[str, Any], size: str, clone: Path | None) -> list[str]:
    """What was measured where, and the table's head."""
    names = ("torch", "diffusers", "peft", "accelerate", "transformers")
    versions = ", ".join([TRL.replace("==", " "), *(f"{name} {version(name)}" for name in names)])
    if clone is not None:
        words = ["git", "-C", str(clone), "log", "-1", "--format=%h of %cs"]
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        versions += f", flow_grpo {found.stdout.strip()}"
    spec = ", ".join(f"{key} {case[key]}" for key in ("steps", "batch", "guidance", "count"))
    columns = ["case", "implementation", "s/step", "times the first's speed", "peak MB"]
    columns.append("of the first's")
    columns.append("without what is there at rest")
    return [
        f"{datetime.date.today()}, {machine(case['device'])}. {versions}. Size {size}, {spec}.",
        "",
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
    ]


def machine(device: str) -> str:
    """The GPU, or the processor."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"one thread of {models[0] if models else platform.processor()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--venv", type=Path, default=DEFAULT, help=f"where TRL goes ({DEFAULT})")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=("tiny", "mid", "sd15"), default="mid")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps T")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--count", type=int, default=3, help="training steps, with the first")
    parser.add_argument("--clone", type=Path, help="of flow_grpo's repository, for the case grpo")
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="CASE", help="default: all")
    words = parser.parse_args()
    if words.count < 2:
        parser.error("--count: at least 2, for the first step is not counted")
    names = words.only or [name for name in CASES if name != "grpo" or words.clone]
    if "grpo" in names and not (words.clone and (words.clone / "scripts/train_sd3.py").is_file()):
        parser.error("the case grpo needs --clone, a folder with flow_grpo's scripts/train_sd3.py")
    theirs = make_environment(words.venv.absolute(), [TRL, *(OTHERS if "grpo" in names else [])])
    pythons = dict.fromkeys(("with_trl.py", "with_flow_grpo.py"), theirs)
    pythons |= dict.fromkeys(("with_rewardft.py", "by_hand.py"), Path(sys.executable))
    measure(names, pythons, words)


def measure(names: list[str], pythons: dict[str, Path], words: argparse.Namespace) -> None:
    """Print the table, case by case."""
    sys.path.insert(0, str(SIDES))
    from checkpoint import save
    from checkpoint_sd3 import pixels, save_sd3

    keys = ("device", "steps", "batch", "count")
    case = {key: getattr(words, key) for key in keys} | {"guidance": 5.0}
    print("\n".join(heading(case, words.size, words.clone)), flush=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            (save_sd3 if name == "grpo" else save)(Path(folder), words.size)
            own = {"folder": folder, "pixels": pixels(words.size), "clone": str(words.clone)}
            print("\n".join(run_case(name, pythons, case | own)), flush=True)


if __name__ == "__main__":
    main()
