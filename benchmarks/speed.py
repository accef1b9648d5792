"""What rewardft adds to a training step, in processor seconds of one thread.

    python benchmarks/speed.py                 # the tables
    python benchmarks/speed.py toy             # one of their rows

DRaFT-1 on the toy (8 x 8 pixels, a network of 5,000 weights, T = 10, batch 8) and on the model of
`benchmarks/mid.py` (T = 10, batch 2). A run of the recipe and a loop by hand take steps in turn, so
that what else the machine does meets both, and the quickest of `ROUNDS` counts. The loop checks and
logs nothing, and has its data and noise from the data set and from torch without bookkeeping; that
it ends in the run's weights is checked.

By part, in another run: `rest` is what is neither the model's, the reward's, autograd's nor the
optimizer's: the sampler's arithmetic, noise, checks, logs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
SHARED = """
seed: 0
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 4}
"""
TOY = """
plugins: [toy]
model: {use: toy, prediction: v_prediction, guidance: 2.0}
sampler: {use: ddim, steps: 10}
data: {use: toy_blobs, batch_size: 8}
rewards: [{use: brightness}]
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 100}
"""
MID = f"""
plugins: [{HERE / "mid.py"}]
model: {{use: mid, latents: 32}}
sampler: {{use: ddim, steps: 10}}
data: {{use: mid_prompts, batch_size: 2}}
rewards: [{{use: mid_vit}}]
optimizer: {{use: adamw, lr: 1e-4}}
train: {{steps: 3}}
"""
RECIPES, ROUNDS = {"toy": TOY, "mid": MID}, {"toy": 5, "mid": 2}
PARTS = ("network", "decoder", "reward", "backward", "optimizer")


class Clock:
    """Processor seconds by part; what a call takes inside another is not counted for the outer."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.nested = 0.0

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count what `owner.name` takes from now on."""
        call = getattr(owner, name)

        @wraps(call)  # torch looks at an attribute of an optimizer's step
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer, self.nested, start = self.nested, 0.0, time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                taken = time.process_time() - start
                self.spent[part] += taken - self.nested
                self.nested = outer + taken

        setattr(owner, name, timed)


@dataclass
class Taken:
    """Seconds of each step after the first, of the run and of the loop, and the run's weights."""

    run: list[float]
    hand: list[float]
    weights: list[Any]


def by_recipe(path: Path, clock: Clock | None = None, loop: Iterator[float] | None = None) -> Taken:
    """A run. clock: of the steps after the first. loop: takes a step after each of the run's."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from rewardft.testing import run_recipe

    run, hand, since, trained = [], [], [], []

    def note(optimizer: Any, *_: Any) -> None:
        if hook.is_busy:  # the loop's optimizer
            return
        if since:
            run.append(time.process_time() - since.pop())
        elif clock is not None:
            clock.spent.clear()
        trained[:] = [p for group in optimizer.param_groups for p in group["params"]]
        hook.is_busy = True
        hand.append(0.0 if loop is None else next(loop))
        hook.is_busy = False
        since.append(time.process_time())

    hook = SimpleNamespace(is_busy=False, handle=register_optimizer_step_post_hook(note))
    with tempfile.TemporaryDirectory() as folder:
        run_recipe(path, Path(folder) / "run")
    hook.handle.remove()
    return Taken(run, hand[1:], trained)


def build_by_hand(path: Path) -> Any:
    """What a loop without rewardft's needs."""
    import torch

    from rewardft.engine.session import build_session
    from rewardft.plugins.resolve import open_recipe
    from rewardft.policy.batches import Stream

    recipe, _, resolved = open_recipe(path)
    session = build_session(recipe, resolved, torch.device("cpu"))
    parts = SimpleNamespace(ctx=session.context, model=session.model, sampler=session.eval_sampler)
    parts.weights, parts.judge = session.adapter.parameters, session.context.rewards[0].reward
    parts.optimizer = torch.optim.AdamW(parts.weights, recipe.optimizer.lr, weight_decay=0.01)
    parts.dataset, parts.size = resolved.dataset.build(), recipe.data.batch_size
    parts.stream = Stream(parts.dataset, recipe.seed)
    parts.levels = [parts.sampler.schedule.level(k) for k in range(parts.sampler.steps + 1)]
    return parts


