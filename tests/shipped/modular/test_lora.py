"""A trained adapter loads in the family's modular pipeline by one line, and does there what it does here."""

import modular_families as table
import pytest
import torch
from modular_tiny import FAMILIES, build
from rewardft_plugins.modular.from_weights import ModularFromWeights
from safetensors.torch import load_file

from rewardft.errors import ComponentError
from rewardft.policy.lora import PIPELINE_FILE, Lora
from rewardft.recipe.sections import AdapterSpec
from rewardft.runs.export import LAYOUTS

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


class Ran:
    """What the layouts of `rewardft export` read of a session."""

    def __init__(self, model):
        self.model, self.recipe = model, None
        self.adapter = Lora(model, AdapterSpec(rank=4, alpha=6.0), 0)
        randomise(self.adapter)


@pytest.mark.parametrize(
    "family",
    ["stable_diffusion_xl", pytest.param("qwenimage", marks=pytest.mark.slow)],
)
def test_kohyas_layout_as_comfyui_reads_it(family, tmp_path):
    """Every key is a layer's name with _ for dots; W + alpha / rank * up @ down is the weight."""
    (model, _), (other, _) = build(family), build(family)
    LAYOUTS["kohya"](Ran(model), tmp_path, "mine")
    state = load_file(tmp_path / "mine.safetensors")
    left = set(state)
    with torch.no_grad():
        for layer, module in other.trainable.named_modules():
            key = other.kohya_prefix + layer.replace(".", "_")
            if f"{key}.alpha" in state:
                names = [f"{key}.{end}" for end in ("alpha", "lora_up.weight", "lora_down.weight")]
                alpha, up, down = (state[name] for name in names)
                left -= set(names)
                module.weight += alpha / len(down) * up @ down
    assert left == set()
    assert difference(model, other) < 1e-4


def test_a_network_that_has_other_names_elsewhere_is_refused(tmp_path):
    from types import SimpleNamespace

    model, _ = build("wan")
    ran = Ran(model)
    ran.recipe = SimpleNamespace(model=SimpleNamespace(use="modular"))
    with pytest.raises(ComponentError, match="does not say how other programs name its layers"):
        LAYOUTS["kohya"](ran, tmp_path, "mine")


def test_the_merged_folder_is_a_checkpoint(folders, tmp_path):
    family = next(iter(folders))
    model = ModularFromWeights(weights=str(folders[family]))
    before = ModularFromWeights(weights=str(folders[family]))
    LAYOUTS["merged"](Ran(model), tmp_path, "mine")
    other = ModularFromWeights(weights=str(tmp_path))
    assert difference(model, other) < 1e-4 and difference(model, before) > 1e-2


def difference(one, other):
    """The largest of two models' predictions on one state, over the largest number in them."""
    cond = one.encode(table.batch_of(table.PROMPTS))
    x = torch.randn(2, *one.sample_shape(cond), generator=torch.Generator().manual_seed(1))
    t = one.prepared([cond[0]]).timesteps[[0, 0]]
    with torch.no_grad():
        mine = one.denoise(x, t, cond)
        theirs = other.denoise(x, t, other.encode(table.batch_of(table.PROMPTS)))
    return float((mine - theirs).abs().max() / mine.abs().max())
