"""CLIP as reward models use it: unit embeddings of images, with a gradient, and of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rewardft.files.paths import Weights
from rewardft.files.shapes import is_shapes_only

from .preprocess import Preprocess, read_preprocess
from .weights import fetched

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ClipSource:
    """Where a CLIP comes from and how it is run.

    weights:   folder or hub id of a transformers CLIPModel with safetensors weights.
    revision:  branch, tag or commit of a hub id; name a commit for a run that can be repeated.
    processor: folder or hub id of the tokenizer and image processor, where they are not beside the
        weights.
    fit, quantise: see `Preprocess`.
    precision: of the network's weights.
    """

    weights: Weights
    revision: str | None = None
    processor: Weights | None = None
    fit: Literal["crop", "pad"] = "crop"
    quantise: bool = False
    precision: Precision = "float32"


class Clip(nn.Module):
    """A frozen CLIPModel with its tokenizer and the gradient-carrying version of its image
    processor."""

    def __init__(self, source: ClipSource, reward: str, texts: bool = True) -> None:
        super().__init__()
        from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

        beside = source.processor or source.weights
        # A commit belongs to one repository; the processor's has others.
        pinned = source.revision if beside == source.weights else None

        def load(what: str, loader: Any, place: str, revision: str | None, **options: Any) -> Any:
            options |= {} if revision is None else {"revision": revision}
            return fetched(
                lambda: loader(place, **options), f"{reward}: the {what} of", place, revision
            )

        if is_shapes_only():
            config = load(
                "CLIP settings", CLIPConfig.from_pretrained, source.weights, source.revision
            )
            with torch.device("meta"):
                model: Any = CLIPModel(config)
        else:
            model = load(
                "CLIP weights",
                CLIPModel.from_pretrained,
                source.weights,
                source.revision,
                use_safetensors=True,
            )
        # Only its settings: the processor itself works on 8-bit pictures, without a gradient.
        settings, _ = load(
            "image processor", CLIPImageProcessor.get_image_processor_dict, beside, pinned
        )
        self.tokenizer = (
            load("tokenizer", AutoTokenizer.from_pretrained, beside, pinned) if texts else None
        )
        self.preprocess: Preprocess = read_preprocess(settings, beside, source.fit, source.quantise)
        self.model = model.to(getattr(torch, source.precision)).eval().requires_grad_(False)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.logit_scale.dtype

    def images(self, pixels: Tensor) -> Tensor:
        """Unit embeddings `(b, d)`, float32, of images `(b, 3, h, w)` in [0, 1]."""
        # The reward's precision is an option of its own; autocast of the training must not change
        # what a sample is worth.
        with torch.autocast(pixels.device.type, enabled=False):
            prepared = self.preprocess(pixels.float()).to(self.dtype)
            # (b, width), then projected to (b, d).
            pooled = self.model.vision_model(pixel_values=prepared).pooler_output
            return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    @torch.no_grad()
    def texts(self, prompts: list[str]) -> Tensor:
        """Unit embeddings `(b, d)`, float32; long prompts are cut off where CLIP's context ends."""
        assert self.tokenizer is not None
        length, device = (
            self.model.config.text_config.max_position_embeddings,
            self.model.logit_scale.device,
        )
        options = {
            "padding": True,
            "truncation": True,
            "max_length": length,
            "return_tensors": "pt",
        }
        tokens = self.tokenizer(prompts, **options).to(device)
        # As for images.
        with torch.autocast(device.type, enabled=False):
            pooled = self.model.text_model(
                tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return F.normalize(self.model.text_projection(pooled).float(), dim=-1)
