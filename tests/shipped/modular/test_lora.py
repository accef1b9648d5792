"""A trained adapter loads in the family's modular pipeline by one line, and does there what it does here."""

import modular_families as table
import pytest
import torch
from modular_tiny import FAMILIES, build

from rewardft.policy.lora import PIPELINE_FILE, Lora
from rewardft.recipe.sections import AdapterSpec

FAST = ["flux2_klein", "qwenimage", "stable_diffusion_xl", "wan"]
UNLOADABLE = ["wan22", "cosmos3"]  # two networks that learn, or no loader in diffusers
REST = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
    if name not in [*FAST, *UNLOADABLE, "ideogram4"]
]


def randomise(adapter):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("family", FAST + REST)
def test_the_pipeline_loads_the_adapter_and_predicts_the_same(family, tmp_path):
    (model, _), (other, _) = build(family), build(family)
    adapter, cond = (
        Lora(model, AdapterSpec(rank=4, alpha=6.0), 0),
        model.encode(table.batch_of(table.PROMPTS)),
    )
    x = torch.randn(2, *model.sample_shape(cond), generator=torch.Generator().manual_seed(1))
    t = model.prepared([cond[0]]).timesteps[[0, 0]]
    with torch.no_grad():
        base = other.denoise(x, t, cond)
        randomise(adapter)
        adapter.save(tmp_path)
        tuned = model.denoise(x, t, cond)
        other.pipe.load_lora_weights(tmp_path)
        loaded = other.denoise(x, t, cond)
    scale = float(tuned.abs().max())
    assert float((loaded - tuned).abs().max()) < 1e-4 * scale
    assert float((tuned - base).abs().max()) > 1e-2 * scale


@pytest.mark.parametrize("family", UNLOADABLE)
def test_what_no_loader_takes_from_one_file_is_saved_for_peft_alone(family, tmp_path):
    model, _ = build(family)
    Lora(model, AdapterSpec(rank=2), 0).save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").is_file()
    assert not (tmp_path / PIPELINE_FILE).exists()
