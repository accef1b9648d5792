"""Families that the plugin `text2image` has too: the same samples from the same folder, prompts and noise."""

import json

import diffusers
import pytest
import torch
from rewardft_plugins.modular.from_weights import ModularFromWeights
from rewardft_plugins.text2image.flux import Flux
from rewardft_plugins.text2image.sd3 import StableDiffusion3
from rewardft_plugins.text2image.sdxl import StableDiffusionXL

from rewardft import Batch
from rewardft.samplers.ddim import DDIM
from tests.shipped.text2image import checkpoints

STEPS, SIZE = 3, {"height": 16, "width": 16}
PROMPTS = ["a red cat", "two dogs"]
BATCH = Batch(("0", "1"), (0, 0), {"prompt": PROMPTS})
FAMILIES = {
    "sd3": (StableDiffusion3, "StableDiffusion3Pipeline", {"guidance": 7.0, "t5_length": 256}),
    "sdxl": (StableDiffusionXL, "StableDiffusionXLPipeline", {"guidance": 5.0}),
    "flux": (Flux, "FluxPipeline", {"guidance": 3.5}),
}


def indexed(family, folder):
    """The folder with the index that a published one has."""
    checkpoints.FAMILIES[family](folder)
    parts = [path.name for path in folder.iterdir() if path.is_dir()]
    index = {"_class_name": FAMILIES[family][1], "_diffusers_version": diffusers.__version__}
    for name in parts:
        known = folder / name / "config.json"
        facts = json.loads(known.read_text()) if known.exists() else {}
        kind = facts.get("_class_name") or (facts.get("architectures") or [None])[0]
        if name.startswith("tokenizer"):
            kind = (
                "T5TokenizerFast"
                if family + name in ("sd3tokenizer_3", "fluxtokenizer_2")
                else "CLIPTokenizer"
            )
        if name == "scheduler":
            kind = json.loads((folder / name / "scheduler_config.json").read_text())["_class_name"]
        library = "transformers" if name.startswith(("text", "token")) else "diffusers"
        index[name] = [library, kind]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def packed(x):
    """`(b, c, h, w)` -> `(b, h w / 4, 4 c)`, two by two, as FLUX has it."""
    b, c, h, w = x.shape
    return (
        x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)
    )


def finished(model, x):
    """The end of a chain of DDIM or Euler steps from x."""
    sampler = DDIM(STEPS)
    sampler.setup(model)
    cond = model.encode(BATCH)
    model.sample_shape(cond)
    with torch.no_grad():
        for k in range(STEPS):
            output = model.denoise(x, torch.full((2,), sampler.timesteps[k]), cond)
            x = sampler.transition(k, x, output, None).next
        return x, model.decode(x)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_samples(family, tmp_path):
    kind, _, options = FAMILIES[family]
    folder = indexed(family, tmp_path)
    kept = kind(weights=str(folder), **SIZE, **options)
    model = ModularFromWeights(weights=str(folder), guidance=options["guidance"], **SIZE)
    noise = torch.randn(2, *kept.sample_shape(None), generator=torch.Generator().manual_seed(0))
    latents, pixels = finished(kept, noise)
    shape = packed if family == "flux" else torch.Tensor.clone
    ours, seen = finished(model, shape(noise))
    assert float((shape(latents) - ours).abs().max()) < 2e-5 * float(latents.abs().max())
    assert float((pixels - seen).abs().max()) < 2e-5
