"""`plan`: the memory of a training step by part, and the settings with which it fits a device."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rewardft.cli.running import Ready, prepare
from rewardft.cli.tables import print_table
from rewardft.comparisons.settings import as_words
from rewardft.errors import RewardftError

if TYPE_CHECKING:
    from rewardft.engine.planning import Footprint

UNITS = {"MB": 1e6, "GB": 1e9, "MIB": 2**20, "GIB": 2**30}
PHASES = {
    "encode": "conditions",
    "rollout": "roll-out",
    "score": "decoding and rewards",
    "learn": "replay and update",
}


def plan_recipe(name: str, device: str | None, overrides: Sequence[str]) -> None:
    """Print the parts, and for a device the first settings that fit it. Raises RewardftError for a
    size that is none, and where nothing fits."""
    limit = None if device is None else parse_size(device)
    ready = prepare(name, overrides)
    plan = footprint(ready)
    print_table("held throughout", ("part", "MiB"), rows_of(plan.held))
    most = {PHASES.get(phase, phase): size for phase, size in plan.most.items()}
    print_table("most at once, with what is held", ("phase", "MiB"), rows_of(most))
    print(f"peak: {mebibytes(plan.peak)} MiB, without what the system and kernels take themselves")
    for reward, why in plan.left_out.items():
        print(f"reward {reward} is not counted: on shapes without numbers it raises {why}")
    if ready.recipe.train.shard:
        print("train.shard is not counted: the base is counted whole, as on one process")
    if limit is None:
        return
    words = first_that_fits(ready, plan, name, overrides, limit)
    if words is None:
        raise RewardftError(
            f"nothing that was tried fits {device}; as it is, {max(most, key=most.__getitem__)} "
            "takes the most. Take smaller pictures, a lower adapter.rank, a base in bf16, or a "
            "larger device."
        )
    print(shlex.join(["rewardft", "run", name, *as_words([*overrides, *words])]))


def first_that_fits(
    ready: Ready, plan: Footprint, name: str, overrides: Sequence[str], limit: int
) -> list[str] | None:
    """The settings to add; what changes the least comes first. None if nothing fits."""
    for words in candidates(ready):
        here = plan if not words else footprint(prepare(name, [*overrides, *words]))
        fits = here.peak <= limit
        print(f"{' '.join(words) or 'as it is'}: {mebibytes(here.peak)} MiB{', fits' * fits}")
        if fits:
            return words
    return None


def candidates(ready: Ready) -> Iterator[list[str]]:
    """Settings in the order in which they are tried: smaller micro-batches, then checkpointing,
    then a shorter precision."""
    train, size = ready.recipe.train, ready.recipe.data.batch_size
    if isinstance(train.micro_batch, int):
        size = train.micro_batch
    micro = [size // 2**i for i in range(size.bit_length()) if size // 2**i]
    cut: list[list[str]] = [[] if m == size else [f"train.micro_batch={m}"] for m in micro]
    yield from cut
    checkpointing = [] if train.checkpointing else ["train.checkpointing=true"]
    if checkpointing:
        yield from ([*words, *checkpointing] for words in (cut[0], cut[-1]))
    short = [] if train.precision == "bf16" else ["train.precision=bf16"]
    dtype = ready.resolved.model.all_options.get("dtype")
    short += ["model.dtype=bf16"] if dtype == "fp32" else []
    if short:
        yield [*cut[-1], *checkpointing, *short]


def footprint(ready: Ready) -> Footprint:
    """The plan of a recipe."""
    # Here, as it imports torch.
    from rewardft.engine.planning import plan_memory

    return plan_memory(ready.recipe, ready.plugins, ready.resolved)


def parse_size(text: str) -> int:
    """Bytes. Raises RewardftError for what is no size."""
    found = re.fullmatch(r"([0-9]{0,12}\.?[0-9]{1,12}) ?([MG]i?B)", text, re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise RewardftError(
            f"--device: expected a size such as 24GiB, 80GB or 800MiB, got {text!r:.60}"
        )
    return int(float(found[1]) * UNITS[found[2].upper()])


def rows_of(sizes: dict[str, int]) -> list[tuple[str, str]]:
    """Rows of a table, without what is nothing."""
    return [(name, mebibytes(size)) for name, size in sizes.items() if size]


def mebibytes(size: int) -> str:
    """With one digit."""
    return f"{size / 2**20:,.1f}"
