"""The memory that a recipe would need, by part, without its weights and without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from rewardft.engine.ema import Ema
from rewardft.engine.footprint import CPU, Ledger, empty_module, empty_values, networks_in, unmoved
from rewardft.engine.optimizer import Updater, build_optimizer, build_schedule, rates_of
from rewardft.engine.session import Session, build_session, place
from rewardft.errors import RewardftError
from rewardft.files.shapes import shapes_only
from rewardft.noise import Noise
from rewardft.policy.batches import Stream
from rewardft.policy.begun import Begun
from rewardft.policy.context import Context
from rewardft.policy.policy import Policy
from rewardft.policy.weighted_reward import WeightedReward
from rewardft.recipe.recipe import Recipe
from rewardft.types import Batch, Plan, Rollout, Scores, Transition

STEPS = 2  # the second has the optimizer's state, and the samples of the first for observers
LOSSES = 4  # of a step; later ones only repeat what these need


@dataclass(frozen=True)
class Footprint:
    """Bytes. held: throughout, by part. most: the most that there is at once, by phase. left_out:
    rewards whose memory is not counted, with the reason."""

    held: dict[str, int]
    most: dict[str, int]
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """The most at any time."""
        return max(self.most.values())


class FollowedPolicy(Policy):
    """Follows the first calls of each kind; later ones, which need the same, are not computed.

    weight: one of the trained weights.
    """

    def __init__(self, policy: Policy, weight: Tensor) -> None:
        super().__init__(*policy.settings)
        self.weight = weight
        self.calls: dict[Any, int] = {}

    def denoise(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        kind = (tuple(x.shape), torch.is_grad_enabled(), x.requires_grad)
        self.calls[kind] = self.calls.get(kind, 0) + 1
        # Two: the second call with gradients finds those of the first.
        if self.calls[kind] <= 2:
            return super().denoise(x, t, cond)
        return x * 1.0 + 0.0 * self.weight.sum()


@dataclass
class FollowedReward:
    """A reward without a gradient: one that asks for numbers, which there are none of, gives zeros,
    and says why in `left_out`."""

    name: str
    reward: Callable[[Rollout, Batch], Tensor]
    left_out: dict[str, str]

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor:
        try:
            return self.reward(rollout, batch)
        except RewardftError:
            raise
        # Pictures are encoded, servers are asked: whatever they raise, it is told.
        except Exception as error:
            said = str(error).partition("\n")[0]
            self.left_out[self.name] = f"{type(error).__name__}: {said}"
            return torch.zeros(len(batch))


@dataclass
class FollowedContext(Context):
    """Tells the ledger what is being done."""

    ledger: Ledger = field(default_factory=Ledger)

    def encode(self, batch: Batch) -> Any:
        with self.ledger.during("encode"):
            return super().encode(batch)

    def rollout(self, batch: Batch, plan: Plan, noise: Noise | None = None) -> Rollout:
        with self.ledger.during("rollout"):
            return super().rollout(batch, plan, noise)

    def score(
        self,
        rollout: Rollout,
        batch: Batch,
        gradient: bool = False,
        record: bool = True,
        begun: Begun | None = None,
    ) -> Scores:
        """As the context's own."""
        with self.ledger.during("score"):
            return super().score(rollout, batch, gradient, record, begun)

    def reference(self, rollout: Rollout, k: int) -> Transition:
        with self.ledger.during("rollout"):
            return super().reference(rollout, k)


