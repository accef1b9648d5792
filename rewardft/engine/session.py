"""From a resolved recipe to live objects: model, adapter, samplers, rewards, algorithm."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rewardft.engine.components import (
    build_model,
    build_regularizers,
    build_rewards,
    build_samplers,
)
from rewardft.engine.footprint import networks_in
from rewardft.errors import ComponentError
from rewardft.evaluation.evaluate import Evaluation, evaluate
from rewardft.policy.adapter import attach
from rewardft.policy.answers import check_trainable
from rewardft.policy.compiling import compile_blocks
from rewardft.policy.context import Context
from rewardft.policy.facts import RewardFacts
from rewardft.policy.full import FullFineTuning
from rewardft.policy.lora import Lora
from rewardft.policy.policy import Policy
from rewardft.policy.rewards import OnError
from rewardft.policy.rollout_weights import is_large
from rewardft.policy.sharding import kept_whole, shard_base
from rewardft.recipe.recipe import Recipe


@dataclass(frozen=True)
class Session:
    """The live objects of one run.

    eval_sampler: draws held-out samples.
    plugin_files: SHA-256 of the file plugins, by path.
    """

    recipe: Recipe
    resolved: Any
    model: Any
    adapter: Lora | FullFineTuning
    context: Context
    algorithm: Any
    eval_sampler: Any
    plugin_files: dict[str, str] = field(default_factory=dict)

    def evaluation_settings(self, samples: int) -> dict[str, Any]:
        """Everything except the weights that determines an evaluation, as JSON gives it back."""
        flat = self.recipe.dump()
        spec = flat["evaluate"]
        settings = {
            "seed": spec["seed"],
            "samples": samples,
            "samples_per_item": spec["samples_per_item"],
            "data": without(flat["data"], "batch_size") | spec["data"],
            # The weight changes what is trained, not what is measured.
            "rewards": {r["name"]: without(r, "weight") for r in flat["rewards"] + spec["rewards"]},
            "metrics": spec["metrics"],
            "kl": spec["kl"],
            "sampler": spec["sampler"] or flat["sampler"],
            # The base model's options change every sample, also where weights fit both.
            "model": flat["model"],
            "precision": flat["train"]["precision"],
            "plugins": self.plugin_files,
        }
        # As they are read back from a file: tuples become lists, and so compare equal.
        return dict(json.loads(json.dumps(settings)))

    def calls_at(self, step: int) -> tuple[int, int] | None:
        """(forwards, backwards) in samples that an optimizer step will take; None where the
        algorithm cannot say."""
        plan = getattr(self.algorithm, "calls", None)
        if plan is None:
            return None
        # A generator of its own: asking must not use up the draws of the step itself.
        choices, reference = self.context.rng_of(step), bool(self.recipe.regularizers)
        forwards, backwards = plan(self.context.sampler.steps, choices, reference)
        samples = self.recipe.data.batch_size * self.recipe.train.accumulate
        return samples * forwards, samples * backwards

    def evaluation_context(self, scored: bool = True, step: int = 0) -> Context:
        """The same model with the evaluation's sampler and seed; if `scored`, with the trained and
        held-out rewards. step: of the weights."""
        own = {r.name: r for r in self.context.rewards}
        # Networks of the trained rewards are shared; a held-out reward of the same name has
        # settings of its own.
        held_out = build_rewards(self.resolved.eval_rewards, self.context.device) if scored else []
        rewards = list((own | {r.name: r for r in held_out}).values())
        # Its calls are not training's.
        trained = self.context.policy
        return Context(
            policy=Policy(*trained.settings),
            sampler=self.eval_sampler,
            adapter=self.adapter,
            rewards=rewards if scored else [],
            seed=self.recipe.evaluate.seed,
            step=step,
            device=self.context.device,
            dtype=self.context.dtype,
            on_reward_error=self.context.on_reward_error,
            gathered=self.context.gathered,
        )


@dataclass(frozen=True)
class Training:
    """What a run adds to the context of its algorithm; nothing of it is needed to evaluate.

    gather: the tensors of all processes.
    facts: of the first step, for the start-up audit.
    on_reward_error: keeps the samples that a reward failed on.
    """

    gather: Callable[[Tensor], Tensor]
    facts: RewardFacts | None
    on_reward_error: OnError


def build_session(
    recipe: Recipe,
    resolved: Any,
    device: torch.device,
    plugin_files: Mapping[str, str] = {},
    training: Training | None = None,
) -> Session:
    """Load the model and build everything that a run needs; no data set and no optimizer yet."""
    algorithm = resolved.algorithm.build()
    model = build_model(resolved)
    check_trainable(model)
    # A base that is sharded never lies on one device as a whole, see below.
    sharded = recipe.train.shard and training is not None
    if not sharded:
        lay_out(recipe, place(model, device), device)
    switch_checkpointing(recipe, model)
    sampler, eval_sampler = build_samplers(recipe, resolved, model)
    compared = bool(recipe.regularizers) or recipe.evaluate.kl
    # With full fine-tuning, a frozen copy of all weights, which costs as much as the model: only
    # where something reads it.
    keep_reference = compared or getattr(algorithm, "needs_reference", False)
    # After the samplers are set up, and with a seed of its own, so that an adapter begins the same
    # whatever was built before.
    adapter = attach(model, recipe.adapter, recipe.seed, keep_reference)
    gathered = spread(recipe, model, adapter, device) if sharded else nullcontext
    if recipe.train.compile and training is not None:
        # An evaluation on its own would wait longer for the compiler than it would gain.
        compile_blocks(model.trainable)
    size = recipe.train.micro_batch
    context = Context(
        policy=build_policy(recipe, model),
        sampler=sampler,
        adapter=adapter,
        rewards=build_rewards(resolved.rewards, device),
        regularizers=build_regularizers(resolved.regularizers),
        seed=recipe.seed,
        # `auto` and the default are settled when a run starts, see `micro_batch.py`.
        micro_batch=None if isinstance(size, str) else size,
        reward_gradients=recipe.train.reward_gradients,
        device=device,
        gathered=gathered,
        **({} if training is None else vars(training)),
    )
    return Session(
        recipe, resolved, model, adapter, context, algorithm, eval_sampler, dict(plugin_files)
    )


def run_evaluation(session: Session, samples: int, step: int = 0) -> Evaluation:
    """Evaluate a session's model, of weights of `step`, as the recipe's `evaluate` section says."""
    spec = session.recipe.evaluate
    metrics = {component.entry.name: component.build() for component in session.resolved.metrics}
    size = spec.batch_size or session.recipe.data.batch_size
    dataset = session.resolved.eval_dataset.build()
    result = evaluate(
        session.evaluation_context(step=step),
        dataset,
        metrics,
        samples,
        size,
        spec.kl,
        spec.samples_per_item,
    )
    result.settings = session.evaluation_settings(samples)
    return result


def without(section: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A section less one of its keys."""
    return {name: value for name, value in section.items() if name != key}


