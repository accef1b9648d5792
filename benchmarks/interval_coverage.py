"""How often the comparison's 95 % intervals contain the truth, in simulated experiments.

    python benchmarks/interval_coverage.py
    python benchmarks/interval_coverage.py --experiments 200 --seed 3

Prints Markdown tables. An experiment is a table (seeds, samples) of seed + sample + rest, the parts
normal (samples also exponential) with the variances in `PARTS`; the truth is the mean (or
interquartile mean, or probability above 0) over endless seeds and samples. The last column does the
same with the bootstrap of Agarwal et al. (2021).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rewardft.comparisons.statistics import iqm_interval, mean_interval, probability_of_improvement
from rewardft.contracts.records import Interval

Array = NDArray[np.float64]
Parts = tuple[float, float, float]  # variances of seed, sample and rest
SEEDS, SAMPLES = (2, 3, 5), (16, 64, 256)
PARTS: dict[str, Parts] = {
    "rest alone": (0.0, 0.0, 1.0),
    "no seed effect": (0.0, 1.0, 0.3),
    "small seed effect": (0.02, 1.0, 0.3),
    "seeds as samples": (0.3, 1.0, 0.3),
    "seeds dominate": (25.0, 1.0, 1.0),
}
SHIFT = 0.5  # in standard deviations: what the probability of improvement is simulated at
RESAMPLES = 200
BOOTSTRAPPED = 250  # experiments; it is slow, and far off


def simulate(
    rng: np.random.Generator, seeds: int, samples: int, parts: Parts, skewed: bool
) -> Array:
    """One experiment, (seeds, samples), of mean 0; skewed: the samples' part is exponential."""
    seed, sample, rest = (math.sqrt(part) for part in parts)
    of_samples = rng.standard_exponential(samples) - 1 if skewed else rng.standard_normal(samples)
    noise = rng.standard_normal((seeds, samples))
    return seed * rng.standard_normal((seeds, 1)) + sample * of_samples + rest * noise


def true_iqm(parts: Parts, skewed: bool) -> float:
    """Of the population; 0 by symmetry unless skewed."""
    if not skewed:
        return 0.0
    values = np.sort(
        simulate(
            np.random.default_rng(0), 1, 4_000_000, (0.0, parts[1], parts[0] + parts[2]), True
        )[0]
    )
    return float(values[1_000_000:3_000_000].mean())


def stratified_bootstrap(rng: np.random.Generator, table: Array) -> Interval:
    """Percentile interval of the mean,
    seeds drawn anew within each sample (a task, in Agarwal et al. 2021)."""
    drawn = rng.integers(len(table), size=(RESAMPLES, *table.shape))
    means = np.take_along_axis(table[None], drawn, axis=1).mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(value=float(table.mean()), low=float(low), high=float(high))


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def coverage(
    seed: int, experiments: int, seeds: int, samples: int, name: str, skewed: bool
) -> dict[str, float]:
    """Per cent of the experiments whose interval contains the truth, by estimate,
    and how wide it is for the mean.

    width: median half-width of the mean's interval over 1.96 true standard errors; 1 were all
        variances known.
    """
    rng = np.random.default_rng([seed, seeds, samples, list(PARTS).index(name), skewed])
    parts = PARTS[name]
    shift = SHIFT * math.sqrt(sum(parts))
    truths = {"mean": 0.0, "iqm": true_iqm(parts, skewed), "bootstrap": 0.0}
    if not skewed:
        truths["probability"] = 0.5 * (1 + math.erf(SHIFT / math.sqrt(2)))
    hits: dict[str, list[bool]] = {key: [] for key in truths}
    widths = []
    for number in range(experiments):
        table = simulate(rng, seeds, samples, parts, skewed)
        found = {"mean": mean_interval(table), "iqm": iqm_interval(table)}
        if number < BOOTSTRAPPED:
            found["bootstrap"] = stratified_bootstrap(rng, table)
        if not skewed:
            found["probability"] = probability_of_improvement(table + shift, np.zeros_like(table))
        widths.append(found["mean"].high - found["mean"].value)
        for key, interval in found.items():
            hits[key].append(covers(interval, truths[key]))
    error = math.sqrt(parts[0] / seeds + parts[1] / samples + parts[2] / (seeds * samples))
    shares = {key: 100 * float(np.mean(hit)) for key, hit in hits.items()}
    return {**shares, "width": float(np.median(widths)) / (1.959964 * error)}


def lines(seed: int, experiments: int, skewed: bool) -> Iterator[str]:
    """One Markdown table."""
    columns = ["mean", "iqm", *([] if skewed else ["probability"]), "width", "bootstrap"]
    titles = {
        "iqm": "interquartile mean",
        "width": "width",
        "bootstrap": "mean, percentile bootstrap",
    }
    yield f"| parts | seeds | samples | {' | '.join(titles.get(c, c) for c in columns)} |"
    yield "|---" * (3 + len(columns)) + "|"
    for name, seeds, samples in product(PARTS, SEEDS, SAMPLES):
        if skewed and PARTS[name][1] == 0:
            continue
        row = coverage(seed, experiments, seeds, samples, name, skewed)
        cells = [f"{row[c]:.2f}" if c == "width" else f"{row[c]:.1f}" for c in columns]
        yield f"| {name} | {seeds} | {samples} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for skewed in (False, True):
        print(f"\n## {'Exponential' if skewed else 'Normal'} samples\n")
        for line in lines(args.seed, args.experiments, skewed):
            print(line, flush=True)


if __name__ == "__main__":
    main()