def by_hand(parts: Any) -> Iterator[float]:
    """The same training without rewardft's loop: the seconds of each step."""
    import torch

    from rewardft.policy.batches import collate

    while True:
        batch = parts.stream.next_batch(parts.size)
        cond = parts.model.encode(batch)
        x = parts.ctx.noise(batch).draw("initial", parts.model.sample_shape(cond))
        start = time.process_time()
        # Those above again, as a loop for this data set alone would have them: what they cost.
        collate([parts.dataset[i] for i in range(len(batch))])
        torch.randn_like(x)
        step_by_hand(parts, x, cond, batch)
        yield time.process_time() - start


def step_by_hand(parts: Any, x: Any, cond: Any, batch: Any) -> None:
    """DRaFT-1 as it would be written for one model: DDIM, of which the last step learns."""
    import torch

    last = parts.sampler.steps - 1
    for k, timestep in enumerate(parts.sampler.timesteps):
        (alpha, sigma), (alpha_next, sigma_next) = parts.levels[k], parts.levels[k + 1]
        with torch.set_grad_enabled(k == last):
            output = parts.model.denoise(x, torch.full((len(x),), timestep), cond)
            if parts.sampler.kind == "epsilon":
                x0, epsilon = (x - sigma * output) / alpha, output
            else:
                x0, epsilon = alpha * x - sigma * output, sigma * x + alpha * output
            x = alpha_next * x0 + sigma_next * epsilon
    reward = parts.judge(SimpleNamespace(decoded=parts.model.decode(x)), batch)
    (-reward.mean()).backward()
    torch.nn.utils.clip_grad_norm_(parts.weights, 1.0)
    parts.optimizer.step()
    parts.optimizer.zero_grad()


def compare(name: str, path: Path) -> str:
    """A row: the run beside the loop."""
    rounds = []
    for _ in range(ROUNDS[name]):
        parts = build_by_hand(path)
        taken = by_recipe(path, loop=by_hand(parts))
        rounds.append((statistics.mean(taken.run), statistics.mean(taken.hand)))
        pairs = zip(taken.weights, parts.weights)
        worst = max(float((a - b).detach().abs().max()) for a, b in pairs)
        largest = max(float(a.detach().abs().max()) for a in taken.weights)
        if worst > 1e-3 * largest:
            raise SystemExit(f"{name}: the loop trains other weights: {worst} of {largest}")
    run, hand = min(rounds, key=sum)
    times = f"{1e3 * run:,.2f} | {1e3 * hand:,.2f} | {run / hand - 1:+.1%}"
    return f"| {name} | {times} | {worst / largest:.0e} |"


def divide(name: str, path: Path) -> str:
    """A row: where the seconds of a run go. Changes classes, so it comes last."""
    import torch

    from rewardft.plugins.resolve import open_recipe

    clock, (_, _, resolved) = Clock(), open_recipe(path)
    model = type(resolved.model.build())
    for owner, call, part in (
        (model, "denoise", "network"),
        (model, "encode", "network"),
        (model, "decode", "decoder"),
        (torch.autograd, "grad", "backward"),
        (torch.Tensor, "backward", "backward"),
        (torch.nn.utils, "clip_grad_norm_", "optimizer"),
        (torch.optim.AdamW, "step", "optimizer"),
    ):
        clock.watch(owner, call, part)
    watch_rewards(clock)
    seconds = sum(by_recipe(path, clock).run)
    shares = [clock.spent[part] / seconds for part in PARTS]
    shown = " | ".join(f"{share:.1%}" for share in [*shares, 1 - sum(shares)])
    return f"| {name} | {shown} |"


def watch_rewards(clock: Clock) -> None:
    """Rewards are functions or modules; both are called from one place."""
    from rewardft.policy import rewards

    called = rewards.called

    def watched(reward: Any, rollout: Any, *others: Any) -> Any:
        inner = SimpleNamespace(call=reward.reward)
        clock.watch(inner, "call", "reward")
        return called(type(reward)(reward.name, inner.call, reward.weight), rollout, *others)

    rewards.called = watched


def print_head(*columns: str) -> None:
    """Of a table."""
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECIPES))
    names = parser.parse_args().names or [*RECIPES]
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{name}.yaml" for name in names}
        for name, path in paths.items():
            path.write_text(SHARED + RECIPES[name])
        print_head("model", "run (ms a step)", "by hand", "added", "weights differ by")
        for name, path in paths.items():
            print(compare(name, path), flush=True)
        print()
        print_head("model", *PARTS, "rest")
        for name, path in paths.items():
            print(divide(name, path), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
