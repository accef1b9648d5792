"""How often the intervals of values at equal divergence contain the truth, in simulated runs.

    python benchmarks/matched_coverage.py
    python benchmarks/matched_coverage.py --experiments 200

Prints a Markdown table. A run of seed s is evaluated at times t = 0, 1/8, ..., 1; sample i has

    divergence  d = a_s t^2 g_i                      g_i log-normal of mean 1
    value       v = b_s (1 - exp(-3 t)) (1 + e_i) + x_i + noise

with a_s, b_s log-normal over seeds (`speed`, `gain`: their deviations), and ln g_i and e_i
correlated. All seeds see the same samples. The truth is the mean over endless seeds of the value
where the mean divergence over endless samples is the level; it is read from the same nine times, on
the same straight lines over sqrt(d), so that what these miss does not count. `plain`
takes the interpolated values without the term for what is not known of the place on the curve.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rewardft.comparisons.matching import interpolated
from rewardft.comparisons.statistics import difference_interval
from rewardft.contracts.records import Interval

Array = NDArray[np.float64]
TIMES = np.linspace(0.0, 1.0, 9)
LEVEL = 0.3  # of 1, where a run of mean speed ends
SEEDS, SAMPLES = (2, 3, 5), (32, 128)
# Deviations over seeds of ln a and ln b; over samples of ln g; correlation of ln g and e.
KINDS = {
    "seeds alike": (0.02, 0.02, 0.8, 0.5),
    "seeds differ": (0.2, 0.15, 0.8, 0.5),
    "speed differs": (0.4, 0.02, 0.8, 0.5),
    "divergence varies little": (0.2, 0.15, 0.2, 0.0),
    "divergence varies much": (0.1, 0.05, 1.2, -0.5),
}


def curves(rng: np.random.Generator, count: int, speed: float, gain: float) -> tuple[Array, Array]:
    """Mean divergence and value of `count` seeds at `TIMES`, (count, 9) each."""
    a = np.exp(speed * rng.standard_normal((count, 1)) - speed**2 / 2)
    b = np.exp(gain * rng.standard_normal((count, 1)) - gain**2 / 2)
    return a * TIMES**2, b * (1 - np.exp(-3 * TIMES))


def read_at(divergence: Array, value: Array) -> Array:
    """The value of each seed where its divergence is the level, on straight lines."""
    return np.array([np.interp(LEVEL**0.5, np.sqrt(d), v) for d, v in zip(divergence, value)])


def simulate(
    rng: np.random.Generator, seeds: int, samples: int, kind: tuple[float, ...]
) -> tuple[Array, Array, Array]:
    """(u, plain, base) of one experiment, (seeds, samples) each."""
    speed, gain, spread, correlation = kind
    divergence, value = curves(rng, seeds, speed, gain)
    one, other = rng.standard_normal((2, samples))
    g = np.exp(spread * one - spread**2 / 2)
    e = 0.5 * (correlation * one + np.sqrt(1 - correlation**2) * other)
    x = rng.standard_normal(samples)
    noise = 0.1 * rng.standard_normal((seeds, len(TIMES), samples))
    d = divergence[:, :, None] * g
    v = value[:, :, None] * (1 + e) + x + noise
    found: tuple[list[Array], list[Array]] = ([], [])
    for s in range(seeds):
        means = d[s].mean(axis=1)
        # A seed that does not get there is read at its end, as none is in a real comparison.
        reached = np.flatnonzero(means >= LEVEL)
        k = int(reached[0]) if len(reached) else len(TIMES) - 1
        values, distances = (v[s, k - 1], v[s, k]), (d[s, k - 1], d[s, k])
        roots = np.sqrt(means)
        share = (LEVEL**0.5 - roots[k - 1]) / (roots[k] - roots[k - 1])
        found[0].append(interpolated(values, distances, LEVEL))
        found[1].append((1 - share) * values[0] + share * values[1])
    return np.array(found[0]), np.array(found[1]), v[:, 0]


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def coverage(
    seed: int, experiments: int, seeds: int, samples: int, name: str
) -> tuple[float, float]:
    """Per cent of the experiments whose interval contains the truth: with the term, and plain."""
    kind = KINDS[name]
    truth = float(read_at(*curves(np.random.default_rng(0), 100_000, *kind[:2])).mean())
    rng = np.random.default_rng([seed, seeds, samples, list(KINDS).index(name)])
    hits = []
    for _ in range(experiments):
        u, plain, base = simulate(rng, seeds, samples, kind)
        hits.append([covers(difference_interval(each, base), truth) for each in (u, plain)])
    with_term, without = 100 * np.mean(hits, axis=0)
    return float(with_term), float(without)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| runs | seeds | samples | at equal divergence | plain |\n|---|---|---|---|---|")
    for name, seeds, samples in product(KINDS, SEEDS, SAMPLES):
        found = coverage(args.seed, args.experiments, seeds, samples, name)
        print(f"| {name} | {seeds} | {samples} | {found[0]:.1f} | {found[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
