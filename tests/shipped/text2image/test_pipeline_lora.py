"""A saved adapter loads in the family's diffusers pipeline by one line, and changes its samples as it does here."""

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
from safetensors.torch import load_file

from rewardft.policy.lora import Lora
from rewardft.recipe.sections import AdapterSpec
from rewardft.samplers.ddim import DDIM
from rewardft.samplers.flow import FlowEuler
from tests.shipped.text2image.test_pipelines import STEPS, latents, parts, sample, start, worst

FAMILIES = {
    "stable_diffusion": (StableDiffusion, StableDiffusionPipeline, {}),
    "sdxl": (StableDiffusionXL, StableDiffusionXLPipeline, {"add_watermarker": False}),
    "sd3": (StableDiffusion3, StableDiffusion3Pipeline, {}),
    "flux": (Flux, FluxPipeline, {}),
}
SD = {"safety_checker": None, "feature_extractor": None, "image_encoder": None}
EXTRA = {"flux": {"height": 16, "width": 16, "t5_length": 20}}


def trained(model, rank, alpha):
    adapter = Lora(model, AdapterSpec(rank=rank, alpha=alpha), 0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in adapter.parameters:
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return adapter


def make_pipeline(name, folder):
    kind, given = FAMILIES[name][1], parts(folder, FAMILIES[name][1])
    if name in ("stable_diffusion", "sdxl"):
        given["scheduler"] = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        given["scheduler"].register_to_config(clip_sample=False)
    given |= SD if name == "stable_diffusion" else FAMILIES[name][2]
    return kind(**given)


def their_sample(name, pipeline, model):
    x = start(model)
    if name != "flux":
        return latents(pipeline, guidance_scale=2.0, latents=x, height=16, width=16)
    packed = FluxPipeline._pack_latents(x, *x.shape)
    options = {"height": 16, "width": 16, "max_sequence_length": 20, "guidance_scale": 2.0}
    theirs = latents(pipeline, latents=packed, **options)
    return FluxPipeline._unpack_latents(theirs, 16, 16, pipeline.vae_scale_factor)


@pytest.mark.parametrize(("rank", "alpha"), [(4, None), (4, 6.0)])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipeline_loads_the_adapter_and_samples_the_same(folders, tmp_path, name, rank, alpha):
    """The alpha that differs from the rank shows a lost strength."""
    model = FAMILIES[name][0](weights=str(folders[name]), guidance=2.0, **EXTRA.get(name, {}))
    sampler = FlowEuler(STEPS) if name in ("sd3", "flux") else DDIM(STEPS)
    before = sample(model, sampler)
    trained(model, rank, alpha).save(tmp_path)
    after = sample(model, sampler)
    pipeline = make_pipeline(name, folders[name])
    assert worst(before, their_sample(name, pipeline, model)) < 1e-4
    pipeline.load_lora_weights(tmp_path)
    assert worst(after, their_sample(name, pipeline, model)) < 1e-4
    assert worst(before, after) > 1e-2


def test_every_tensor_is_under_the_name_of_the_pipelines_part(folders, tmp_path):
    model = StableDiffusion(weights=str(folders["stable_diffusion"]))
    adapter = trained(model, rank=2, alpha=5.0)
    adapter.save(tmp_path)
    ours = load_file(tmp_path / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert len(ours) == len(theirs) == len(adapter.named)
    for name, value in ours.items():
        strength = 2.5 if ".lora_B." in name else 1.0
        expected = strength * value
        assert torch.equal(theirs[name.replace("base_model.model.", "unet.")], expected)
