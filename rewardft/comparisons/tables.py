"""Every held-out sample of every run, as one table in parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardft.comparisons.read_runs import RunResults
from rewardft.files.atomic import replacing

COLUMNS = ("variant", "seed", "sample", "group", "value", "base", "tuned")


def write_samples(runs: Mapping[str, Sequence[RunResults]], path: Path) -> None:
    """One row per variant, seed, sample and value. NaN: the value does not apply."""
    import pyarrow
    from pyarrow import parquet

    rows = list(sample_rows(runs))
    columns = {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}
    text, real = pyarrow.string(), pyarrow.float64()
    # Stated, not inferred: a column without values would get another type in every file.
    kinds = [text, pyarrow.int64(), text, text, text, real, real]
    schema = pyarrow.schema(list(zip(COLUMNS, kinds)))
    with replacing(path) as temporary:
        parquet.write_table(pyarrow.table(columns, schema=schema), temporary)


def sample_rows(runs: Mapping[str, Sequence[RunResults]]) -> Iterator[tuple[Any, ...]]:
    """The table's rows, in the order of COLUMNS."""
    for variant, seens in runs.items():
        for seen in seens:
            if seen.base is None or seen.tuned is None:
                continue
            groups: Sequence[str | None] = seen.base.groups or [None] * len(seen.base.ids)
            for name, before in seen.base.per_sample.items():
                # A metric that the tuned model's evaluation lacks has rows all the same.
                after = seen.tuned.per_sample.get(name, [float("nan")] * len(before))
                for sample, group, base, tuned in zip(seen.base.ids, groups, before, after):
                    yield variant, seen.member.seed, sample, group, name, base, tuned
