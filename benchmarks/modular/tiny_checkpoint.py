"""A folder as it is published, of tiny random weights: what a recipe can be tried on without a GPU.

Real classes throughout, text encoder and tokenizer included. Samples are noise.

    python benchmarks/modular/tiny_checkpoint.py wan tiny/wan

`stable_diffusion`, `sdxl`, `sd3` and `flux` are for the plugin text2image, the others for modular.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import diffusers as D
import torch
import transformers as T
from modular_tiny.images import (
    flux,
    flux2_transformer,
    flux2_vae,
    image_vae,
    qwen_transformer,
    qwen_vae,
    stable_diffusion_3,
    stable_diffusion_xl,
    z_image_transformer,
)
from modular_tiny.videos import unipc, wan_transformer, wan_vae
from transformers.convert_slow_tokenizer import bytes_to_unicode

WIDTH = 16  # of text features
Published = tuple[str, dict[str, Any], dict[str, Any]]  # pipeline, facts of the index, parts
MARKS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def qwen_tokenizer() -> Any:
    """Bytes alone: a word is as many tokens as it has letters."""
    names = [*bytes_to_unicode().values(), *MARKS]
    tokenizer = T.Qwen2Tokenizer(
        vocab={name: i for i, name in enumerate(names)},
        merges=[],
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS[1:]})
    tokenizer.chat_template = CHAT
    return tokenizer


def t5_tokenizer() -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T.T5TokenizerFast(
        vocab=[(n, -float(i)) for i, n in enumerate(names)], extra_ids=0, model_max_length=512
    )


def qwen3(kind: Any, layers: int) -> Any:
    config = T.Qwen3Config(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return kind(config)


def qwen25_vl() -> Any:
    text = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 10000.0,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1],
        "window_size": 28,
        "patch_size": 14,
    }
    ids = {
        "image_token_id": 261,
        "vision_start_token_id": 259,
        "vision_end_token_id": 260,
        "video_token_id": 299,
    }
    return T.Qwen2_5_VLForConditionalGeneration(
        T.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    )


def flux2_klein() -> Published:
    return (
        "Flux2KleinPipeline",
        {"is_distilled": True},
        {
            "transformer": flux2_transformer(embedded=False, text_width=3 * WIDTH),
            "vae": flux2_vae(),
            "text_encoder": qwen3(T.Qwen3ForCausalLM, 28),
            "tokenizer": qwen_tokenizer(),
            "scheduler": D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        },
    )


def qwen_image() -> Published:
    return (
        "QwenImagePipeline",
        {},
        {
            "transformer": qwen_transformer(),
            "vae": qwen_vae(),
            "text_encoder": qwen25_vl(),
            "tokenizer": qwen_tokenizer(),
            "scheduler": D.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        },
    )


def z_image() -> Published:
    return (
        "ZImagePipeline",
        {},
        {
            "transformer": z_image_transformer(),
            "vae": image_vae(scaling_factor=0.36, shift_factor=0.11),
            "text_encoder": qwen3(T.Qwen3Model, 3),
            "tokenizer": qwen_tokenizer(),
            "scheduler": D.FlowMatchEulerDiscreteScheduler(shift=3.0),
        },
    )


def wan() -> Published:
    config = T.UMT5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    parts = {
        "transformer": wan_transformer(WIDTH),
        "vae": wan_vae(),
        "text_encoder": T.UMT5EncoderModel(config),
        "tokenizer": t5_tokenizer(),
        "scheduler": unipc(),
    }
    return "WanPipeline", {}, parts


def wan22() -> Published:
    name, _, parts = wan()
    return name, {"boundary_ratio": 0.875}, parts | {"transformer_2": wan_transformer(WIDTH)}


def clip_tokenizer() -> Any:
    """Bytes alone, once within a word and once at its end."""
    names = list(bytes_to_unicode().values())
    names += [f"{name}</w>" for name in names]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    return T.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def clip(kind: Any = T.CLIPTextModel, width: int = WIDTH) -> Any:
    size = len(clip_tokenizer())
    config = T.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return kind(config)


def t5() -> Any:
    config = T.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T.T5EncoderModel(config)


def stable_diffusion() -> Published:
    unet = D.UNet2DConditionModel(
        sample_size=16,  # of the latents: 32 pixels
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    )
    scheduler = D.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    return (
        "StableDiffusionPipeline",
        {**absent, "requires_safety_checker": False},
        {
            "unet": unet,
            "vae": image_vae(scaling_factor=0.18215),
            "text_encoder": clip(),
            "tokenizer": clip_tokenizer(),
            "scheduler": scheduler,
        },
    )


def sdxl() -> Published:
    texts = {
        "text_encoder": clip(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip(T.CLIPTextModelWithProjection),
        "tokenizer_2": clip_tokenizer(),
    }
    facts = {"force_zeros_for_empty_prompt": True}
    return "StableDiffusionXLPipeline", facts, stable_diffusion_xl().parts | texts


def sd3() -> Published:
    texts = {
        "text_encoder": clip(T.CLIPTextModelWithProjection),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip(T.CLIPTextModelWithProjection),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5(),
        "tokenizer_3": t5_tokenizer(),
    }
    return "StableDiffusion3Pipeline", {}, stable_diffusion_3().parts | texts


def flux1() -> Published:
    texts = {
        "text_encoder": clip(width=32),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(),
    }
    return "FluxPipeline", {}, flux().parts | texts


FAMILIES = {
    "flux2_klein": flux2_klein,
    "qwen_image": qwen_image,
    "z_image": z_image,
    "wan": wan,
    "wan22": wan22,
}
# Of the plugin text2image.
OTHERS = {"stable_diffusion": stable_diffusion, "sdxl": sdxl, "sd3": sd3, "flux": flux1}


def save(family: str, folder: Path) -> Path:
    """Write a family to a folder, in diffusers' layout."""
    torch.manual_seed(0)
    name, facts, parts = (FAMILIES | OTHERS)[family]()
    index = {"_class_name": name, "_diffusers_version": D.__version__, **facts}
    for part, made in parts.items():
        for weight in made.parameters() if isinstance(made, torch.nn.Module) else ():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.02)
        made.save_pretrained(folder / part)
        library = type(made).__module__.split(".")[0]
        index[part] = [library, type(made).__name__]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("family", choices=[*FAMILIES, *OTHERS])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(save(arguments.family, arguments.folder))


if __name__ == "__main__":
    main()
