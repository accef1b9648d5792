"""Checks a recipe's fixed sections, and says what is wrong in one sentence for each key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from rewardft.recipe.budget import parse_budget
from rewardft.recipe.elsewhere import HERE, hint
from rewardft.recipe.overrides import dotted
from rewardft.recipe.sections import (
    OptimizerSpec,
    Section,
    Sections,
    fold_options,
    section_of,
)
from rewardft.recipe.strict_yaml import Keys
from rewardft.recipe.typed_values import mismatch, type_words


def check_sections(data: dict[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Problems of the fixed sections, each with the keys that it is about."""
    folded = fold_options(Sections, data)
    try:
        Sections.model_validate_json(json.dumps(folded), strict=True)
    except ValidationError as error:
        yield from _section_problems(error, data)
    # What concerns two keys at once, which no single field can check.
    yield from _optimizer_problems(data.get("optimizer"))
    yield from _budget_problems(data.get("train"), data.get("optimizer"))
    yield from _average_problems(data.get("train"), data.get("evaluate"))
    yield from _moment_problems(data.get("evaluate"))
    yield from _best_problems(data.get("save"), data.get("evaluate"))
    yield from _shard_problems(data.get("train"), data.get("adapter"))
    for keys in (("rewards",), ("evaluate", "rewards"), ("regularizers",), ("evaluate", "metrics")):
        # Names are lost when one value is logged over another.
        yield from _repeated(data, keys)


