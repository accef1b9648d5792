"""Published weights of other projects in the layout that the rewards load. Safetensors in,
safetensors out.

Names of tensors follow open_clip (for HPSv2) and BLIP's own code (for ImageReward). Matrices are
split and transposed; nothing else is computed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rewardft.errors import ComponentError
from rewardft.files.atomic import make_folder

from .image_reward import build_blip
from .weights import fetched, locate_file, read_tensors

Tensors = dict[str, Tensor]
Rule = tuple[str, str]

CLIP_BLOCK: tuple[Rule, ...] = (
    (r"ln_1", "layer_norm1"),
    (r"ln_2", "layer_norm2"),
    (r"mlp\.c_fc", "mlp.fc1"),
    (r"mlp\.c_proj", "mlp.fc2"),
    (r"attn\.out_proj", "self_attn.out_proj"),
)
CLIP: tuple[Rule, ...] = (
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    # Spelt so in transformers.
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"^text_projection$", "text_projection.weight"),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
)
BLIP: tuple[Rule, ...] = (
    (r"^blip\.text_encoder\.", "text_encoder."),
    (r"^blip\.visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision_model.post_layernorm."),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.norm(\d)\.",
        r"vision_model.encoder.layers.\1.layer_norm\2.",
    ),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.qkv\.",
        r"vision_model.encoder.layers.\1.self_attn.qkv.",
    ),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision_model.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)
# Buffers that modules make for themselves, and BLIP's heads for contrastive training.
UNUSED = re.compile(r"(position_ids|attn_mask)$|^blip\.(vision|text)_proj\.")


def rename(name: str, rules: Iterable[Rule]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def clip_tensors(source: Tensors) -> Tensors:
    """open_clip's ViT in the names of transformers' CLIPModel: one matrix for query, key and value
    becomes three."""
    tensors: Tensors = {}
    for name, value in source.items():
        # First the place of a block, then the names inside it.
        new = rename(name, (*CLIP, *CLIP_BLOCK)) if name != "logit_scale" else name
        if UNUSED.search(name):
            continue
        if name in ("visual.proj", "text_projection"):
            # Bare matrices that open_clip multiplies from the right; a Linear holds the transpose.
            tensors[new] = value.T.contiguous()
        elif ".attn.in_proj_" in name:
            # Cloned, as safetensors refuses tensors that share memory.
            for part, piece in zip("qkv", value.chunk(3)):
                tensors[new.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = piece.clone()
        else:
            tensors[new] = value
    return tensors


def blip_tensors(source: Tensors) -> Tensors:
    """ImageReward's BLIP and head in the names of transformers' Blip classes."""
    return {rename(name, BLIP): value for name, value in source.items() if not UNUSED.search(name)}


def convert_hps(source: Path, out: Path, base: str) -> None:
    """HPSv2's open_clip weights -> a folder that `hps_v2` loads; everything but the weights is
    `base`'s."""
    from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

    tensors = clip_tensors(
        read_tensors(locate_file(str(source), "", None, "convert-hps"), "convert-hps")
    )
    # The published file has weights alone.
    config, tokenizer = load_beside(base, CLIPConfig.from_pretrained, AutoTokenizer.from_pretrained)
    processor, _ = fetched(
        lambda: CLIPImageProcessor.get_image_processor_dict(base),
        "the image processor of",
        base,
        None,
    )
    model = CLIPModel(config)
    fill(model, tensors, str(source))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    CLIPImageProcessor(**processor).save_pretrained(out)


def convert_image_reward(
    source: Path, out: Path, tokenizer: str, heads: tuple[int, int] = (16, 12)
) -> None:
    """ImageReward's weights -> a folder that `image_reward` loads. heads: of the image and of the
    text encoder, which no tensor's shape shows; the default is that of ViT-L and BERT base."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    name = "convert-image-reward"
    tensors = blip_tensors(read_tensors(locate_file(str(source), "", None, name), name))
    config = blip_config(tensors, heads, str(source))
    holder = nn.Module()
    holder.vision_model, holder.text_encoder = build_blip(config)
    # Filled only to see that everything fits, before anything is written.
    fill(holder, {k: v for k, v in tensors.items() if not k.startswith("mlp.")}, str(source))
    (words,) = load_beside(tokenizer, AutoTokenizer.from_pretrained)
    make_folder(out)
    config.save_pretrained(out)
    words.save_pretrained(out)
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, out / "model.safetensors"
    )


def blip_config(tensors: Tensors, heads: tuple[int, int], source: str) -> Any:
    """BLIP's sizes, read off its tensors; normalisation constants as in BLIP's own code."""
    from transformers import BlipConfig

    try:
        patch = tensors["vision_model.embeddings.patch_embedding.weight"]
        # Positions of patches; the class token has one of its own.
        places = tensors["vision_model.embeddings.position_embedding"].shape[1] - 1
        # The published code enlarged BERT's vocabulary, so sizes come from the tensors.
        words = tensors["text_encoder.embeddings.word_embeddings.weight"]
        positions = tensors["text_encoder.embeddings.position_embeddings.weight"]
        inner = [
            tensors[f"{p}.weight"]
            for p in (
                "vision_model.encoder.layers.0.mlp.fc1",
                "text_encoder.encoder.layer.0.intermediate.dense",
            )
        ]
    except KeyError as error:
        raise ComponentError(
            f"{source} holds no ImageReward: it lacks what becomes {error}"
        ) from None
    vision = {
        "hidden_size": patch.shape[0],
        "patch_size": patch.shape[-1],
        "image_size": round(places**0.5) * patch.shape[-1],
        "intermediate_size": inner[0].shape[0],
        "num_attention_heads": heads[0],
        "layer_norm_eps": 1e-6,
        "num_hidden_layers": count_layers(tensors, r"vision_model\.encoder\.layers\.(\d+)\."),
    }
    text = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "max_position_embeddings": positions.shape[0],
        "encoder_hidden_size": patch.shape[0],
        "intermediate_size": inner[1].shape[0],
        "num_attention_heads": heads[1],
        "num_hidden_layers": count_layers(tensors, r"text_encoder\.encoder\.layer\.(\d+)\."),
        # What gives the layers their cross-attention. Words still see each other both ways.
        "is_decoder": True,
        "bos_token_id": None,
        "sep_token_id": None,
        "eos_token_id": None,
    }
    return BlipConfig(text_config=text, vision_config=vision)


def count_layers(tensors: Tensors, pattern: str) -> int:
    return 1 + max(int(found.group(1)) for name in tensors if (found := re.match(pattern, name)))


def load_beside(source: str, *loaders: Callable[[str], Any]) -> list[Any]:
    return [
        fetched(functools.partial(loader, source), "the files of", source, None)
        for loader in loaders
    ]


def fill(module: nn.Module, tensors: Tensors, source: str) -> None:
    """Load strictly, except for buffers that a module makes for itself. Raises ComponentError
    naming what does not fit."""
    wanted = module.state_dict()
    wrong = [name for name in wanted if name not in tensors and not UNUSED.search(name)]
    wrong += [
        name
        for name, value in tensors.items()
        if name not in wanted or wanted[name].shape != value.shape
    ]
    if wrong:
        raise ComponentError(
            f"{source} does not fit: {len(wrong)} tensors are missing, surplus or of another "
            f"shape, such as {', '.join(sorted(wrong)[:3])}"
        )
    # Checked above; strict would ask for the buffers too.
    module.load_state_dict(tensors, strict=False)
