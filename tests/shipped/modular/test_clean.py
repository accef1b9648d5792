"""Given pictures and videos as latents: what the pipelines' own encoder blocks make of them."""

import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.modular_pipelines.modular_pipeline import PipelineState
from modular_tiny import FAMILIES, build
from rewardft_plugins.modular.blocks import catch
from rewardft_plugins.modular.encoding import to_picture
from rewardft_plugins.modular.from_weights import ModularFromWeights

from rewardft import Batch
from rewardft.errors import ComponentError, DataError

FAST = ["flux", "flux2_klein", "qwenimage", "stable_diffusion_xl", "ltx", "wan22"]
SOUND = "ltx2"
REST = [
    pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES if name not in {*FAST, SOUND}
]


def pixels(tiny, count=2):
    """In the 256 levels of a picture file."""
    frames = (tiny.frames,) if tiny.frames else ()
    noise = torch.Generator().manual_seed(0)
    shape = (count, *frames, 3, tiny.size, tiny.size)
    return torch.randint(0, 256, shape, generator=noise) / 255


def batch_of(images):
    ids = tuple(map(str, range(len(images))))
    prompts = ["a cat"] * len(images)
    return Batch(ids, (0,) * len(images), {"prompt": prompts, "image": images})


def with_statistics(model):
    """Other latents than those of a new network, whose mean is 0 and whose deviation is 1."""
    noise = torch.Generator().manual_seed(5)
    if hasattr(model.pipe.vae, "bn"):
        normal = model.pipe.vae.bn
        normal.running_mean = torch.randn(normal.running_mean.shape, generator=noise)
        normal.running_var = 0.5 + torch.rand(normal.running_var.shape, generator=noise)
    return model


def decoder_input(model, x):
    """What the blocks behind the loop hand to the autoencoder for states x."""
    prepared = model.prepared([model.condition.example()])
    return catch(model.pipe.vae, "decode", lambda: model.chain.decode(x, prepared))[0]


@pytest.mark.parametrize("family", FAST + REST)
def test_the_decoder_gets_back_what_the_encoder_gave(family):
    model, tiny = build(family)
    model.scheduler.set_timesteps(3)
    with_statistics(model)
    images = pixels(tiny)
    with torch.no_grad():
        x = model.clean(batch_of(images))
        given = images if images.ndim == 4 else images.transpose(1, 2)
        vae = model.pipe.vae
        for row in range(2):
            z = decoder_input(model, x[row : row + 1])
            one = 2 * given[row : row + 1] - 1
            one = one[:, :, None] if z.ndim > one.ndim else one
            if vae.config.get("in_channels") == 4:
                one = torch.cat([one, torch.ones_like(one[:, :1])], 1)
            assert torch.allclose(z, vae.encode(one).latent_dist.mode(), atol=2e-6)
    assert x.shape[1:] == model.sample_shape([model.condition.example()])


@pytest.mark.parametrize("family", ["flux", "wan22"])
def test_latents_are_differentiable_in_the_pictures(family):
    """Scenes are distilled through them; what trains on given pictures switches autograd off."""
    model, tiny = build(family)
    model.scheduler.set_timesteps(3)
    images = pixels(tiny, 1).requires_grad_()
    x = model.clean(batch_of(images))
    (slope,) = torch.autograd.grad(x.square().sum(), images)
    assert bool(slope.flatten(2).abs().sum(-1).gt(0).all())


