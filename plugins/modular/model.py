"""`modular`: any family of diffusers' modular pipelines, behind the contract of a diffusion model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rewardft_plugins.modular.blocks import BlockChain, Prepared, join
from rewardft_plugins.modular.conditions import (
    Condition,
    ConditionCache,
    can_be_joined,
    converted,
    joined,
    key_of,
)
from rewardft_plugins.modular.decoding import checkpoint_decoder
from rewardft_plugins.modular.guidance import Guidance, GuidanceGradient
from rewardft_plugins.modular.loading import (
    Source,
    load_parts,
    open_pipeline,
    select_blocks,
    triggers,
)
from rewardft_plugins.modular.schedule import is_flow, sampling_schedule
from torch import Tensor, nn

from rewardft import Batch
from rewardft.errors import ComponentError, did_you_mean

Embed = Callable[[str, Tensor | None], Mapping[str, Any]]
ATTENTION = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "to_qkv_mlp_proj",
)  # diffusers' names in all families
PREPARED = 4  # batches that are kept where the loop begins


@dataclass(frozen=True)
class Settings:
    """What a recipe says about a pipeline that is loaded; see `modular`."""

    workflow: str | None = None
    guidance: float | None = None
    guider: Mapping[str, Any] | None = None
    guidance_gradient: GuidanceGradient = "inside"
    height: int | None = None
    width: int | None = None
    frames: int | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    negative_prompt: str | None = None
    train: Sequence[str] = ()
    alone: bool = False
    cache_mb: int = 1024
    offload_encoders: bool = False


class Modular:
    """A modular pipeline as a `DiffusionModel`.

    Samples x have the shape of the family's latents: `(b, tokens, c)` where it packs them,
    `(b, c, frames, h, w)` of videos, `(b, n)` where sound is sampled beside a video. The condition
    is a list with one `Condition` per sample; samples that differ in timestep or in the shapes of
    their conditions are denoised one group after the other, so padding plays no part.

    Args:
        pipe: the pipeline with its components.
        settings: see `modular`.
        embed: makes the condition of a prompt and a picture `(3, h, w)`, in place of the encoders.

    Raises ComponentError for settings that the pipeline has no use for.
    """

    provides = frozenset({"denoiser"})

    def __init__(self, pipe: Any, settings: Settings, embed: Embed | None = None) -> None:
        self.pipe, self.settings = pipe, settings
        self.device = torch.device("cpu")
        self.chain = BlockChain(pipe, selected(pipe, settings), common_inputs(pipe, settings))
        self._guidance = Guidance(
            self.chain, settings.guidance, settings.guider, settings.guidance_gradient
        )
        self._embed = embed or self.run_encoders
        self._encoders = self.chain.encoder_networks
        self._cache = ConditionCache(settings.cache_mb * 2**20)
        self._prepared: OrderedDict[Hashable, Prepared] = OrderedDict()
        self._example: Condition | None = None
        self._steps = 1
        self._starts_from_noise = False
        self._names = trained_networks(self.chain, settings.train)
        self._dtype: torch.dtype = self.chain.networks[self._names[0]].dtype  # type: ignore[assignment]
        self._called: set[str] = set()
        for name in self._names:
            note_calls(self.chain.networks[name], name, self._called)
        self.trainable = trained_module(self.chain, self._names)
        self.scheduler = self.make_schedule()

    @classmethod
    def load(cls, source: Source, settings: Settings) -> Modular:
        """From a folder or the hub, with the parts that the workflow uses."""
        pipe = open_pipeline(source)
        load_parts(pipe, selected(pipe, settings), source)
        return cls(pipe, settings)

    # -- weights -----------------------------------------------------------------------------------

    @property
    def trainable(self) -> nn.Module:
        """The denoiser; of several that are trained a `ModuleDict` by the names of the components."""
        return self._trainable

    @trainable.setter
    def trainable(self, module: nn.Module) -> None:
        self._trainable = module
        for name in self._names:
            network = module[name] if len(self._names) > 1 else module  # type: ignore[index]
            setattr(self.pipe, name, network)

    @property
    def lora_targets(self) -> list[str]:
        """The projections of attention that the loop calls, by diffusers' names for them.

        A name stands for all layers that end in it, if the loop calls all of these.
        """
        layers = [n for n, m in self.trainable.named_modules() if isinstance(m, nn.Linear)]
        unused = set(layers) - self.called_layers()
        targets = []
        for name in ATTENTION:
            found = [layer for layer in layers if layer.endswith("." + name)]
            called = [layer for layer in found if layer not in unused]
            targets += called if len(called) < len(found) else [name] * bool(found)
        return targets

    @torch.no_grad()
    def called_layers(self) -> set[str]:
        """Names of the layers that run at the first or at the last timestep."""
        called: set[str] = set()
        hooks = [note_calls(m, n, called) for n, m in self.trainable.named_modules()]
        prepared, cond = self.prepared([self.example]), [self.example]
        x = join(prepared.step, self.pipe)
        for t in prepared.timesteps[[0, -1]]:
            self.denoise(x, t[None], cond)
        for hook in hooks:
            hook.remove()
        return called

    def to(self, device: torch.device) -> None:
        self.device = torch.device(device)
        self._prepared.clear()
        if self.settings.offload_encoders:
            for name in self._encoders:
                setattr(
                    self.pipe, name, None
                )  # else the pipeline takes the encoders' device for its own
        self.pipe.to(self.device)
        self.trainable.to(self.device)

    def enable_checkpointing(self) -> None:
        for network in self.chain.networks.values():
            network.enable_gradient_checkpointing()  # type: ignore[operator]

    def enable_decode_checkpointing(self) -> None:
        """A checkpoint for each call of the decoder: memory does not grow with frames."""
        checkpoint_decoder(self.pipe.vae.decoder)

    # -- conditions --------------------------------------------------------------------------------

    def encode(self, batch: Batch) -> list[Condition]:
        """Of `batch["prompt"]`, and of `batch["image"]` `(b, 3, h, w)` where the workflow takes a picture."""
        wanted = ["prompt", "image"] if self.takes_image else ["prompt"]
        for column in wanted:
            if column not in batch:
                raise ComponentError(
                    f"the workflow {self.settings.workflow or 'of texts'} of {type(self.pipe).__name__} needs a "
                    f"column `{column}`, and the data set gives: {', '.join(batch.columns)}. The data set "
                    f"`prompts` has texts, `edits` has pictures with instructions."
                )
        images = batch["image"] if self.takes_image else [None] * len(batch)
        return [self.condition(prompt, image) for prompt, image in zip(batch["prompt"], images)]

    def condition(self, prompt: str, image: Tensor | None) -> Condition:
        """From the cache where it is held; each is encoded alone, so none depends on another."""
        key = key_of(prompt, image)
        return self._cache.get(key, lambda: self.in_precision(self._embed(prompt, image)))

    def in_precision(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Conditions in the precision of the denoiser, whatever that of the encoders."""
        return {name: converted(value, self._dtype) for name, value in values.items()}

    def drop(self, cond: Sequence[Condition], mask: Tensor) -> list[Condition]:
        """The conditions with those where `mask` `(b,)` is true replaced by the empty prompt's."""
        return [self.condition("", None) if off else c for c, off in zip(cond, mask.tolist())]

    @property
    def takes_image(self) -> bool:
        """Whether the workflow is conditioned on a picture."""
        required = [p.name for p in self.chain.blocks.inputs if p.required]
        return "image" in required or "image" in triggers(self.pipe, self.settings.workflow)

    def run_encoders(self, prompt: str, image: Tensor | None) -> Mapping[str, Any]:
        """The encoder blocks on one prompt.

        What guidance leads away from is the pipeline's own where it makes one of nothing (SDXL: zeros); where it makes
        none, and would drop its guidance without a word, it is the empty prompt.
        """
        values: dict[str, Any] = {"prompt": prompt}
        if image is not None:
            values["image"] = to_picture(image)
        if self.settings.negative_prompt is not None:
            values["negative_prompt"] = self.settings.negative_prompt
        with self.encoders_on_device(), self._guidance.configured():
            found = self.chain.encode(values)
            lacking = [n for n, v in found.items() if n.startswith("negative_") and v is None]
            if lacking and self._guidance.guiders and self._guidance.scale != 1.0:
                found = self.chain.encode({"negative_prompt": "", **values})
        return found

    @contextmanager
    def encoders_on_device(self) -> Iterator[None]:
        if not self.settings.offload_encoders:
            yield
            return
        for name, encoder in self._encoders.items():
            setattr(self.pipe, name, encoder.to(self.device))
        try:
            yield
        finally:
            for name, encoder in self._encoders.items():
                encoder.to("cpu")
                setattr(self.pipe, name, None)

    @property
    def example(self) -> Condition:
        """Any condition: sizes, grids and the way back to pixels do not depend on which."""
        if self._example is None:
            self._example = self.condition("", self.grey() if self.takes_image else None)
        return self._example

    def grey(self) -> Tensor:
        """A picture of the samples' size, no smaller than families take them."""
        height, width = self.settings.height or 512, self.settings.width or 512
        return torch.full((3, max(height, 64), max(width, 64)), 0.5)

    # -- the loop ----------------------------------------------------------------------------------

    def sample_shape(self, cond: Sequence[Condition]) -> tuple[int, ...]:
        """Raises ComponentError for a workflow that does not begin with noise alone."""
        if not self._starts_from_noise:
            self.check_start(cond[0])
            self._starts_from_noise = True
        return tuple(join(self.prepared(cond[:1]).step, self.pipe).shape[1:])

    def check_start(self, condition: Condition) -> None:
        """The states of two seeds must differ everywhere, and nothing may say how much to noise."""
        values = joined([condition], self.device) | {"num_inference_steps": self._steps}
        first, second = (join(self.chain.prepare(values, n).step, self.pipe) for n in (0, 1))
        self._guidance.apply()
        if "strength" in self.chain.input_names or bool((first == second).any()):
            raise ComponentError(
                f"the workflow {self.settings.workflow!r} of {type(self.pipe).__name__} starts from a picture that "
                f"is noised or kept in part, and samplers start from noise. Take a workflow that is conditioned on "
                f"the picture, such as image_conditioned."
            )

    def denoise(self, x: Tensor, t: Tensor, cond: Sequence[Condition]) -> Tensor:
        groups = list(self.groups(t, cond))
        outputs = [
            self.denoise_group(x[rows], t[rows[0]], [cond[r] for r in rows]) for rows in groups
        ]
        if len(groups) == 1:
            return outputs[0]
        order = torch.tensor([row for rows in groups for row in rows], device=x.device)
        return torch.cat(outputs)[order.argsort()]

    def groups(self, t: Tensor, cond: Sequence[Condition]) -> Iterator[list[int]]:
        """Rows that can share a call: of one timestep, with conditions of one layout.

        Pictures go alone: some families take several of them as the condition of one sample.
        """
        alone = self.settings.alone or self.takes_image or not can_be_joined(cond[0])
        found: dict[Hashable, list[int]] = {}
        for row, (level, condition) in enumerate(zip(t.tolist(), cond)):
            found.setdefault(row if alone else (level, condition.layout), []).append(row)
        yield from found.values()

    def denoise_group(self, x: Tensor, t: Tensor, cond: Sequence[Condition]) -> Tensor:
        prepared = self.prepared(cond)
        wanted = join(
            prepared.step, self.pipe
        ).dtype  # some families refuse a float32 x beside bf16
        self._called.clear()
        return self.with_idle_weights(self.chain.denoise(x.to(wanted), t, prepared))

    def with_idle_weights(self, output: Tensor) -> Tensor:
        """Give trained networks that this timestep does not call a gradient of zero, not none."""
        if len(self._names) == 1 or not torch.is_grad_enabled():
            return output
        idle = [module for name, module in self.trainable.items() if name not in self._called]  # type: ignore[operator]
        weights = [p for module in idle for p in module.parameters() if p.requires_grad]
        return output + sum((0.0 * weight.sum()).to(output.dtype) for weight in weights)

    def prepared(self, cond: Sequence[Condition]) -> Prepared:
        """The batch where the loop begins, from the last few that were asked for."""
        key = (self._steps, self.guidance_key, *(condition.key for condition in cond))
        if key not in self._prepared:
            values = joined(cond, self.device) | {"num_inference_steps": self._steps}
            self._prepared[key] = self.chain.prepare(values)
            self._guidance.apply()
        self._prepared.move_to_end(key)
        while len(self._prepared) > PREPARED:
            self._prepared.popitem(last=False)
        return self._prepared[key]

    # -- guidance ----------------------------------------------------------------------------------

    @property
    def guidance(self) -> float:
        """The scale; absent where the pipeline has no guidance."""
        if not self._guidance.exists:
            raise AttributeError(f"{type(self.pipe).__name__} has no guidance")
        return self._guidance.scale

    @guidance.setter
    def guidance(self, scale: float) -> None:
        self._guidance.set(scale)

    @property
    def guidance_key(self) -> float | None:
        return self._guidance.scale if self._guidance.exists else None

    # -- schedule and pixels -----------------------------------------------------------------------

    def make_schedule(self) -> Any:
        """What the samplers read. The pipeline itself gets DDIM's scheduler where it has betas."""
        name = type(self.pipe).__name__
        schedule = sampling_schedule(self.pipe.scheduler, self.levels, name)
        if not is_flow(self.pipe.scheduler):
            self.pipe.scheduler = schedule
            self._steps = schedule.config.num_train_timesteps  # every timestep is on this grid
        return schedule

    def levels(self, steps: int) -> tuple[Tensor, Tensor]:
        """Timesteps `(T,)` and noise levels `(T + 1,)` of the pipeline's own grid."""
        self._steps = steps
        prepared = self.prepared([self.example])
        if prepared.sigmas is None:
            raise ComponentError(
                f"{type(self.pipe).__name__} has no noise levels beside its timesteps"
            )
        return prepared.timesteps.cpu(), prepared.sigmas.cpu()

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels in [0, 1]: `(b, 3, h, w)`, or `(b, frames, 3, h, w)` of videos; sample by sample."""
        prepared = self.prepared([self.example])
        return torch.cat([self.chain.decode(x, prepared) for x in x0.split(1)])


def selected(pipe: Any, settings: Settings) -> Any:
    """The blocks that a pipeline runs for a recipe."""
    return select_blocks(pipe, settings.workflow, common_inputs(pipe, settings))


def common_inputs(pipe: Any, settings: Settings) -> dict[str, Any]:
    """Inputs of the blocks that are the same for all samples; ComponentError for unknown ones."""
    known = [parameter.name for parameter in pipe.blocks.inputs if parameter.name]
    sizes = {"height": settings.height, "width": settings.width, "num_frames": settings.frames}
    given = {name: value for name, value in sizes.items() if value is not None}
    given |= settings.inputs
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known)
            raise ComponentError(f"{type(pipe).__name__} has no input {name!r}.{hint}")
    if (
        "use_kv_cache" in known
    ):  # keys and values that were made with the weights of an earlier step
        given.setdefault("use_kv_cache", False)
    return given


def trained_networks(chain: BlockChain, wanted: Sequence[str]) -> list[str]:
    """Names of the denoisers that learn, all of the loop's by default."""
    for name in wanted:
        if name not in chain.networks:
            raise ComponentError(
                f"train: the loop has no network {name!r}.{did_you_mean(name, chain.networks)}"
            )
    return list(wanted) or list(chain.networks)


def trained_module(chain: BlockChain, names: Sequence[str]) -> nn.Module:
    """One network, or several side by side."""
    networks = {name: chain.networks[name] for name in names}
    return networks[names[0]] if len(names) == 1 else nn.ModuleDict(networks)


def note_calls(module: nn.Module, name: str, called: set[str]) -> Any:
    """Add `name` to `called` whenever the module runs; returns what undoes that."""

    def note(*_: Any) -> None:
        called.add(name)

    return module.register_forward_pre_hook(note)


def to_picture(image: Tensor) -> Any:
    """`(3, h, w)` in [0, 1] -> a Pillow image."""
    from PIL import Image

    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())
