"""The parts of each family's pipeline, by their names in a published checkpoint."""

from __future__ import annotations

from typing import Any

import diffusers as D
import transformers as T

from . import networks, texts
from .texts import WIDTH

Published = tuple[str, dict[str, Any], dict[str, Any]]  # pipeline, facts of the index, parts
Flow = D.FlowMatchEulerDiscreteScheduler


def stable_diffusion() -> Published:
    absent = {"safety_checker": [None, None], "feature_extractor": [None, None]}
    parts = {
        "unet": networks.sd_unet(),
        "vae": networks.image_vae(scaling_factor=0.18215),
        "text_encoder": texts.clip(),
        "tokenizer": texts.clip_tokenizer(),
        "scheduler": networks.ddim(),
    }
    return "StableDiffusionPipeline", {**absent, "requires_safety_checker": False}, parts


def sdxl() -> Published:
    encoders = {
        "text_encoder": texts.clip(),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.clip(T.CLIPTextModelWithProjection),
        "tokenizer_2": texts.clip_tokenizer(),
    }
    parts = {
        "unet": networks.sdxl_unet(),
        "vae": networks.image_vae(scaling_factor=0.13),
        "scheduler": networks.ddim(),
    }
    facts = {"force_zeros_for_empty_prompt": True}
    return "StableDiffusionXLPipeline", facts, parts | encoders


def sd3() -> Published:
    encoders = {
        "text_encoder": texts.clip(T.CLIPTextModelWithProjection),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.clip(T.CLIPTextModelWithProjection),
        "tokenizer_2": texts.clip_tokenizer(),
        "text_encoder_3": texts.t5(),
        "tokenizer_3": texts.t5_tokenizer(),
    }
    parts = {
        "transformer": networks.sd3_transformer(),
        "vae": networks.image_vae(scaling_factor=1.5, shift_factor=0.06),
        "scheduler": Flow(shift=3.0),
    }
    return "StableDiffusion3Pipeline", {}, parts | encoders


def flux() -> Published:
    encoders = {
        "text_encoder": texts.clip(width=32),
        "tokenizer": texts.clip_tokenizer(),
        "text_encoder_2": texts.t5(),
        "tokenizer_2": texts.t5_tokenizer(),
    }
    parts = {
        "transformer": networks.flux_transformer(),
        "vae": networks.image_vae(scaling_factor=0.36, shift_factor=0.11),
        "scheduler": Flow(shift=3.0, use_dynamic_shifting=True),
    }
    return "FluxPipeline", {}, parts | encoders


def flux2_klein() -> Published:
    parts = {
        "transformer": networks.flux2_transformer(embedded=False, text_width=3 * WIDTH),
        "vae": networks.flux2_vae(),
        "text_encoder": texts.qwen3(T.Qwen3ForCausalLM, 28),
        "tokenizer": texts.qwen_tokenizer(),
        "scheduler": Flow(shift=3.0, use_dynamic_shifting=True),
    }
    return "Flux2KleinPipeline", {"is_distilled": True}, parts


def qwen_image() -> Published:
    parts = {
        "transformer": networks.qwen_transformer(),
        "vae": networks.qwen_vae(),
        "text_encoder": texts.qwen25_vl(),
        "tokenizer": texts.qwen_tokenizer(),
        "scheduler": Flow(shift=3.0, use_dynamic_shifting=True),
    }
    return "QwenImagePipeline", {}, parts


def z_image() -> Published:
    parts = {
        "transformer": networks.z_image_transformer(),
        "vae": networks.image_vae(scaling_factor=0.36, shift_factor=0.11),
        "text_encoder": texts.qwen3(T.Qwen3Model, 3),
        "tokenizer": texts.qwen_tokenizer(),
        "scheduler": Flow(shift=3.0),
    }
    return "ZImagePipeline", {}, parts


def wan() -> Published:
    parts = {
        "transformer": networks.wan_transformer(WIDTH),
        "vae": networks.wan_vae(),
        "text_encoder": texts.umt5(),
        "tokenizer": texts.t5_tokenizer(),
        "scheduler": networks.unipc(),
    }
    return "WanPipeline", {}, parts


def wan22() -> Published:
    name, _, parts = wan()
    more = {"transformer_2": networks.wan_transformer(WIDTH)}
    return name, {"boundary_ratio": 0.875}, parts | more
