"""A modular pipeline of diffusers behind the contract of a diffusion model."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from rewardft_plugins.modular.blocks import BlockChain, Prepared, join
from rewardft_plugins.modular.conditions import Condition, can_be_joined, joined
from rewardft_plugins.modular.decoding import checkpoint_decoder
from rewardft_plugins.modular.encoding import ConditionEncoder, Embed
from rewardft_plugins.modular.guidance import Guidance
from rewardft_plugins.modular.latents import LatentMap, encoded, find_map
from rewardft_plugins.modular.networks import Denoisers, attention_targets, note_calls
from rewardft_plugins.modular.schedule import is_flow, sampling_schedule
from rewardft_plugins.modular.settings import Settings, blocks_for, common_inputs
from torch import Tensor, nn

from rewardft import Batch
from rewardft.errors import ComponentError

PREPARED = 4  # batches that are kept where the loop begins
# What ComfyUI expects before a layer's name in kohya's layout, by the class of the network; of
# others it knows only names that are not diffusers'.
KOHYA_PREFIXES = {
    "UNet2DConditionModel": "lora_unet_",
    "SD3Transformer2DModel": "lora_transformer_",
    "FluxTransformer2DModel": "lora_transformer_",
    "QwenImageTransformer2DModel": "lycoris_",
    "ZImageTransformer2DModel": "lycoris_",
}


class Modular:
    """A modular pipeline as a `DiffusionModel`.

    Samples x have the shape of the family's latents: `(b, tokens, c)` where it packs them,
    `(b, c, frames, h, w)` of videos, `(b, n)` where sound is sampled beside a video. The condition
    is a list with one `Condition` per sample; samples that differ in timestep or in the shapes of
    their conditions are denoised one group after the other, so padding plays no part.

    Args:
        pipe: the pipeline with its components.
        settings: see `ModularFromWeights`.
        embed: makes the condition of a prompt and a picture `(3, h, w)`, in place of the encoders.

    Raises ComponentError for settings that the pipeline has no use for.
    """

    provides = frozenset({"denoiser"})

    def __init__(self, pipe: Any, settings: Settings, embed: Embed | None = None) -> None:
        self.pipe, self.settings = pipe, settings
        self.device = torch.device("cpu")
        self.chain = BlockChain(pipe, blocks_for(pipe, settings), common_inputs(pipe, settings))
        guidance = Guidance(
            self.chain, settings.guidance, settings.guider, settings.guidance_gradient
        )
        self._guidance = guidance
        self._denoisers = Denoisers(self.chain, settings.train)
        self.trainable = self._denoisers.together()
        self.condition = ConditionEncoder(
            self.chain, guidance, settings, self._denoisers.dtype, embed
        )
        self._prepared: OrderedDict[Hashable, Prepared] = OrderedDict()
        self._steps = 1
        self._grids: dict[int, list[float]] = {}  # of every sampler that asked, by its steps
        self._starts_from_noise = False
        self._latent_map: LatentMap | None = None
        self.scheduler = self.make_schedule()

    @property
    def frame_rate(self) -> float | None:
        """In frames per second; None of models that make images."""
        return self.settings.frame_rate if self.chain.makes_videos else None

    # -- weights -------------------------------------------------------------------------------

    @property
    def trainable(self) -> nn.Module:
        """The denoiser; of several that learn, a `ModuleDict` by the names of the components."""
        return self._trainable

    @trainable.setter
    def trainable(self, module: nn.Module) -> None:
        self._trainable = module
        self._denoisers.install(module)

    @property
    def pipeline_part(self) -> str | None:
        """The pipeline's name of the network that learns, for its LoRA loader.

        None of two networks, because no loader takes both from one file.
        """
        names = self._denoisers.names
        return names[0] if len(names) == 1 and hasattr(self.pipe, "load_lora_weights") else None

    @property
    def kohya_prefix(self) -> str | None:
        """What other programs expect before a layer's name; None where they have other names."""
        return KOHYA_PREFIXES.get(type(self.trainable).__name__)

    @property
    def lora_targets(self) -> list[str]:
        """The projections of attention that run at the first or at the last timestep."""
        return attention_targets(self.trainable, self.called_layers())

    @torch.no_grad()
    def called_layers(self) -> set[str]:
        """Names of the layers that run at the first or at the last timestep."""
        called: set[str] = set()
        hooks = [note_calls(m, n, called) for n, m in self.trainable.named_modules()]
        cond = [self.condition.example()]
        # Some families have layers that run at high or at low noise alone: both ends are tried.
        prepared = self.prepared(cond)
        with self.chain.refusals(self.chain.loop):
            for t in prepared.timesteps[[0, -1]]:
                self.denoise(join(prepared.step, self.pipe), t[None], cond)
        for hook in hooks:
            hook.remove()
        return called

    def to(self, device: torch.device) -> None:
        self.device = torch.device(device)
        # Their tensors are on the device that is left.
        self._prepared.clear()
        self._latent_map = None
        self.condition.to(self.device)
        self.pipe.to(self.device)
        self.trainable.to(self.device)

    def enable_checkpointing(self) -> None:
        self._denoisers.enable_checkpointing()

    def enable_decode_checkpointing(self) -> None:
        """A checkpoint for each call of the decoder: memory does not grow with frames."""
        checkpoint_decoder(self.pipe.vae.decoder)

    # -- conditions ----------------------------------------------------------------------------

    def encode(self, batch: Batch) -> list[Condition]:
        """Of the texts `batch["prompt"]`, with `batch["image"]` `(b, 3, h, w)` if one is needed."""
        takes_image = self.condition.takes_image
        for column in ["prompt", "image"] if takes_image else ["prompt"]:
            if column not in batch:
                raise ComponentError(
                    f"{type(self.pipe).__name__} with the workflow {self.settings.workflow!r} "
                    f"needs a column `{column}`, and the data set gives: "
                    f"{', '.join(batch.columns)}. The data set `prompts` has texts, `edits` has "
                    "pictures with instructions."
                )
        images = batch["image"] if takes_image else [None] * len(batch)
        return [self.condition(prompt, image) for prompt, image in zip(batch["prompt"], images)]

    def drop(self, cond: Sequence[Condition], mask: Tensor) -> list[Condition]:
        """The conditions with those where `mask` `(b,)` is true replaced by the empty prompt's."""
        empty = self.condition.example()
        return [empty if off else condition for condition, off in zip(cond, mask.tolist())]

    # -- the loop ------------------------------------------------------------------------------

    def sample_shape(self, cond: Sequence[Condition]) -> tuple[int, ...]:
        """Raises ComponentError for a workflow that does not begin with noise alone."""
        if not self._starts_from_noise:
            self.check_start(cond[0])
            self._starts_from_noise = True
        return tuple(join(self.prepared(cond[:1]).step, self.pipe).shape[1:])

    def check_start(self, condition: Condition) -> None:
        """The states of two seeds must differ everywhere, and nothing may say how much to noise."""
        values = joined([condition], self.device) | {"num_inference_steps": self._steps}
        # Entries that two seeds share come from a picture, not from noise.
        first, second = (join(self.chain.prepare(values, n).step, self.pipe) for n in (0, 1))
        self._guidance.apply()
        if "strength" in self.chain.input_names or bool((first == second).any()):
            raise ComponentError(
                f"the workflow {self.settings.workflow!r} of {type(self.pipe).__name__} starts "
                "from a picture that is noised or kept in part, and samplers start from noise. "
                "Take a workflow that is conditioned on the picture, such as image_conditioned."
            )

    def denoise(self, x: Tensor, t: Tensor, cond: Sequence[Condition]) -> Tensor:
        """The raw prediction for states x `(b, ...)` at timesteps t `(b,)`, guidance applied."""
        groups = list(self.groups(t, cond))
        outputs = [self.denoise_group(x[g], t[g[0]], [cond[row] for row in g]) for g in groups]
        if len(groups) == 1:
            return outputs[0]
        # Back into the order of the batch.
        order = torch.tensor([row for rows in groups for row in rows], device=x.device)
        return torch.cat(outputs)[order.argsort()]

    def groups(self, t: Tensor, cond: Sequence[Condition]) -> Iterator[list[int]]:
        """Rows that can share a call: of one timestep, with conditions of one layout.

        Pictures go alone: some families take several of them as the condition of one sample.
        """
        alone = self.settings.alone or self.condition.takes_image or not can_be_joined(cond[0])
        found: dict[Hashable, list[int]] = {}
        for row, (level, condition) in enumerate(zip(t.tolist(), cond)):
            found.setdefault(row if alone else (level, condition.layout), []).append(row)
        yield from found.values()

    def denoise_group(self, x: Tensor, t: Tensor, cond: Sequence[Condition]) -> Tensor:
        self.choose_grid(float(t))
        prepared = self.prepared(cond)
        wanted = join(prepared.step, self.pipe).dtype  # some families refuse float32 beside bf16
        self._denoisers.start()
        output = self.chain.denoise(x.to(wanted), t, prepared)
        return self._denoisers.with_idle_weights(output, self.trainable)

    def choose_grid(self, t: float) -> None:
        """Use the grid that t is on: samplers for training and for evaluation may differ in steps.

        Where t is on several, or on none, the grid that is in use stays.
        """
        own = {self._steps: self._grids[self._steps]} if self._steps in self._grids else {}
        for steps, grid in (own | self._grids).items():
            if min(abs(level - t) for level in grid) <= 1e-4 * max(abs(t), 1.0):
                self._steps = steps
                return

    def prepared(self, cond: Sequence[Condition]) -> Prepared:
        """The batch where the loop begins, from the last few that were asked for."""
        scale = self._guidance.scale if self._guidance.exists else None
        key = (self._steps, scale, *(condition.key for condition in cond))
        if key not in self._prepared:
            values = joined(cond, self.device) | {"num_inference_steps": self._steps}
            self._prepared[key] = self.chain.prepare(values)
            # Setting a loop up may switch its guiders on again.
            self._guidance.apply()
        self._prepared.move_to_end(key)
        while len(self._prepared) > PREPARED:
            self._prepared.popitem(last=False)
        return self._prepared[key]

    # -- guidance, schedule and pixels ---------------------------------------------------------

    @property
    def guidance(self) -> float:
        """The scale; absent where the pipeline has no guidance."""
        if not self._guidance.exists:
            raise AttributeError(f"{type(self.pipe).__name__} has no guidance")
        return self._guidance.scale

    @guidance.setter
    def guidance(self, scale: float) -> None:
        self._guidance.set(scale)

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
        prepared = self.prepared([self.condition.example()])
        if prepared.sigmas is None:
            name = type(self.pipe).__name__
            raise ComponentError(f"{name} has no noise levels beside its timesteps")
        if len(prepared.timesteps) != steps:
            raise ComponentError(
                f"{type(self.pipe).__name__} takes {len(prepared.timesteps)} steps where the "
                f"sampler asks for {steps}: give the sampler that number"
            )
        self._grids[steps] = prepared.timesteps.float().tolist()
        return prepared.timesteps.cpu(), prepared.sigmas.cpu()

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels in [0, 1]: `(b, 3, h, w)`, or `(b, frames, 3, h, w)`; sample by sample."""
        prepared = self.prepared([self.condition.example()])
        return torch.cat([self.chain.decode(x, prepared) for x in x0.split(1)])

    def clean(self, batch: Batch) -> Tensor:
        """The latents of given samples, as the loop has them, float32.

        Of `batch["image"]` `(b, 3, h, w)` or `(b, frames, 3, h, w)` in [0, 1]; of `batch["edited"]`
        where a picture is the condition. Raises ComponentError where that column is missing.
        """
        column = "edited" if self.condition.takes_image else "image"
        if column not in batch:
            raise ComponentError(
                f"{type(self.pipe).__name__} reads given samples from a column `{column}`, and the "
                f"data set gives: {', '.join(batch.columns)}"
            )
        if self._latent_map is None:
            example = self.condition.example()
            self._latent_map = find_map(self.chain, self.prepared([example]))
        pixels = batch[column].to(self.device)
        return self._latent_map.back(encoded(self.pipe.vae, pixels, self._latent_map.z_shape))
