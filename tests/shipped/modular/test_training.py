"""Training: the reward rises, both networks of a chain learn, memory stays flat in frames and in steps."""

import pytest
import torch
from modular_memory import decode_video, one_training_step
from modular_tiny import build
from rewardft_plugins.modular.decoding import checkpoint_decoder

from rewardft.testing import run_recipe

RECIPE = """plugins: [modular_tiny]
seed: 0
model:     {use: modular_tiny, family: FAMILY}
sampler:   {use: SAMPLER, steps: 3}
data:      {use: tiny_prompts, batch_size: 4}
rewards:   [{use: tiny_light}]
algorithm: {use: draft_k, train_steps: 2}
adapter:   {kind: lora, rank: 4}
optimizer: {use: adamw, lr: 5e-2}
train:     {steps: 6}
evaluate:  {every: 6, samples: 6}
"""


@pytest.mark.parametrize(
    ("family", "sampler"),
    [("qwenimage", "flow_euler"), ("wan", "flow_euler"), ("stable_diffusion_xl", "ddim")],
)
def test_the_reward_rises(family, sampler, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.replace("FAMILY", family).replace("SAMPLER", sampler))
    run = run_recipe(path, tmp_path / "run")
    (row,) = [row for row in run.summary["evaluation"] if row["name"] == "reward/tiny_light"]
    assert row["difference"] > row["half_width"] > 0  # paired, on held-out prompts and noise


def test_both_networks_learn(tmp_path):
    """Every trained tensor of the two gets a gradient over a chain, and each call reaches one of them."""
    path = tmp_path / "recipe.yaml"
    text = RECIPE.replace("FAMILY", "wan22").replace("SAMPLER", "flow_euler")
    path.write_text(
        text.replace("train_steps: 2", "train_steps: 3").replace("steps: 6}", "steps: 1}")
    )
    run_recipe(path, tmp_path / "run")
    from safetensors.torch import load_file

    state = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    moved = {name: bool(weight.any()) for name, weight in state.items() if "lora_B" in name}
    assert all(moved.values())
    assert {name.split(".")[2] for name in moved} == {"transformer", "transformer_2"}


def test_one_network_of_two_can_be_chosen():
    model, _ = build("wan22", train=["transformer_2"])
    assert model.trainable is model.pipe.transformer_2
    assert build("ideogram4")[0].trainable["unconditional_transformer"] is not None


def test_an_adapter_does_not_touch_layers_that_are_not_called():
    """FLUX.3 has blocks for pictures that texts do not need."""
    targets = build("flux3")[0].lora_targets
    assert targets and not any("image_cond" in name for name in targets)
    assert build("wan")[0].lora_targets == ["to_q", "to_k", "to_v", "to_out.0"]


# -- memory --------------------------------------------------------------------------------------------


def test_memory_of_decoding_grows_by_the_frames_alone():
    """Beside what waits in host memory; a checkpoint changes neither the video nor its gradient."""
    runs = {(n, on): decode_video("wan", n, on) for n in (5, 17) for on in (False, True)}
    (video, slope, *_), (same, again, *_) = runs[17, False], runs[17, True]
    assert torch.equal(video, same) and torch.allclose(slope, again, rtol=1e-5, atol=1e-9)
    growth = {on: runs[17, on][2] - runs[5, on][2] for on in (False, True)}
    frames = video.nbytes - runs[5, False][0].nbytes
    assert growth[True] < 8 * frames and growth[False] > 25 * frames


def test_memory_of_training_is_flat_in_steps():
    assert one_training_step(8) < 1.05 * one_training_step(4)


@pytest.mark.parametrize("family", ["qwenimage", "ltx", "hunyuan_video", "flux", "cosmos3"])
def test_so_has_every_kind_of_decoder(family):
    results = []
    for checkpointed in (False, True):
        model, _ = build(family)
        if checkpointed:
            checkpoint_decoder(model.pipe.vae.decoder)
        x = torch.randn(
            1,
            *model.sample_shape([model.condition.example()]),
            generator=torch.Generator().manual_seed(0),
        )
        x.requires_grad_(True)
        results.append(torch.autograd.grad(torch.sin(3 * model.decode(x)).mean(), x)[0])
    assert torch.allclose(*results, rtol=1e-4, atol=1e-9)
