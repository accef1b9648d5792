"""Held-out evaluation on fixed samples and fixed noise, so that any two evaluations can be compared
in pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rewardft.algorithms.regularizers import trajectory_kl
from rewardft.errors import CheckpointError, ComponentError
from rewardft.evaluation.behind import Behind
from rewardft.evaluation.metrics import (
    computed,
    direction,
    reset_metrics,
    titled,
    update_metrics,
)
from rewardft.files.json_text import nan_for_null
from rewardft.policy.batches import evaluation_batches
from rewardft.policy.begun import Begun, begin, is_elsewhere
from rewardft.policy.context import Context
from rewardft.types import Batch, Plan, Rollout


@dataclass
class Evaluation:
    """Values by name: `per_sample` holds one number per evaluated sample (NaN = not applicable),
    `overall` one number.

    groups: the data set's `group` column where it has one; intervals are then given per group as
        well.
    higher_is_better: by name; None where neither direction is better. A reward's direction is the
        sign of its weight.
    settings: how it was made; only evaluations with equal settings can be compared in pairs.
    """

    ids: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    per_sample: dict[str, list[float]] = field(default_factory=dict)
    overall: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    higher_is_better: dict[str, bool | None] = field(default_factory=dict)
    rollout: Rollout | None = None

    def means(self) -> dict[str, float]:
        """Mean of every per-sample value and every overall number, as `name` and `group/name`."""
        result = dict(self.overall)
        for name, values in self.per_sample.items():
            for prefix, rows in self.rows().items():
                result[prefix + name] = mean([values[i] for i in rows])
        return result

    def rows(self) -> dict[str, list[int]]:
        """Row numbers of all samples under '' and of each group under 'group/'."""
        # The empty prefix first: values over all samples come before those of groups.
        rows = {"": list(range(len(self.ids)))}
        for i, group in enumerate(self.groups):
            rows.setdefault(f"{group}/", []).append(i)
        return rows

    def to_json(self) -> dict[str, Any]:
        """What its file holds; NaN becomes null there, see `rewardft.files.atomic`."""
        names = ("settings", "ids", "groups", "per_sample", "overall", "higher_is_better")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that a file holds, read by `json.loads`. Raises ValueError where values
        and samples do not go together."""
        values = nan_for_null({"per_sample": data["per_sample"], "overall": data["overall"]})
        count, columns = len(data["ids"]), values["per_sample"].items()
        lost = [n for n, column in columns if not isinstance(column, list) or len(column) != count]
        if lost or len(data["groups"]) not in (0, count):
            what = f"{lost[0]!r} has" if lost else "its groups have"
            raise ValueError(f"{what} not one value for each of its {count} samples")
        facts = {name: data.get(name, {}) for name in ("settings", "higher_is_better")}
        return cls(list(data["ids"]), list(data["groups"]), **values, **facts)


