"""The fixed sections of a recipe: keys that are no component's options, with type and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from rewardft.recipe.bounds import (
    Count,
    CountOrZero,
    Decay,
    Fraction,
    Inside,
    NotNegative,
    Positive,
)
from rewardft.recipe.typed_values import STRICT

Name = Annotated[str, Field(min_length=1)]
# Part of metric names and of folder names.
Label = Annotated[str, Field(pattern=r"^[\w-]([\w.-]{0,78}[\w-])?$")]
# Of samples that are held in memory at once, far above what any machine holds.
Together = Annotated[int, Field(ge=1, le=1_000_000)]


class Section(BaseModel):
    """A section of fixed keys; anything else in it is an error."""

    # Frozen: a recipe that changed after it was checked and written would not be what ran.
    model_config = {**STRICT, "extra": "forbid", "frozen": True}

    def as_options(self) -> dict[str, Any]:
        """The section as it is written in YAML: component options beside the fixed keys."""
        values = {
            name: _plain(getattr(self, name))
            # `options` is flattened below: in YAML it has no key of its own.
            for name in type(self).model_fields
            if name != "options"
        }
        return {**values, **getattr(self, "options", {})}


class ComponentSpec(Section):
    """A component by name. In YAML the options are written flat: `{use: name, option: value}`."""

    use: Name
    options: dict[str, Any] = {}


class DataSpec(ComponentSpec):
    """The data set, and how many of its samples make a batch."""

    # Per process: n processes make a global batch of n times this.
    batch_size: Together = 1


class RewardSpec(ComponentSpec):
    """A reward, its weight in the total, and the name that it is logged under (default: `use`)."""

    weight: float = 1.0
    on_error: Literal["stop", "skip"] = "stop"
    name: Label | None = None

    @model_validator(mode="after")
    def _fill_name(self) -> RewardSpec:
        # Past the freeze, once, while the section is built.
        self.__dict__["name"] = self.name or self.use
        return self


class RegularizerSpec(ComponentSpec):
    """A penalty that is added to the loss, `weight` times, and the name that it is logged under
    (default: `use`)."""

    weight: NotNegative
    name: Label | None = None

    @model_validator(mode="after")
    def _fill_name(self) -> RegularizerSpec:
        self.__dict__["name"] = self.name or self.use
        return self


class AdapterSpec(Section):
    """What is trained: a low-rank adapter, or every weight of `model.trainable`.

    `alpha` defaults to `rank`. `init`: a folder with trained weights of the same kind to start
    from, such as `adapter/` of a run, or a LoRA of diffusers' pipelines; the reference stays the
    base model.
    """

    kind: Literal["lora", "full"] = "lora"
    # No layer is wider, and a rank above its layer's width adds nothing.
    rank: Annotated[int, Field(ge=1, le=65_536)] = 16
    alpha: Positive | None = None
    targets: list[str] | str | None = None
    dropout: Decay = 0.0
    init: Name | None = None

    @model_validator(mode="after")
    def _fill_alpha(self) -> AdapterSpec:
        if self.alpha is None:
            # alpha = rank: the adapter's strength alpha / rank is 1.
            self.__dict__["alpha"] = float(self.rank)
        return self

    @property
    def start(self) -> str:
        """What a run's own evaluations call the model that it began with: 'start' where `init`
        gives its weights, else 'base'."""
        return "base" if self.init is None else "start"


class OptimizerSpec(ComponentSpec):
    """The optimizer and its schedule.

    Options beyond these keys go to the plugin that answers for `use`.
    """

    use: Name = "adamw"
    lr: Positive
    weight_decay: NotNegative = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    eps: Positive = 1e-8
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: CountOrZero = 0

    @model_validator(mode="after")
    def _fold_case(self) -> OptimizerSpec:
        if self.use.casefold() == "adamw":
            # Folded here, so that nobody else has to compare without case.
            self.__dict__["use"] = "adamw"
        return self


class TrainSpec(Section):
    """How a step is computed, and the length of the run: `steps`, or `budget`
    (`rewardft.recipe.budget`) if it ends first."""

    steps: Count
    budget: Name | None = None
    accumulate: Together = 1
    clip_norm: Positive | None = 1.0
    ema: Inside | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False
    decode_checkpointing: bool = False
    micro_batch: Together | Literal["auto", "all"] | None = None
    compile: bool = False
    shard: bool = False
    keep_for_rollouts: bool = False
    reward_gradients: Literal["sum", "conflict", "normalised"] = "sum"
    log_every: Count = 10
    report_to: list[str] = []


class EvaluateSpec(Section):
    """Held-out evaluation; `every: 0` means never during training. `data` overrides options of the
    data set.

    fractions: the number of equal parts of the run, each of which ends with an evaluation; None:
        none in a run on its own, and some in a comparison.
    samples_per_item: how many samples are drawn of each item.
    sampler: draws the held-out samples; None: the one that the run trains with.
    weights: the last step's, or their average `train.ema`; None: the average where there is one.
    kl: measure the distance from the reference along the sampled trajectories.
    on_alarm, min_diversity: what an alarm does, and the fraction of the base's diversity below
        which there is one.
    """

    every: CountOrZero = 0
    fractions: Annotated[int, Field(ge=0, le=10_000)] | None = None
    samples: Count = 64
    samples_per_item: Together = 1
    batch_size: Together | None = None
    seed: CountOrZero = 1234
    data: dict[str, Any] = {}
    sampler: ComponentSpec | None = None
    weights: Literal["raw", "ema"] | None = None
    rewards: list[RewardSpec] = []
    metrics: list[ComponentSpec] = []
    kl: bool = False
    on_alarm: Literal["warn", "stop"] = "warn"
    min_diversity: Fraction = 0.7

    @property
    def wanted(self) -> bool:
        """Whether the recipe asks for any evaluation."""
        return bool(self.every or self.fractions or self.rewards or self.metrics or self.kl)


class SamplesSpec(Section):
    """Grids of the first `count` held-out samples, always with the same noise; `every: 0` means
    none."""

    every: CountOrZero = 0
    count: Annotated[int, Field(ge=1, le=1_000)] = 8


class SaveSpec(Section):
    """Checkpoints; `every: 0` means only at the end. The last `keep` are kept.

    best: the held-out value whose best evaluation's weights are kept as well.
    patience: how many evaluations may pass without a better one; None: any number.
    """

    every: CountOrZero = 0
    keep: Count = 3
    best: Name | None = None
    patience: Count | None = None


class Sections(Section):
    """A whole recipe as plain data."""

    plugins: list[Name] = []
    seed: CountOrZero = 0
    model: ComponentSpec
    sampler: ComponentSpec
    data: DataSpec
    rewards: list[RewardSpec] = []
    regularizers: list[RegularizerSpec] = []
    algorithm: ComponentSpec
    adapter: AdapterSpec = AdapterSpec()
    optimizer: OptimizerSpec
    train: TrainSpec
    evaluate: EvaluateSpec = EvaluateSpec()
    samples: SamplesSpec = SamplesSpec()
    save: SaveSpec = SaveSpec()

    @model_validator(mode="after")
    def _fill_weights(self) -> Sections:
        if self.evaluate.weights is None:
            # Filled in, so that a run's copy says which weights its evaluations are of.
            weights = "raw" if self.train.ema is None else "ema"
            self.__dict__["evaluate"] = self.evaluate.model_copy(update={"weights": weights})
        return self


def _plain(value: Any) -> Any:
    """Sections, lists and tuples as dictionaries and lists."""
    if isinstance(value, Section):
        return value.as_options()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def fold_options(cls: type[Section], data: Any) -> Any:
    """Move the keys of component sections that are not fixed ones under `options`,
    everywhere in `data`."""
    if not isinstance(data, dict):
        return data
    folded: dict[str, Any] = {}
    options: dict[str, Any] = {}
    takes_options = issubclass(cls, ComponentSpec)
    for key, value in data.items():
        # An option may itself be called `options`.
        if takes_options and (key == "options" or key not in cls.model_fields):
            options[key] = value
        else:
            folded[key] = _fold_field(cls, key, value)
    return {**folded, "options": options} if takes_options else folded


def _fold_field(cls: type[Section], key: str, value: Any) -> Any:
    # Plain values have no options inside.
    section = section_of(cls, key)
    if section is None:
        return value
    return (
        [fold_options(section, item) for item in value]
        if isinstance(value, list)
        else fold_options(section, value)
    )


def section_of(cls: type[Section], key: str) -> type[Section] | None:
    """The section class of a field,
    also when the field is a list of sections; None for plain values."""
    field = cls.model_fields.get(key)
    candidates = (
        [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
    )
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)
