"""A decoder's gradient with less of its graph in memory: the same bits, of a real autoencoder."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from rewardft.engine.session import build_policy
from rewardft.policy import rollout_weights
from rewardft.policy.lean_decoding import LeanDecoding
from rewardft.policy.policy import Policy
from rewardft.testing.tiny import TinyModel


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=16,
    )
    return vae.requires_grad_(False).eval()


def differentiated(decode):
    """Pictures, their gradient, and the bytes that wait for it."""
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    z.requires_grad_(True)
    kept = {}

    def keep(tensor):
        if tensor.grad_fn is not None:  # no weight
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pictures = decode(z)
    (slope,) = torch.autograd.grad(pictures.square().sum(), z)
    return pictures, slope, sum(kept.values())


def test_the_gradient_is_the_same_and_waits_in_half_of_the_memory(autoencoder):
    plain = differentiated(lambda z: autoencoder.decode(z).sample)

    def lean(z):
        with LeanDecoding():
            return autoencoder.decode(z).sample

    got = differentiated(lean)
    assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[1])
    assert plain[1].abs().sum() > 0 and got[2] < 0.5 * plain[2]


def test_what_learns_or_is_not_differentiated_is_left_alone():
    layers = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1))
    x = torch.randn(1, 4, 8, 8)

    def names():
        with LeanDecoding():
            node, found = layers(x).grad_fn, []
        while node is not None:
            found.append(type(node).__name__)
            node = node.next_functions[0][0] if node.next_functions else None
        return found

    learning = ["ConvolutionBackward0", "SiluBackward0", "NativeGroupNormBackward0"]
    assert names()[:3] == learning
    layers.requires_grad_(False)
    assert names() == []
    x.requires_grad_(True)
    lean = ["FrozenConvolutionBackward", "SiluOfNormedBackward", "NativeGroupNormBackward0"]
    assert names()[:3] == lean
    layers[0].requires_grad_(True)
    assert names()[:3] == [lean[0], *learning[1:]]


@pytest.mark.parametrize("settings", [{"padding": "same"}, {"stride": 2, "dilation": 2}])
def test_convolutions_of_any_settings(settings):
    layer = nn.Conv2d(4, 8, 3, groups=2, **settings).requires_grad_(False)
    x = torch.randn(2, 4, 9, 9, requires_grad=True)
    plain = layer(x)
    with LeanDecoding():
        lean = layer(x)
    (one,), (other,) = (torch.autograd.grad(y.square().sum(), x) for y in (plain, lean))
    assert torch.equal(plain, lean) and torch.equal(one, other)


def test_policies_of_large_networks_decode_so(autoencoder, monkeypatch):
    model = TinyModel()
    model.decode = lambda z: autoencoder.decode(z).sample
    plain = differentiated(Policy(model).decode)
    monkeypatch.setattr(rollout_weights, "LARGE", 0)
    lean = differentiated(Policy(model).decode)
    assert torch.equal(lean[1], plain[1]) and lean[2] < 0.5 * plain[2]
    # A checkpointed block would compute other nodes the second time; the denoiser has none of them.
    again = differentiated(Policy(model, decoder_checkpointed=True).decode)
    assert again[2] == plain[2]
    assert differentiated(Policy(model, checkpointed=True).decode)[2] == lean[2]


class Modulated(nn.Module):
    """Scaled and shifted in place between the normalization and SiLU."""

    def __init__(self):
        super().__init__()
        self.norm, self.scale = nn.GroupNorm(2, 4), nn.Parameter(torch.full((1, 4, 1, 1), 0.3))

    def forward(self, x):
        h = self.norm(x)
        h *= 1 + self.scale
        return nn.functional.silu(h)


def in_words(x):
    return nn.functional.conv2d(x, torch.full((2, 4, 3, 3), 0.1), None, 1, "valid")


def by_keyword(x):
    return nn.functional.conv2d(input=x, weight=torch.full((2, 4, 3, 3), 0.1))


def without_a_batch(x):
    return nn.functional.conv2d(x[0], torch.full((2, 4, 3, 3), 0.1))


def written_over(x):
    h = nn.functional.group_norm(x, 2)
    nn.functional.silu(h, inplace=True)
    return h


def in_halves(x):
    layers = nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU(), nn.Conv2d(4, 2, 3)).requires_grad_(False)
    for parameter in layers.parameters():
        nn.init.constant_(parameter, 0.1)
    with torch.autocast("cpu", torch.float16):
        return layers(x).float()


CALLS = [Modulated().requires_grad_(False), in_words, by_keyword, without_a_batch, written_over]


@pytest.mark.parametrize("call", [*CALLS, in_halves])
def test_calls_of_other_kinds_have_the_same_gradient(call):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3), requires_grad=True)
    (plain,) = torch.autograd.grad(call(x).square().sum(), x)
    with LeanDecoding():
        (lean,) = torch.autograd.grad(call(x).square().sum(), x)
    assert torch.equal(lean, plain) and plain.abs().sum() > 0


class ModuleModel(TinyModel, nn.Module):
    """A model that is a network itself, and keeps its parts where torch does."""

    def __init__(self):
        nn.Module.__init__(self)
        TinyModel.__init__(self)


@pytest.mark.parametrize("kind", [TinyModel, ModuleModel])
def test_a_decoder_that_checkpoints_itself_is_left_alone(kind):
    train = SimpleNamespace(precision="fp32", checkpointing=False, decode_checkpointing=False)
    recipe, model = SimpleNamespace(train=train), kind()
    model.trainable.gradient_checkpointing = True
    assert not build_policy(
        recipe, model
    ).decoder_checkpointed  # it is not the denoiser that decodes
    model.autoencoder = nn.Sequential(nn.Linear(1, 1))
    model.autoencoder[0].gradient_checkpointing = True
    assert build_policy(recipe, model).decoder_checkpointed
