"""What a comparison found: the file `comparison.json`. The report is made from it, and from nothing
else.

Numbers that are unknown (NaN, infinite) are null in the file and NaN here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ValidationError

from rewardft.errors import CheckpointError
from rewardft.files.atomic import write_text
from rewardft.files.json_text import encode

# JSON has no NaN, so the file holds null; see `rewardft.files.json_text`.
Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
# Trained for; measured per sample only; one number for the whole set.
Role = Literal["reward", "held_out", "set"]

# Axes that curves are drawn on and that budgets are given in. "calls" are samples through the
# denoiser: one call on a batch of b samples counts b, and one guided call counts once.
AXES = {
    "steps": "optimizer steps",
    "forwards": "denoiser forwards (samples)",
    "backwards": "denoiser backwards (samples)",
    "calls": "denoiser calls, forwards + backwards (samples)",
    "rewards": "reward evaluations (samples)",
    "seconds": "training time (s)",
}


class Record(BaseModel):
    """Plain data; unknown keys are refused."""

    # Forbidden and not ignored: a file of a newer version must not lose half of it in silence.
    model_config = {"extra": "forbid", "frozen": True}


class Interval(Record):
    """An estimate and its 95 % interval."""

    value: Number
    low: Number
    high: Number


class Value(Record):
    """One measured value of a variant, pooled over its seeds and held-out samples.

    name: such as `reward/NAME`, `GROUP/reward/NAME` (of one group of samples) or
        `diversity/latents`.
    role: a trained reward; another value per sample (held-out reward or metric); one number for a
        whole set.
    higher_is_better: None when neither direction is better.
    before, after: means over samples and seeds.
    iqm: interquartile mean after.
    versus_base: after - before, paired by sample and noise.
    versus_best: after - the best other variant's, likewise; None when the samples or the noise
        differ.
    probability: of a tuned sample to be better than the base's, in [0, 1].
    seeds: each seed's own mean of after - before.
    """

    name: str
    role: Role
    higher_is_better: bool | None = True
    samples: int
    # None where nothing was measured; NaN bounds where a single value has no interval.
    before: Interval | None = None
    after: Interval | None = None
    iqm: Interval | None = None
    versus_base: Interval | None = None
    versus_best: Interval | None = None
    best: str | None = None
    probability: Interval | None = None
    seeds: list[Number] = []


class Point(Record):
    """Values at one step of a run: `axes` by the names in AXES."""

    axes: dict[str, Number]
    values: dict[str, Number]


class RunRecord(Record):
    """One run. `training` are logged training means, `evaluations` held-out means (names with or
    without a group).

    status: finished (all its steps, or its budget), stopped (by a plugin or an alarm), interrupted,
        failed, missing.
    folder: relative to that of `comparison.json`.
    error: the last lines of a failed run's output.
    peak_memory: bytes.
    command: repeats the run alone.
    """

    seed: int
    folder: str
    status: Literal["finished", "stopped", "interrupted", "failed", "missing"]
    reason: str | None = None
    error: str | None = None
    axes: dict[str, Number] = {}
    peak_memory: int | None = None
    training: list[Point] = []
    evaluations: list[Point] = []
    alarms: list[str] = []
    # Empty for a run that was handed in: how it was made is not known.
    command: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether it came to its end: others were trained for less."""
        return self.status in ("finished", "stopped")


class Picture(Record):
    """The same held-out sample and noise from the base and the tuned model: paths relative to
    `comparison.json`."""

    sample: str
    group: str | None = None
    base: str
    tuned: str


class VariantRecord(Record):
    """One thing that is compared, over its seeds.

    `differences`: the settings in which the variants differ.
    """

    name: str
    recipe: str
    algorithm: str
    differences: dict[str, Any] = {}
    runs: list[RunRecord]
    values: list[Value] = []
    alarms: list[str] = []
    pictures: list[Picture] = []


class Trial(Record):
    """One setting that a search tried, and the value after its run; NaN without a result."""

    name: str
    value: Number


class SearchRecord(Record):
    """What was tried for a variant before a comparison, and what was chosen.

    value: what it was judged by, on the training split. budget: of each run. chosen: a trial's
    name; '' where none has a result. edges: chosen settings that were the last of what was tried.
    costs: of all its runs, by axis.
    """

    variant: str
    keys: list[str]
    value: str
    budget: str
    chosen: str = ""
    trials: list[Trial]
    edges: list[str] = []
    costs: dict[str, Number] = {}


class Section(Record):
    """What a plugin adds to the report: a heading,
    and HTML or Markdown-safe text that needs no network."""

    title: str
    html: str
    plugin: str = ""


class ComparisonRecord(Record):
    """A whole comparison. `target`: the value that it is about, a trained reward's name where all
    variants share one.

    common: settings that all variants share, flattened.
    notes: what a reader must know, such as a single seed.
    searches: what was tuned before, and how.
    """

    title: str
    date: str
    command: str
    budget: str | None = None
    seeds: list[int]
    target: str | None = None
    common: dict[str, Any] = {}
    variants: list[VariantRecord]
    notes: list[str] = []
    # With defaults: a record that lacks them loads all the same.
    sections: list[Section] = []
    searches: list[SearchRecord] = []
    versions: dict[str, str | None] = {}

    @property
    def start(self) -> str:
        """What changes are counted from: 'base', or 'start' where a variant begins with the weights
        of `adapter.init`."""
        settings = [self.common, *(variant.differences for variant in self.variants)]
        given = any(one.get("adapter.init") is not None for one in settings)
        return "start" if given else "base"

    def save(self, path: Path) -> None:
        write_text(path, encode(self.model_dump(), indent=1))


def load_comparison(path: Path) -> ComparisonRecord:
    """Raises CheckpointError for a file that is not one."""
    try:
        return ComparisonRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        # The first of perhaps hundreds, without the links that pydantic adds to each.
        first = error.errors(include_url=False, include_input=False)[0]
        said = f"{'.'.join(map(str, first['loc'])) or 'the whole'}: {first['msg']}"
        raise CheckpointError(not_a_comparison(path, said)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(not_a_comparison(path, error)) from error


def not_a_comparison(path: Path, why: object) -> str:
    """What is said of a file that is none."""
    return f"{path}: not a comparison as `rewardft compare` writes it ({why})"