def packed(z):
    """`(1, c, h, w)` -> `(1, h w / 4, 4 c)`, two by two."""
    _, c, h, w = z.shape
    return z.view(c, h // 2, 2, w // 2, 2).permute(1, 3, 0, 2, 4).reshape(1, h * w // 4, 4 * c)


def rows_of_pixels(z):
    """`(1, c, frames, h, w)` -> `(1, frames h w, c)`."""
    return z.flatten(2).transpose(1, 2)


def same(z):
    return z


ENCODERS = {  # families whose blocks encode pictures, as their loops want them but for the packing
    "stable_diffusion_3": same,
    "stable_diffusion_xl": same,
    "flux": packed,
    "qwenimage": lambda z: packed(z[:, :, 0]),
    "z_image": same,
    "ltx": rows_of_pixels,
}


@pytest.mark.parametrize("family", ENCODERS)
def test_latents_are_those_of_the_pipelines_encoder_blocks(family, monkeypatch):
    def mode(distribution, generator=None):
        return distribution.mode()

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", mode)
    model, tiny = build(family, frames=1 if FAMILIES[family]().frames else None)
    image = pixels(tiny, count=1).reshape(1, -1, 3, tiny.size, tiny.size)[:, 0]
    given = {"image": to_picture(image[0]), "height": tiny.size, "width": tiny.size}
    state = PipelineState()
    for parameter in model.pipe.blocks.inputs:
        state.set(parameter.name, parameter.default, parameter.kwargs_type)
    for name, value in given.items():
        state.set(name, value)
    model.pipe.blocks.sub_blocks["vae_encoder"](model.pipe, state)
    expected = ENCODERS[family](state.get("image_latents"))
    found = model.clean(batch_of(image[:, None] if tiny.frames else image))
    assert torch.allclose(found, expected, atol=2e-6)


def test_wan_by_its_own_statistics():
    """It has no block that encodes videos: (z - mean) / standard deviation, as it was trained."""
    model, tiny = build("wan")
    videos = pixels(tiny)
    config = model.pipe.vae.config
    mean, deviation = (
        torch.tensor(values).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    with torch.no_grad():
        z = model.pipe.vae.encode(2 * videos.transpose(1, 2) - 1).latent_dist.mode()
    assert torch.allclose(model.clean(batch_of(videos)), (z - mean) / deviation, atol=2e-6)


def test_an_autoencoder_in_bfloat16_has_exact_places():
    exact, tiny = build("flux")
    coarse, _ = build("flux")
    coarse.pipe.vae.to(torch.bfloat16)
    batch = batch_of(pixels(tiny))
    error = (coarse.clean(batch) - exact.clean(batch)).abs().max()
    assert 0 < float(error) < 0.05 * float(exact.clean(batch).abs().max())
    assert torch.equal(coarse._latent_map.place, exact._latent_map.place)


def test_the_edited_picture_is_not_the_condition(folders):
    options = {"weights": str(folders["flux2_klein"]), "height": 32, "width": 32}
    before, after = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    columns = {"prompt": ["x", "y"], "image": before}
    batch = Batch(("0", "1"), (0, 0), {**columns, "edited": after})
    edits = ModularFromWeights(**options, workflow="image_conditioned")
    assert torch.equal(edits.clean(batch), ModularFromWeights(**options).clean(batch_of(after)))
    with pytest.raises(ComponentError) as caught:
        edits.clean(Batch(("0", "1"), (0, 0), columns))
    assert str(caught.value) == (
        "Flux2KleinModularPipeline reads given samples from a column `edited`, and the data set "
        "gives: prompt, image"
    )


# -- what is refused -----------------------------------------------------------------------------------


def test_another_size():
    model, _ = build("flux")
    with pytest.raises(DataError) as caught:
        model.clean(batch_of(torch.rand(1, 3, 64, 32)))
    assert str(caught.value) == (
        "given samples of shape (3, 64, 32) have latents of shape (4, 32, 16), and the model makes "
        "(4, 16, 16): they must have its height, width and frames"
    )


def test_sound():
    model, tiny = build(SOUND)
    with pytest.raises(ComponentError) as caught:
        model.clean(batch_of(pixels(tiny)))
    assert str(caught.value) == (
        "LTX2ModularPipeline samples sound beside its video, and given videos have none here: "
        "algorithms that learn from given samples do not go with it"
    )


def test_blocks_that_do_more():
    model, tiny = build("flux")
    decode = model.chain.after[0]

    class Mixing:
        """Puts the mean of all entries into each."""

        input_names, output_names = decode.input_names, decode.output_names

        def __call__(self, pipe, state):
            mixed = state.get("latents")
            state.set("latents", mixed.mean() + 0 * mixed)
            return pipe, state

    model.chain.after.insert(0, Mixing())
    with pytest.raises(ComponentError, match="do more than move, scale and shift latents"):
        model.clean(batch_of(pixels(tiny)))