def place(model: Any, device: torch.device) -> Any:
    """Move the model; one that is more than a module brings its own `to`."""
    if hasattr(model, "to"):
        model.to(device)
    else:
        model.trainable.to(device)
    return model


def lay_out(recipe: Recipe, model: Any, device: torch.device) -> None:
    """On a CPU, the channels last in the memory of a large network and of the others beside it:
    convolutions take 4 to 15 % less time so. Not of weights that all learn, and are saved."""
    if device.type == "cpu" and recipe.adapter.kind == "lora" and is_large(model.trainable):
        for module in networks_in(model):
            # Of videos: torch has another layout for five dimensions, and refuses this one.
            if all(t.ndim < 5 for t in (*module.parameters(), *module.buffers())):
                # torch has no overload of this for types.
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_policy(recipe: Recipe, model: Any) -> Policy:
    """The model in the precision of the recipe."""
    precision = torch.bfloat16 if recipe.train.precision == "bf16" else None
    decoder_checkpointed = decodes_again(recipe, model)
    return Policy(model, precision, recipe.train.checkpointing, decoder_checkpointed)


def decodes_again(recipe: Recipe, model: Any) -> bool:
    """Whether decoding is computed again for its gradient: as the recipe asks, or by itself."""
    train = recipe.train
    # One method may be for both, as in a model whose `decode` does its own checkpointing.
    for_both = train.checkpointing and not hasattr(model, "enable_decode_checkpointing")
    if train.decode_checkpointing or for_both:
        return True
    denoiser = set(model.trainable.modules())
    layers = {layer for network in networks_in(model) for layer in network.modules()} - denoiser
    return any(getattr(layer, "gradient_checkpointing", False) for layer in layers)


def spread(recipe: Recipe, model: Any, adapter: Lora | FullFineTuning, device: torch.device) -> Any:
    """Spread the frozen base over the processes, then move the model; returns what is to be around
    a rollout, as `Context.gathered`."""
    shard_base(model.trainable, adapter.parameters, device)
    place(model, device)
    return partial(kept_whole, model.trainable) if recipe.train.keep_for_rollouts else nullcontext


def switch_checkpointing(recipe: Recipe, model: Any) -> None:
    """Turn on the checkpointing that the recipe asks for; raises ComponentError for a model that
    has none."""
    for wanted, method in (
        (recipe.train.checkpointing, "enable_checkpointing"),
        (recipe.train.decode_checkpointing, "enable_decode_checkpointing"),
    ):
        if wanted and not hasattr(model, method):
            key = "checkpointing" if method == "enable_checkpointing" else "decode_checkpointing"
            raise ComponentError(
                f"train.{key}: the model {recipe.model.use!r} cannot checkpoint there (it has no "
                f"`{method}()`). Replay already keeps one denoiser graph at a time; set "
                "train.micro_batch to need less memory."
            )
        if wanted:
            getattr(model, method)()
