"""Every algorithm on the digits: same base, same reward,
same number of reward evaluations, several seeds.

    python benchmarks/algorithms.py --out runs/algorithms --seeds 0 1 2
    python benchmarks/algorithms.py --out runs/tuning --seeds 100 --tune 5e-4 2e-3 8e-3

Writes OUT/results.json and prints a Markdown table: the held-out reward before and after with its
paired 95 % interval (`seeds.py` says what it means), the change of the independent judge, and what
one run calls. `--tune` runs each algorithm at each learning rate instead, and prints the change of
the held-out reward. A run that is already there is not repeated. Needs `rewardft[digits]`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

from seeds import evaluations, pool, run_once

FLOW = (
    "flow_grpo",
    "dance_grpo",
    "mix_grpo",
    "flow_grpo_fast",
    "grpo_guard",
    "flow_dppo",
    "branch_grpo",
    "temp_flow_grpo",
    "diffusion_nft",
    "raft",
    "awm",
    "dgpo",
    "crd",
    "opsd",
    "adjoint_matching",
    "srpo",
    "flow_bp",
    "leap_align",
)
EPSILON = (
    "draft",
    "draft_k",
    "draft_lv",
    "alignprop",
    "refl",
    "drtune",
    "ddpo",
    "dpok",
    "grpo",
    "online_dpo",
    "group_preference",
    "d3po",
    "diffusion_dpo",
    "diffusion_kto",
    "spin",
)
REWARD, ACCURACY, LOG_PROB = (
    "reward/digit_likelihood",
    "digit_judge/accuracy",
    "digit_judge/log_prob",
)
COUNTS = ("denoiser_forward_samples", "denoiser_backward_samples", "reward_evaluations")
Job = tuple[str, Path, list[str]]


def run_job(job: Job) -> None:
    """One run, on one thread: processes are what runs side by side."""
    import torch

    torch.set_num_threads(1)
    name, folder, overrides = job
    run_once(Path(str(files("rewardft_recipes") / f"digits_{name}.yaml")), folder, overrides)


def run_all(jobs: Iterable[Job], processes: int) -> None:
    with ProcessPoolExecutor(processes) as executor:
        list(executor.map(run_job, jobs))


def summarise(name: str, folders: list[Path]) -> dict[str, Any]:
    """One algorithm over its seeds: pooled rows by name, and the counts of the first seed's run."""
    rows = {row["name"]: row for row in pool([evaluations(folder) for folder in folders])}
    summary = json.loads((folders[0] / "summary.json").read_text())
    counts = {count: summary[count] for count in COUNTS} | labelling(folders[0])
    return {"algorithm": name, "rows": {n: rows[n] for n in (REWARD, ACCURACY, LOG_PROB)}, **counts}


def labelling(folder: Path) -> dict[str, int]:
    """Offline pairs are labelled by the reward before training: two evaluations for each pair."""
    from rewardft.recipe.recipe import load_recipe

    data = load_recipe(folder / "recipe.yaml").data
    return (
        {"reward_evaluations": 2 * int(data.options["size"])} if data.use == "digit_pairs" else {}
    )


def markdown(results: list[dict[str, Any]]) -> str:
    lines = [
        "| algorithm | reward before | after | difference (95 %) | each seed | judge: accuracy "
        "| judge: log p | denoised | differentiated | rewards |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        row, accuracy, log_prob = (result["rows"][name] for name in (REWARD, ACCURACY, LOG_PROB))
        seeds = ", ".join(f"{d:+.2f}" for d in row["seeds"])
        judged = (
            f"{accuracy['before']:.1%} {signed(accuracy, 100, 1)} "
            f"| {log_prob['before']:.2f} {signed(log_prob)}"
        )
        counts = " | ".join(f"{result[count] / 1000:.1f} k" for count in COUNTS)
        means = f"{row['before']:.3f} | {row['after']:.3f} | {signed(row)}"
        lines.append(f"| `{result['algorithm']}` | {means} | {seeds} | {judged} | {counts} |")
    return "\n".join(lines)


def signed(row: dict[str, Any], factor: float = 1.0, digits: int = 2) -> str:
    return f"{factor * row['difference']:+.{digits}f} ± {factor * row['half_width']:.{digits}f}"


def tuning_table(names: list[str], rates: list[str], folders: dict[tuple[str, str], Path]) -> str:
    """Change of the held-out reward, one column per learning rate."""
    lines = ["| algorithm | " + " | ".join(rates) + " |", "|---|" + "---|" * len(rates)]
    for name in names:
        rows = [summarise(name, [folders[name, rate]])["rows"][REWARD] for rate in rates]
        lines.append(f"| `{name}` | " + " | ".join(signed(row) for row in rows) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--algorithms", nargs="+", default=[*EPSILON, *FLOW])
    parser.add_argument(
        "--tune",
        nargs="+",
        default=[],
        metavar="LR",
        help="learning rates to try, at the first seed",
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    names, seed = options.algorithms, options.seeds[0]
    if options.tune:
        folders = {(n, rate): options.out / n / f"lr{rate}" for n in names for rate in options.tune}
        run_all(
            (
                (n, f, [f"seed={seed}", f"optimizer.lr={rate}", *options.overrides])
                for (n, rate), f in folders.items()
            ),
            options.jobs,
        )
        print(tuning_table(names, options.tune, folders))
        return
    runs = {n: [options.out / n / f"seed{s}" for s in options.seeds] for n in names}
    run_all(
        (
            (n, f, [f"seed={s}", *options.overrides])
            for n in names
            for s, f in zip(options.seeds, runs[n])
        ),
        options.jobs,
    )
    results = [summarise(n, runs[n]) for n in names]
    (options.out / "results.json").write_text(json.dumps(results, indent=2))
    print(markdown(results))


if __name__ == "__main__":
    main()
