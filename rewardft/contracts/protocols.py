"""The contracts between the core and its components. Protocols, not base classes: a plugin inherits
nothing.

`needs` and `provides` are sets of opaque tags. The core checks that everything needed is provided
and understands none of them. Tags that depend on options are given by an optional static method
`tags(**options) -> frozenset[str]` beside `provides`; it is asked before anything is built. What
a component does not go with it `refuses`.

Tags in use: `denoiser` (a `DiffusionModel`), `differentiable_sampler` (a `DifferentiableSampler`),
    `stochastic`, `log_prob`, `renoise` (a `RenoisingSampler`), `reward_gradient`, `prompt_reward`
    (every reward compares with a text), `pairs`, `multiview`, `training_targets` (the data set
    holds clean samples), `betas` or `sigmas` (the noise schedule, where it is known beforehand).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rewardft.contracts.launching import Work
    from rewardft.noise import Noise
    from rewardft.policy.context import Context
    from rewardft.types import Batch, Loss, Plan, Rollout, Transition


@runtime_checkable
class Model(Protocol):
    """A model family: owns weights, conditioning and decoding.

    What is trained need not be a network: a module that holds parameters will do, with `adapter:
    {kind: full}`. Its tensors keep their shapes.

    Optional method `parameter_groups() -> {name: factor}`: what is trained under that name (a
    parameter, or the module that holds it) learns at `factor` times the recipe's learning rate, and
    the rest at the rate itself.

    Optional attribute `from_scratch = True`: what is trained begins from nothing, as a scene does,
    and no base is trained further. Runs whose models have other options are then compared by where
    they end.

    Optional attribute `light_to_build = True`: within `rewardft.files.shapes.shapes_only` it is
    built without loading weights, or has none worth waiting for, so that `rewardft check` can look
    for the layers that `adapter.targets` names.
    """

    # An attribute and not a method: full fine-tuning puts its frozen copy there.
    trainable: nn.Module  # where the adapter goes, or what full fine-tuning trains

    def encode(self, batch: Batch) -> Any:
        """Frozen encoders: the condition of each sample (anything that `select_rows` can cut)."""

    def decode(self, x0: Any) -> Any:
        """Samples as rewards see them; images in [0, 1]. Differentiable; does its own
        checkpointing.

        A model whose samples are not images says `pictures = False`; what they decode to is then
        its own affair, a mapping of tensors for instance. Its optional method
        `show(decoded, batch) -> (b, c, h, w)` in [0, 1] draws them for reports.

        A model whose samples are videos `(b, frames, c, h, w)` has an attribute `frame_rate`, in
        frames per second: run folders and reports then hold GIFs, not rows of pictures.
        """


@runtime_checkable
class DiffusionModel(Model, Protocol):
    """A model that denoises: what the built-in samplers need."""

    scheduler: Any  # a diffusers scheduler: betas or sigmas, prediction type, timestep spacing

    def sample_shape(self, cond: Any) -> tuple[int, ...]:
        """Shape of x for one sample, without the batch dimension."""

    def denoise(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Raw network output `(b, ...)` at states x `(b, ...)` and timesteps t `(b,)`, guidance
        applied."""


@runtime_checkable
class Sampler(Protocol):
    """Turns noise into samples, and can visit a kept step again."""

    # The T that plans, budgets and the checks of recipes count by.
    steps: int

    def setup(self, model: Any) -> None:
        """Called once, before the first rollout;
        raises `ComponentError` when the model lacks what is needed."""

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        """Execute the plan without autograd."""

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        """Visit step k again from its kept state, in the caller's gradient mode."""


@runtime_checkable
class DifferentiableSampler(Sampler, Protocol):
    """A sampler whose step is differentiable arithmetic around one network call."""

    def transition(
        self, k: int, state: Tensor, output: Tensor, noise: Noise, taken: Tensor | None = None
    ) -> Transition:
        """Step k from `state` and a network `output`: elementwise, no network call.

        taken: the state that the rollout went to from here. Where it is given, `log_prob` is the
            density of that state and not of the one drawn now: ratios of policies compare the
            densities of one and the same state.
        """


@runtime_checkable
class RenoisingSampler(Sampler, Protocol):
    """A sampler that can noise a clean sample again."""

    def renoise(self, x0: Tensor, k: int, noise: Tensor) -> Tensor:
        """The forward process: the state that enters step k when the clean sample is x0."""


class Reward(Protocol):
    """`(b,)`, higher is better, NaN = not applicable to that sample. A plain function will do.

    Optional method `begin_scoring(rollout, batch)`, for a reward that another process computes: it
    sends the samples and returns at once what waits for the values, an object with `result()` and
    `cancel()` (see `rewardft.policy.begun.Pending`; a `concurrent.futures.Future` is one). It is
    asked where no gradient is wanted.
    """

    def __call__(self, rollout: Rollout, batch: Batch) -> Tensor: ...


class Regularizer(Protocol):
    """A penalty `(b,)` that compares a visited step with the same visit under the reference
    model."""

    def __call__(self, new: Transition, reference: Transition) -> Tensor: ...


class Algorithm(Protocol):
    """A generator of losses. The engine runs backward on each loss before it resumes the generator.

    Optional method `calls(steps, rng, reference) -> (forwards, backwards)`: the denoiser calls of
    one sample with the choices that `rng` makes and `steps` sampling steps, with or without
    regularizers; a run with a budget then ends exactly before the step that it cannot pay for,
    although steps differ.

    Optional attribute `idle_batches`: how many batches in a row may give no loss, while a buffer
    fills for instance; 100 without it. A run in which more have none ends with an error.
    """

    needs: frozenset[str]

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]: ...


class Dataset(Protocol):
    """A map-style data set. Each item is a mapping with an `id` (str, unique) and named columns.

    Optional attribute `sampling_weights`: one number >= 0 for each item. A pass over the data has
    as many samples as the data set has items, and draws them in proportion: one of twice the weight
    comes twice as often, one of weight 0 never. Evaluations take each item once.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class Metric(Protocol):
    """Set-level evaluation. Values of shape `(n,)` are per sample and get paired intervals; others
    are one number. Each is finite, or NaN where it does not apply; anything else ends the
    evaluation with the metric's name and place, and so does a change of the samples or of torch's
    settings.

    Optional attribute `higher_is_better`: true, false or None (neither, the default) for all of its
    values, or a mapping from their names. Alarms watch the values that have a better direction.
    """

    def reset(self) -> None: ...

    def update(self, rollout: Rollout, batch: Batch) -> None: ...

    def compute(self) -> Mapping[str, Tensor | float]: ...


class Launcher(Protocol):
    """Makes the runs of a comparison, here or on machines that see the same files."""

    def launch(self, work: Work) -> None:
        """Make all runs; one that fails stops no other.

        A KeyboardInterrupt makes the running ones save and end, and is raised again. Raises
        ComponentError where no run can be made.
        """