def _section_problems(error: ValidationError, data: dict[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Pydantic's errors, one per field, in the words of `typed_values`."""
    found = error.errors(include_url=False, include_context=False)
    # A key that is there by another trainer's name is told its own, and is not missed beside it.
    unknown = [item["loc"][-1] for item in found if item["type"] == "extra_forbidden"]
    unknown += [keys[-1] for keys, _ in _optimizer_problems(data.get("optimizer"))]
    words = [str(key).casefold() for key in unknown]
    translated: set[Keys] = {tuple(HERE[word].split(".")) for word in words if word in HERE}
    seen: set[Keys] = set()
    for item in found:
        section, keys = _locate(item["loc"])
        missing = item["type"] == "missing" and item["loc"] == keys
        # A union reports each alternative that failed; the reader wants one sentence for each key.
        if keys in seen or (missing and keys in translated):
            continue
        seen.add(keys)
        here, key = dotted(keys[:-1]) or "a recipe", str(keys[-1])
        if item["type"] == "extra_forbidden":
            near = hint(key, here, section.model_fields)
            yield keys, f"{here} has no key {key!r}.{near}"
            continue
        # An item of a list has no field: it is the section itself that has another form.
        info = section.model_fields[key] if isinstance(keys[-1], str) else None
        annotation, constraints = (info.annotation, info.metadata) if info else (section, [])
        if missing:
            yield keys, f"{dotted(keys)} is required: {type_words(annotation, constraints)}."
        else:
            wrong = mismatch(annotation, _value_at(data, keys), constraints)
            yield keys, f"{dotted(keys)}: {wrong}"


def _locate(loc: tuple[str | int, ...]) -> tuple[type[Section], Keys]:
    """The section that an error is in and the keys of its field; what pydantic adds below a field
    is cut off."""
    section: type[Section] = Sections
    for depth, key in enumerate(loc):
        if isinstance(key, int):
            if depth == len(loc) - 1:
                return section, loc[: depth + 1]
            continue
        inner = section_of(section, key)
        if inner is None or depth == len(loc) - 1:
            return section, loc[: depth + 1]
        section = inner
    return section, loc


def _value_at(data: Any, keys: Keys) -> Any:
    for key in keys:
        data = data[key]
    return data


def _optimizer_problems(section: Any) -> Iterator[tuple[Keys, str]]:
    """`adamw` is the core's own: it has no options beyond the fixed keys."""
    known = [name for name in OptimizerSpec.model_fields if name != "options"]
    if not isinstance(section, dict) or str(section.get("use", "adamw")).casefold() != "adamw":
        return
    for key in section:
        if key not in known:
            near = hint(key, "optimizer", known)
            yield ("optimizer", key), f"optimizer has no key {key!r}.{near}"


def _budget_problems(train: Any, optimizer: Any) -> Iterator[tuple[Keys, str]]:
    """A budget that says nothing, or with which a schedule would not know its length."""
    text = train.get("budget") if isinstance(train, dict) else None
    if not isinstance(text, str) or not text:
        return
    try:
        parse_budget(text)
    except ValueError as error:
        yield ("train", "budget"), f"train.budget: {error}"
    # A cosine to a step that a budget never reaches would not come down to 0.
    schedule = optimizer.get("schedule", "constant") if isinstance(optimizer, dict) else "constant"
    if schedule != "constant":
        yield (
            ("optimizer", "schedule"),
            f"optimizer.schedule: {schedule!r} runs to train.steps, and train.budget may end the "
            "run anywhere before. Use 'constant', or leave the budget out.",
        )


def _average_problems(train: Any, evaluate: Any) -> Iterator[tuple[Keys, str]]:
    """An evaluation of averaged weights that the run does not keep."""
    averages = isinstance(train, dict) and train.get("ema") is not None
    if isinstance(evaluate, dict) and evaluate.get("weights") == "ema" and not averages:
        fix = "Set train.ema to a decay such as 0.99, or evaluate the 'raw' weights."
        yield (
            ("evaluate", "weights"),
            f"evaluate.weights: 'ema' needs an average of the weights. {fix}",
        )


def _moment_problems(evaluate: Any) -> Iterator[tuple[Keys, str]]:
    """Two answers to when a run is evaluated."""
    if isinstance(evaluate, dict) and evaluate.get("every") and evaluate.get("fractions"):
        fix = "Leave one of them out."
        yield (
            ("evaluate", "fractions"),
            f"evaluate.fractions: evaluate.every says already when the run is evaluated. {fix}",
        )


def _best_problems(save: Any, evaluate: Any) -> Iterator[tuple[Keys, str]]:
    """Settings about the best evaluation of a run that has none along the way."""
    if not isinstance(save, dict):
        return
    if save.get("patience") is not None and save.get("best") is None:
        fix = "Set save.best to the held-out value that is to get better."
        yield ("save", "patience"), f"save.patience: it waits for save.best. {fix}"
    every = evaluate.get("every", 0) if isinstance(evaluate, dict) else 0
    if save.get("best") is not None and every == 0:
        fractions = isinstance(evaluate, dict) and evaluate.get("fractions")
        when = "at fractions, which move with its length" if fractions else "only at its end"
        fix = "Set evaluate.every to a number of steps" + (" instead." if fractions else ".")
        yield ("save", "best"), f"save.best: the run is evaluated {when}. {fix}"


def _shard_problems(train: Any, adapter: Any) -> Iterator[tuple[Keys, str]]:
    """A sharded run that would train what is sharded or measure by itself, and a base that is kept
    but not sharded."""
    sharded = isinstance(train, dict) and train.get("shard") is True
    if isinstance(train, dict) and train.get("keep_for_rollouts") is True and not sharded:
        yield (
            ("train", "keep_for_rollouts"),
            "train.keep_for_rollouts: only a sharded base is gathered for a rollout. Set "
            "`train.shard: true` beside it, or leave it out.",
        )
    if sharded and train.get("micro_batch") == "auto":
        yield (
            ("train", "micro_batch"),
            "train.micro_batch: 'auto' is measured by one process, and all of them must call a "
            "sharded base together. Say a number.",
        )
    if sharded and train.get("compile") is True:
        yield (
            ("train", "compile"),
            "train.compile: a base that is sharded was never tried with it. Leave one of them out.",
        )
    if sharded and isinstance(adapter, dict) and adapter.get("kind") == "full":
        fix = "Train an adapter (`kind: lora`), or leave `shard` out."
        yield (
            ("train", "shard"),
            f"train.shard: only a frozen base is sharded, and adapter.kind 'full' trains it. {fix}",
        )


def _repeated(data: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    """Two entries of a list that would be logged under the same name."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    seen: dict[str, int] = {}
    for index, item in enumerate(data if isinstance(data, list) else []):
        if not isinstance(item, dict):
            continue
        # Metrics have no `name:`; their values are logged under `use`.
        named = keys[-1] != "metrics"
        name = str((named and item.get("name")) or item.get("use")).casefold()
        if name in seen:
            fix = "give one of them another `name:`" if named else "remove one of them"
            here, other = dotted((*keys, index)), dotted((*keys, seen[name]))
            yield (*keys, index), f"{here} has the name of {other}, {name!r}; {fix}."
        seen.setdefault(name, index)
