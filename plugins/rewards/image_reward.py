"""`image_reward`: ImageReward (Xu et al. 2023, 2304.05977): BLIP reads prompt and image together, a
head scores them.

The prompt's tokens attend to the image's patches in every layer of the text encoder; the first
token goes through linear layers, and the result is brought to mean 0 and standard deviation 1 with
the constants of the released model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.paths import Place
from rewardft.types import Batch, Rollout

from .images import pixels_of, prompts_of
from .preprocess import Preprocess
from .text_image import TAGS
from .weights import fetched, linear_stack, locate_file, read_tensors

# Of the released model's scores, as its code has them.
MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35  # prompts are filled up or cut off to this length


class ImageReward(nn.Module):
    """ImageReward `(b,)`, about standard normal on the prompts that it was trained on; higher is
    better.

    Args:
        weights: folder made by `rewardft rewards convert-image-reward` (docs/rewards.md):
            configuration, safetensors, tokenizer.
        column: the batch's column of prompts.
        quantise: round pixels to 8 bits, as the released code does by reading files.
    """

    provides = TAGS
    space, range = "pixels", (-float("inf"), float("inf"))

    def __init__(
        self, weights: Annotated[str, Place()], column: str = "prompt", quantise: bool = False
    ) -> None:
        super().__init__()
        from transformers import AutoTokenizer, BlipConfig

        folder = Path(weights).expanduser()
        if not folder.is_dir():
            raise ComponentError(
                "image_reward: expected a folder made by `rewardft rewards convert-image-reward`, "
                f"got {weights!r}, which is not a folder"
            )

        def load(what: str, loader: Any) -> Any:
            return fetched(lambda: loader(folder), f"image_reward: the {what} of", weights, None)

        config = load("configuration", BlipConfig.from_pretrained)
        self.tokenizer = load("tokenizer", AutoTokenizer.from_pretrained)
        self.column = column
        # BLIP was trained with torchvision's crop, which rounds half a pixel to even.
        self.preprocess = Preprocess(
            config.vision_config.image_size, quantise=quantise, middle="even"
        )
        # One file for encoders and head; each takes its own part.
        tensors = read_tensors(
            locate_file(weights, "model.safetensors", None, "image_reward"), "image_reward"
        )
        self.vision, self.text = build_blip(config)
        for prefix, module in (("vision_model.", self.vision), ("text_encoder.", self.text)):
            load_part(module, tensors, prefix, weights)
        self.head = linear_stack(part_of(tensors, "mlp."), f"image_reward: {weights}")
        self.eval().requires_grad_(False)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        pixels = pixels_of(rollout, "image_reward")
        prompts = prompts_of(batch, self.column, "image_reward")
        options = {
            "padding": "max_length",
            "truncation": True,
            "max_length": TOKENS,
            "return_tensors": "pt",
        }
        # (b, 35).
        tokens = self.tokenizer(prompts, **options).to(pixels.device)
        with torch.autocast(pixels.device.type, enabled=False):
            patches = self.vision(pixel_values=self.preprocess(pixels)).last_hidden_state
            read = self.text(
                tokens.input_ids,
                attention_mask=tokens.attention_mask,
                encoder_hidden_states=patches,
            )
            # The first token's state, as in BERT.
            score: Tensor = self.head(read.last_hidden_state[:, 0])
        return (score.squeeze(1) - MEAN) / STD


def build_blip(config: Any) -> tuple[nn.Module, nn.Module]:
    """BLIP's image encoder, and its text encoder with cross-attention, with fresh weights."""
    from transformers import BlipTextModel, BlipVisionModel

    return BlipVisionModel(config.vision_config), BlipTextModel(
        config.text_config, add_pooling_layer=False
    )


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def load_part(module: nn.Module, tensors: dict[str, Tensor], prefix: str, source: str) -> None:
    """Load strictly. Raises ComponentError with the first tensors that are missing, surplus or
    misshapen."""
    given, wanted = part_of(tensors, prefix), module.state_dict()
    # A tensor that is missing on either side has the "shape" 0 or 1, which equals no other.
    wrong = [
        n
        for n in given.keys() | wanted.keys()
        if getattr(given.get(n), "shape", 0) != getattr(wanted.get(n), "shape", 1)
    ]
    if wrong:
        shown = ", ".join(f"{prefix}{name}" for name in sorted(wrong)[:3])
        raise ComponentError(
            f"image_reward: {source} does not fit its configuration: {len(wrong)} tensors, such as "
            f"{shown}"
        )
    module.load_state_dict(given)
