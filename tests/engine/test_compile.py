"""`train.compile`: which blocks are compiled, and that a run learns the same."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from rewardft.errors import RecipeError
from rewardft.policy.compiling import compile_blocks, repeated_blocks
from rewardft.recipe.recipe import load_recipe
from rewardft.testing import run_recipe
from tests.shipped.text2image import checkpoints

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
TINY = """
plugins: [text2image, rewards]
seed: 3
model: {{use: {family}, weights: {weights}, height: 16, width: 16}}
sampler: {{use: ddim, steps: 3}}
data: {{use: prompts, path: shipped, held_out: 4, batch_size: 2}}
rewards: [{{use: mean_brightness}}]
regularizers: [{{use: kl, weight: 0.1}}]
algorithm: {{use: drtune, train_steps: 2, early_stop: 1}}
adapter: {{kind: lora, rank: 2}}
optimizer: {{use: adamw, lr: 1e-2}}
train: {{steps: 2, log_every: 1}}
evaluate: {{samples: 2, data: {{split: val}}}}
"""


def compiled(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if part._compiled_call_impl is not None]


def test_the_blocks_that_a_network_repeats_are_compiled_and_its_weights_keep_their_names():
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=8,
    )
    names = list(unet.state_dict())
    assert len(repeated_blocks(unet)) == 4  # one down, one in the middle, two up
    compile_blocks(unet)
    assert all(name.endswith("transformer_blocks.0") for name in compiled(unet))
    assert len(compiled(unet)) == 4
    assert list(unet.state_dict()) == names


def test_a_network_that_names_no_blocks_is_compiled_whole():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert compile_blocks(module) == [module]
    assert compiled(module) == [""]


def test_the_limit_of_variants_is_raised_and_never_lowered():
    from torch._dynamo import config

    with config.patch(recompile_limit=100):
        compile_blocks(nn.Linear(1, 1))
        assert config.recompile_limit == 100
    with config.patch(recompile_limit=8):
        compile_blocks(nn.Linear(1, 1))
        assert config.recompile_limit == 64


def test_a_sharded_base_is_not_compiled():
    with pytest.raises(RecipeError) as refused:
        load_recipe(RECIPES / "toy_draft.yaml", ["train.compile=true", "train.shard=true"])
    assert (
        "train.compile: a base that is sharded was never tried with it. Leave one of them out."
    ) in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd3", "stable_diffusion", "flux"])
def test_a_compiled_run_learns_the_same(family, tmp_path):
    weights = tmp_path / "weights"
    checkpoints.FAMILIES[family](weights)
    path = tmp_path / "recipe.yaml"
    path.write_text(TINY.format(family=family, weights=weights))
    plain = run_recipe(path, tmp_path / "plain")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    quick = run_recipe(path, tmp_path / "compiled", "train.compile=true")
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] > 0
    assert not counters["graph_break"]
    first = load_file(plain.folder / "adapter" / "adapter_model.safetensors")
    second = load_file(quick.folder / "adapter" / "adapter_model.safetensors")
    assert first.keys() == second.keys()
    # Fused operations round otherwise; a step is 1e-2.
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, rtol=0, atol=5e-4)
