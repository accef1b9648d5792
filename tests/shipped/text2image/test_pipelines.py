"""A rollout equals the family's own diffusers pipeline on the same noise and prompts."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FluxPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from rewardft_plugins.text2image.flux import Flux
from rewardft_plugins.text2image.sd3 import StableDiffusion3
from rewardft_plugins.text2image.sdxl import StableDiffusionXL
from rewardft_plugins.text2image.stable_diffusion import StableDiffusion

from rewardft.noise import Noise
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from rewardft.types import Batch, Plan
from tests.shipped.text2image import checkpoints

PROMPTS = ["a red dog", "two small cats"]
STEPS = 5
NOISE = Noise(0, ["a", "b"], [0, 0])


def sample(model, sampler):
    sampler.setup(model)
    batch = Batch(("a", "b"), (0, 0), {"prompt": PROMPTS})
    with torch.no_grad():
        return sampler.rollout(model, model.encode(batch), Plan(stop=STEPS), NOISE).x0


def start(model):
    return NOISE.draw("initial", model.sample_shape(None))


def latents(pipeline, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(PROMPTS, num_inference_steps=STEPS, output_type="latent", **options).images


def worst(ours, theirs):
    """The largest difference, relative to the size of the samples."""
    return float((ours - theirs).abs().max() / theirs.std())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance, negative", [(1.0, None), (6.0, None), (6.0, "a blue dog")])
def test_stable_diffusion(prediction, guidance, negative, tmp_path):
    folder = checkpoints.stable_diffusion(tmp_path, prediction)
    model = StableDiffusion(weights=str(folder), guidance=guidance, negative_prompt=negative)
    assert model.sample_shape(None) == (4, 8, 8)
    pipeline = StableDiffusionPipeline(
        scheduler=DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
        **parts(folder, StableDiffusionPipeline),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
    )
    pipeline.scheduler.register_to_config(clip_sample=False)  # latent models do not clip
    theirs = latents(
        pipeline,
        guidance_scale=guidance,
        latents=start(model),
        negative_prompt=negative and [negative] * 2,
    )
    assert worst(sample(model, DDIM(STEPS)), theirs) < 1e-4


@pytest.mark.parametrize(
    "guidance, negative, size",
    [(1.0, None, (16, 16)), (6.0, None, (8, 24)), (6.0, "a blue dog", (16, 16))],
)
def test_sdxl(folders, guidance, negative, size):
    folder, (height, width) = folders["sdxl"], size
    model = StableDiffusionXL(
        weights=str(folder), guidance=guidance, negative_prompt=negative, height=height, width=width
    )
    scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.register_to_config(clip_sample=False)
    pipeline = StableDiffusionXLPipeline(
        **parts(folder, StableDiffusionXLPipeline) | {"scheduler": scheduler}, add_watermarker=False
    )
    theirs = latents(
        pipeline,
        guidance_scale=guidance,
        latents=start(model),
        height=height,
        width=width,
        negative_prompt=negative and [negative] * 2,
    )
    assert worst(sample(model, DDIM(STEPS)), theirs) < 1e-4


@pytest.mark.parametrize(
    "guidance, t5, schedule",
    [
        (1.0, True, {"shift": 3.0}),
        (4.0, False, {"shift": 3.0}),
        (4.0, True, {"use_dynamic_shifting": True, "base_shift": 0.7}),
    ],
)
def test_sd3(tmp_path, guidance, t5, schedule):
    folder = checkpoints.sd3(tmp_path, **schedule)
    model = StableDiffusion3(weights=str(folder), guidance=guidance, t5=t5, height=16, width=12)
    given = parts(folder, StableDiffusion3Pipeline)
    given |= {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    theirs = latents(
        StableDiffusion3Pipeline(**given),
        guidance_scale=guidance,
        latents=start(model),
        height=16,
        width=12,
    )
    assert worst(sample(model, FlowEuler(STEPS)), theirs) < 1e-4
    assert worst(sample(model, DDIM(STEPS)), theirs) < 1e-4


@pytest.mark.parametrize(
    "guidance, distilled, size",
    [(1.0, True, (16, 16)), (3.5, True, (8, 24)), (1.0, False, (16, 16))],
)
def test_flux(tmp_path, guidance, distilled, size):
    folder, (height, width) = checkpoints.flux(tmp_path, distilled), size
    model = Flux(
        weights=str(folder),
        guidance=guidance if distilled else 1.0,
        height=height,
        width=width,
        t5_length=20,
    )
    x = start(model)
    b, c, h, w = x.shape
    packed = FluxPipeline._pack_latents(x, b, c, h, w)
    pipeline = FluxPipeline(**parts(folder, FluxPipeline))
    theirs = latents(
        pipeline,
        guidance_scale=guidance,
        latents=packed,
        height=height,
        width=width,
        max_sequence_length=20,
    )
    theirs = FluxPipeline._unpack_latents(theirs, height, width, pipeline.vae_scale_factor)
    assert worst(sample(model, FlowEuler(STEPS)), theirs) < 1e-4


def parts(folder, pipeline):
    """The parts of a checkpoint as `from_pretrained` of their own classes gives them."""
    import diffusers
    import transformers

    names = {
        "StableDiffusionPipeline": {
            "unet": "UNet2DConditionModel",
            "text_encoder": "CLIPTextModel",
        },
        "StableDiffusionXLPipeline": {
            "unet": "UNet2DConditionModel",
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "tokenizer_2": "CLIPTokenizer",
        },
        "StableDiffusion3Pipeline": {
            "transformer": "SD3Transformer2DModel",
            "text_encoder": "CLIPTextModelWithProjection",
            "text_encoder_2": "CLIPTextModelWithProjection",
            "tokenizer_2": "CLIPTokenizer",
            "text_encoder_3": "T5EncoderModel",
            "tokenizer_3": "T5TokenizerFast",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
        },
        "FluxPipeline": {
            "transformer": "FluxTransformer2DModel",
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "T5EncoderModel",
            "tokenizer_2": "T5TokenizerFast",
            "scheduler": "FlowMatchEulerDiscreteScheduler",
        },
    }[pipeline.__name__]
    names = {"vae": "AutoencoderKL", "tokenizer": "CLIPTokenizer"} | names
    found = {}
    for part, name in names.items():
        library = transformers if part.startswith(("text", "token")) else diffusers
        found[part] = getattr(library, name).from_pretrained(folder, subfolder=part)
    return found


def test_the_time_grid_of_flux_depends_on_the_size_unless_the_recipe_says_a_shift(folders):
    """mu = base + slope * (tokens - 256), then s -> e^mu s / (1 + (e^mu - 1) s) on 1, 4/5, ..., 1/5."""
    for side in (16, 64):
        model = Flux(weights=str(folders["flux"]), height=side, width=side, t5_length=6)
        tokens = (side // 4) ** 2
        sampler, fixed = FlowEuler(STEPS), FlowEuler(STEPS, shift=2.0)
        sampler.setup(model)
        fixed.setup(model)
        mu = 0.5 + (1.15 - 0.5) / (4096 - 256) * (tokens - 256)
        for grid, shift in ((sampler, math.exp(mu)), (fixed, 2.0)):
            plain = [1 - k / STEPS for k in range(STEPS)]
            expected = [shift * s / (1 + (shift - 1) * s) for s in plain] + [0.0]
            assert grid.sigmas == pytest.approx(expected, abs=1e-6)
            assert grid.timesteps == pytest.approx([1000 * s for s in expected[:-1]], abs=1e-3)
