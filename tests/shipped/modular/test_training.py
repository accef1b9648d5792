"""Training: the reward rises, both networks of a chain learn, memory stays flat in frames and in steps."""

import pytest
import torch
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
optimizer: {use: adamw, lr: 3e-2}
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
    assert row["difference"] > 3 * row["half_width"] > 0


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


class Kept:
    """Numbers that autograd keeps while it is inside, in the largest moment of forward and backward."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda kept: kept.tensor)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)

    def pack(self, tensor):
        return Token(self, tensor.detach())


class Token:
    def __init__(self, owner, tensor):
        self.owner, self.tensor = owner, tensor
        owner.now += tensor.numel()
        owner.most = max(owner.most, owner.now)

    def __del__(self):
        self.owner.now -= self.tensor.numel()


def decoded_gradient(frames, checkpointed):
    model, _ = build("wan", frames=frames)
    if checkpointed:
        model.enable_decode_checkpointing()
    cond = [model.condition.example()]
    x = torch.randn(1, *model.sample_shape(cond), generator=torch.Generator().manual_seed(0))
    x.requires_grad_(True)
    with Kept() as kept:
        video = model.decode(x)
        slope = torch.autograd.grad(torch.sin(3 * video).mean(), x)[0]
    return video.detach(), slope, kept.most


def test_a_decoder_that_checkpoints_each_call_has_the_same_gradient():
    (video, slope, most), (same, again, less) = (decoded_gradient(9, on) for on in (False, True))
    assert torch.equal(video, same) and torch.allclose(slope, again, rtol=1e-5, atol=1e-9)
    assert less < most


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