def plan_memory(recipe: Recipe, plugins: Any, resolved: Any) -> Footprint:
    """What training by a recipe holds and needs at most, on one device.

    Raises what the recipe's own components raise; loaders that know of it
    (`rewardft.files.shapes`) take a folder with configurations in the place of weights.
    """
    # No numbers are wanted, so the weights of small networks are dropped at once.
    with shapes_only():
        session = build_session(recipe, resolved, torch.device("meta"))
    batch = Stream(resolved.dataset.build(), recipe.seed).next_batch(recipe.data.batch_size)
    mode, ledger = FakeTensorMode(allow_non_fake_inputs=True), Ledger()
    parts = dict(parts_of(session))
    fakes: dict[int, nn.Parameter] = {}
    named = session.adapter.named
    olds = dict(named)  # alive as long as their identities are asked for
    for module in parts.values():
        empty_module(mode, module, fakes)
    named.update({name: fakes[id(old)] for name, old in olds.items()})
    batch = replace(batch, columns=empty_values(mode, batch.columns))
    with mode, ledger, unmoved():
        place(session.model, CPU)
        held = {}
        for name, tensors in tensors_of(session, parts).items():
            before = ledger.live
            for tensor in tensors:
                ledger.track(tensor)
            held[name] = ledger.live - before
        left_out: dict[str, str] = {}
        rewards = list(followed(session, resolved, left_out))
        held |= take_steps(recipe, plugins, session, rewards, batch, ledger)
    return Footprint(held, dict(ledger.most), left_out)


def followed(session: Session, resolved: Any, left_out: dict[str, str]) -> Iterator[WeightedReward]:
    """The rewards of a session. Those with a gradient are as they are: without it there would be
    nothing to follow."""
    tags = {spec.name: one.tags("provides", "tags") for spec, one in resolved.rewards}
    for one in session.context.rewards:
        has_gradient = "reward_gradient" in tags[one.name]
        own = one.reward if has_gradient else FollowedReward(one.name, one.reward, left_out)
        yield replace(one, reward=own)


def parts_of(session: Session) -> Iterator[tuple[str, nn.Module]]:
    """Every network of a session, by a name for people."""
    model = session.model
    yield "model.trainable", model.trainable
    reference = getattr(session.adapter, "reference", None)
    if reference is not None:
        yield "reference", reference
    for name, value in vars(model).items():
        for i, module in enumerate(networks_in(value)):
            if module is not model.trainable:
                yield f"model.{name}" + (f" {i + 1}" if i else ""), module
    for reward in session.context.rewards:
        for i, module in enumerate(networks_in(reward.reward)):
            yield f"reward {reward.name}" + (f" {i + 1}" if i else ""), module


def tensors_of(session: Session, parts: dict[str, nn.Module]) -> dict[str, list[Tensor]]:
    """The weights of each part; those that learn are a part of their own."""
    trained = session.adapter.parameters
    known = {id(parameter) for parameter in trained}
    found: dict[str, list[Tensor]] = {"trained weights": [*trained]}
    for name, module in parts.items():
        tensors: list[Tensor] = [*module.parameters(), *module.buffers()]
        found[name] = [tensor for tensor in tensors if id(tensor) not in known]
    return found


def take_steps(
    recipe: Recipe,
    plugins: Any,
    session: Session,
    rewards: list[WeightedReward],
    batch: Batch,
    ledger: Ledger,
) -> dict[str, int]:
    """Train for `STEPS` steps, as the trainer does; returns what stays beside the weights."""
    parameters = session.adapter.parameters
    rates = rates_of(session.model)
    optimizer = build_optimizer(recipe, plugins, session.adapter.named, rates)
    ema = Ema(session.adapter, recipe.train.ema)
    schedule = build_schedule(recipe, optimizer)
    updater = Updater(parameters, optimizer, schedule, ema, recipe.train.clip_norm)
    old = session.context
    values = {f.name: getattr(old, f.name) for f in fields(Context)}
    values |= {"device": CPU, "policy": FollowedPolicy(old.policy, parameters[0])}
    values["rewards"] = rewards
    ctx = FollowedContext(**values, ledger=ledger)
    for step in range(STEPS):
        ctx.start_step(step)
        for count, loss in enumerate(session.algorithm.losses(ctx, batch), 1):
            loss.backward()
            if loss.step or count == LOSSES:
                updater.clip()
                updater.update(step + 1)
            if count == LOSSES:
                break
        ctx.take_records()
    states = [value for state in optimizer.state.values() for value in state.values()]
    return {
        "gradients": total(parameters),
        "optimizer": total([value for value in states if isinstance(value, Tensor)]),
        "average of the weights": total(list(ema.weights.values())),
    }


def total(tensors: Sequence[Tensor]) -> int:
    """Bytes of tensors that share no storage."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
