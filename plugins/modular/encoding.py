"""From prompts and pictures to conditions, and where the encoders' networks wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from rewardft_plugins.modular.blocks import BlockChain
from rewardft_plugins.modular.conditions import Condition, ConditionCache, converted, key_of
from rewardft_plugins.modular.guidance import Guidance
from rewardft_plugins.modular.loading import triggers
from rewardft_plugins.modular.settings import Settings
from torch import Tensor

Embed = Callable[[str, Tensor | None], Mapping[str, Any]]


class ConditionEncoder:
    """Conditions of prompts `str` and pictures `(3, h, w)` in [0, 1].

    Args:
        chain, guidance, settings: of the model.
        dtype: of the denoiser, which conditions are given in, whatever that of the encoders.
        embed: in place of the encoder blocks.
    """

    def __init__(
        self,
        chain: BlockChain,
        guidance: Guidance,
        settings: Settings,
        dtype: torch.dtype,
        embed: Embed | None,
    ) -> None:
        self._chain, self._guidance, self._settings = chain, guidance, settings
        self._dtype = dtype
        self._embed = embed or self.run_blocks
        self._networks = chain.encoder_networks
        self._cache = ConditionCache(settings.cache_mb * 2**20)
        self._device = torch.device("cpu")

    @property
    def takes_image(self) -> bool:
        """Whether the workflow is conditioned on a picture."""
        # Either a block insists on a picture, or the workflow is chosen by one.
        required = [p.name for p in self._chain.blocks.inputs if p.required]
        chosen_by = triggers(self._chain.pipe, self._settings.workflow)
        return "image" in required or "image" in chosen_by

    def __call__(self, prompt: str, image: Tensor | None = None) -> Condition:
        """From the cache where it is held; each is encoded alone, so none depends on another."""
        return self._cache.get(key_of(prompt, image), lambda: self.encode(prompt, image))

    def encode(self, prompt: str, image: Tensor | None) -> dict[str, Any]:
        """The values of a condition, in the precision of the denoiser."""
        values = self._embed(prompt, image)
        return {name: converted(value, self._dtype) for name, value in values.items()}

    def example(self) -> Condition:
        """A condition for what depends on none: sizes, grids, the way back to pixels."""
        return self("", self.grey() if self.takes_image else None)

    def grey(self) -> Tensor:
        """A picture of the samples' size, no smaller than families take them."""
        height, width = self._settings.height or 512, self._settings.width or 512
        # Grey, as nothing of what is asked here depends on it.
        return torch.full((3, max(height, 64), max(width, 64)), 0.5)

    def run_blocks(self, prompt: str, image: Tensor | None) -> Mapping[str, Any]:
        """The encoder blocks on one prompt.

        What guidance leads away from is the pipeline's own where it makes one of nothing (SDXL:
        zeros); where it makes none, and would drop its guidance without a word, it is the empty
        prompt.
        """
        values: dict[str, Any] = {"prompt": prompt}
        if image is not None:
            values["image"] = to_picture(image)
        if self._settings.negative_prompt is not None:
            values["negative_prompt"] = self._settings.negative_prompt
        with self.networks_on_device(), self._guidance.on():
            found = self._chain.encode(values)
            lacking = [n for n, v in found.items() if n.startswith("negative_") and v is None]
            if lacking and self._guidance.guiders:
                # Without it guidance would be dropped in silence, and every figure with it.
                found = self._chain.encode({"negative_prompt": "", **values})
        return found

    # -- networks ------------------------------------------------------------------------------

    def to(self, device: torch.device) -> None:
        """Encode there. Networks that wait in host memory are taken out of the pipeline meanwhile,
        which would take their device for its own."""
        self._device = device
        if self._settings.offload_encoders:
            self.put_away()

    def put_away(self) -> None:
        for name, network in self._networks.items():
            network.to("cpu")
            # The pipeline takes the device of its first network for its own.
            setattr(self._chain.pipe, name, None)

    @contextmanager
    def networks_on_device(self) -> Iterator[None]:
        if not self._settings.offload_encoders:
            yield
            return
        for name, network in self._networks.items():
            setattr(self._chain.pipe, name, network.to(self._device))
        try:
            yield
        finally:
            self.put_away()


def to_picture(image: Tensor) -> Any:
    """`(3, h, w)` in [0, 1] -> a Pillow image."""
    from PIL import Image

    pixels = (image.detach().float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(pixels.cpu().numpy())