def evaluate(
    ctx: Context,
    dataset: Any,
    metrics: Mapping[str, Any],
    samples: int,
    batch_size: int,
    kl: bool = False,
    per_item: int = 1,
) -> Evaluation:
    """Sample the first `samples` items with the whole chain, score them and update the metrics.

    Of each item `per_item` samples are drawn. They are not independent of each other, so an item
    has one value: the mean over its samples, or what a metric says of it.

    Args:
        ctx: holds the evaluation's rewards and seed; its noise depends on the sample's id alone.
        metrics: by name; per-sample values `(n,)` are listed under `metric`, or `name/metric` if it
            gives several. Metrics see `batch.copies` samples of each item in a row, and give values
            of samples `(n * per_item,)` or of items `(n,)`.
        batch_size: samples at a time.
        kl: add `kl/FORM`, the distance from the reference along the trajectory, see
            `rewardft.algorithms.regularizers`.
    """
    result = Evaluation()
    reset_metrics(metrics)
    # Copies of an item go together, so that no item is cut in two.
    with Behind() as behind:
        for items in evaluation_batches(dataset, samples, max(batch_size // per_item, 1)):
            batch = items.repeat(per_item) if per_item > 1 else items
            batch = batch.to(ctx.device)
            rollout = roll_out(ctx, batch, result, kl)
            behind.catch_up()
            behind.begun = begin_elsewhere(ctx, rollout, batch)
            behind.finish = partial(measure, ctx, rollout, batch, metrics, result, behind.begun)
            if behind.begun is None:
                behind.catch_up()
            # Of items, not of samples: one value each is what is compared in pairs.
            result.ids.extend(items.ids)
            if "group" in items:
                result.groups.extend(items["group"])
            # The last one, for pictures.
            result.rollout = rollout
        behind.catch_up()
    # Scoring records values for the training log, which these are not.
    ctx.take_records()
    # A negative weight trains a reward down. 0 only watches, where more is taken to be better.
    result.higher_is_better |= {f"reward/{r.name}": r.weight >= 0 for r in ctx.rewards}
    add_metrics(result, metrics, per_item)
    return result


@torch.no_grad()
def begin_elsewhere(ctx: Context, rollout: Rollout, batch: Batch) -> Begun | None:
    """Ask the rewards that are computed elsewhere, to be waited for later; None where none is."""
    if not any(map(is_elsewhere, ctx.rewards)):
        return None
    with ctx.judging_the_base():
        return begin(ctx.rewards, rollout, batch)


@torch.no_grad()
def measure(
    ctx: Context,
    rollout: Rollout,
    batch: Batch,
    metrics: Mapping[str, Any],
    result: Evaluation,
    begun: Begun | None,
) -> None:
    """File what the rewards say of finished samples, and show them to the metrics."""
    # `score` refuses to be asked without any; metrics alone are a fair evaluation.
    if ctx.rewards:
        for name, value in ctx.score(rollout, batch, begun=begun).by_name.items():
            add_values(result, f"reward/{name}", value, batch.copies)
    with ctx.judging_the_base():
        update_metrics(metrics, rollout, batch)


def add_values(result: Evaluation, name: str, values: Tensor, per_item: int) -> None:
    """File values of samples `(n * per_item,)` as those of items: means of those that apply."""
    # NaN says that a reward does not apply; an item has a value if one of its samples has.
    by_item = values.cpu().double().unflatten(0, (-1, per_item)).nanmean(1)
    result.per_sample.setdefault(name, []).extend(by_item.tolist())


def roll_out(ctx: Context, batch: Batch, result: Evaluation, kl: bool) -> Rollout:
    """The whole chain; with `kl` its steps are kept until they have been compared with the
    reference's."""
    steps = ctx.sampler.steps
    keep = frozenset(range(steps if kl else 0))
    rollout = ctx.rollout(batch, Plan(stop=steps, keep=keep, exact=kl))
    if kl:
        for form, values in trajectory_kl(ctx, rollout).items():
            result.higher_is_better[f"kl/{form}"] = None
            add_values(result, f"kl/{form}", values, batch.copies)
        # The states of a whole chain are many times a sample, and metrics need none.
        for kept in (rollout.states, rollout.outputs, rollout.log_probs):
            kept.clear()
    return rollout


def add_metrics(result: Evaluation, metrics: Mapping[str, Any], per_item: int = 1) -> None:
    """File what the metrics computed: `(n,)` tensors per item, `(n * per_item,)` as their means,
    anything else as one number.

    A metric may declare `higher_is_better`: true, false or None for all of its values, or a mapping
        by name.
    """
    for name, metric in metrics.items():
        for key, value in computed(name, metric, result.ids, per_item).items():
            full = f"{name}/{key}"
            if full in result.per_sample | result.overall:
                raise ComponentError(
                    f"{titled(name, metric)}: its value {key!r} would be logged as {full!r}, which "
                    "is the name of another value. Register the metric under another name."
                )
            result.higher_is_better[full] = direction(name, metric, key)
            if isinstance(value, Tensor):
                add_values(result, full, value, len(value) // len(result.ids))
            else:
                result.overall[full] = value


@dataclass(frozen=True)
class Paired:
    """Before and after on the same samples and noise: means,
    and the mean difference with its 95 % half-width."""

    name: str
    count: int
    before: float
    after: float
    difference: float
    half_width: float

    @property
    def separable(self) -> bool:
        return abs(self.difference) > self.half_width


def compare(before: Evaluation, after: Evaluation) -> list[Paired]:
    """Paired differences (normal 95 % interval over samples) of every per-sample value, over all
    and per group.

    A value that only one of them has gets a row without pairs. Raises CheckpointError when they
    were not made alike.
    """
    unlike = [
        k
        for k in before.settings | after.settings
        if before.settings.get(k) != after.settings.get(k)
    ]
    if unlike or before.ids != after.ids:
        raise CheckpointError(
            f"the two evaluations differ in their {', '.join(unlike) or 'samples'}, so they cannot "
            "be compared in pairs. Evaluate the run again with `rewardft evaluate`."
        )
    # A metric that only one of the two has: a row that says so, not a row left out.
    missing = [math.nan] * len(before.ids)
    rows = []
    for name in before.per_sample | after.per_sample:
        columns = [evaluation.per_sample.get(name, missing) for evaluation in (before, after)]
        # Pairs only where both apply: a mean over different samples would show their difference.
        for prefix, chosen in before.rows().items():
            pairs = [(columns[0][i], columns[1][i]) for i in chosen]
            rows.append(pair_up(prefix + name, [p for p in pairs if not any(map(math.isnan, p))]))
    return rows


@dataclass(frozen=True)
class OfSet:
    """A value that is one number for all samples, before and after; it has no pairs, and so no
    interval. NaN where one of the evaluations lacks it."""

    name: str
    before: float
    after: float


def compare_sets(before: Evaluation, after: Evaluation) -> list[OfSet]:
    """Every value of whole sets, as they are: diversities, distances between distributions."""
    names = before.overall | after.overall
    return [
        OfSet(name, before.overall.get(name, math.nan), after.overall.get(name, math.nan))
        for name in names
    ]


def pair_up(name: str, pairs: Sequence[tuple[float, float]]) -> Paired:
    """Mean difference of (before, after) pairs with its normal 95 % interval;
    infinite for fewer than two."""
    differences = [b - a for a, b in pairs]
    center = mean(differences)
    # Unbiased, of the differences: what samples have in common cancels in each pair.
    variance = sum((d - center) ** 2 for d in differences) / max(len(differences) - 1, 1)
    # The normal quantile: samples are many here. Seeds, which are few, are
    # `rewardft.comparisons.statistics`.
    half = 1.96 * math.sqrt(variance / len(differences)) if len(differences) > 1 else math.inf
    return Paired(
        name, len(pairs), mean([a for a, _ in pairs]), mean([b for _, b in pairs]), center, half
    )


def mean(values: Sequence[float]) -> float:
    """Mean of the values that apply; NaN when none does."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else math.nan
