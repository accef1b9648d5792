"""Guiders, their scale, and what cannot be replayed."""

import diffusers.guiders
import pytest
import torch
from modular_tiny import FAMILIES, build, make_pipeline
from rewardft_plugins.modular.guidance import build as build_guider
from rewardft_plugins.modular.model import Modular
from rewardft_plugins.modular.settings import Settings

from rewardft import Batch
from rewardft.errors import ComponentError
from rewardft.policy.policy import Policy

BATCH = Batch(("0", "1"), (0, 0), {"prompt": ["a red cat", "a blue dog on a hill"]})
REPLAYABLE = [
    "ClassifierFreeGuidance",
    "ClassifierFreeZeroStarGuidance",
    "TangentialClassifierFreeGuidance",
]


def with_guider(guider, **options):
    pipe, tiny = make_pipeline(FAMILIES["flux2_klein_base"], 0)
    settings = Settings(guider=guider, height=32, width=32, **options)
    return Modular(pipe, settings, lambda prompt, image: tiny.embed(prompt, True))


def state_of(model):
    cond = model.encode(BATCH)
    return torch.randn(
        2, *model.sample_shape(cond), generator=torch.Generator().manual_seed(0)
    ), cond


def at(value):
    return torch.full((2,), value)


@pytest.mark.parametrize(
    "name", [*REPLAYABLE, "AdaptiveProjectedGuidance", "MagnitudeAwareGuidance"]
)
def test_a_step_can_be_visited_again_in_another_order(name):
    model = with_guider({"use": name, "guidance_scale": 3.0})
    x, cond = state_of(model)
    levels = [at(float(t)) for t in model.levels(3)[0]]
    once = [model.denoise(x, t, cond) for t in levels]
    again = [model.denoise(x, t, cond) for t in reversed(levels)]
    assert all(torch.equal(one, other) for one, other in zip(once, reversed(again)))


def test_momentum_is_refused():
    guider = {"use": "AdaptiveProjectedGuidance", "adaptive_projected_guidance_momentum": -0.5}
    with pytest.raises(ComponentError) as caught:
        with_guider(guider)
    assert str(caught.value) == (
        "AdaptiveProjectedGuidance has adaptive_projected_guidance_momentum=-0.5: what it remembers of earlier steps is "
        "lost when a step is replayed alone. Set it to null."
    )


def test_unknown_guiders_and_options():
    with pytest.raises(ComponentError, match="Did you mean 'ClassifierFreeGuidance'"):
        build_guider({"use": "ClassifierFreeGuidanc"})
    with pytest.raises(ComponentError, match="has no option 'scale'"):
        build_guider({"use": "ClassifierFreeGuidance", "scale": 3.0})
    with pytest.raises(
        ComponentError, match=r"guider: expected \{use: NAME, \.\.\.\}\. Choose one of: Adap"
    ):
        build_guider({"guidance_scale": 3.0})
    with pytest.raises(ComponentError, match="ClassifierFreeGuidance takes no such options"):
        build_guider({"use": "ClassifierFreeGuidance", "guidance_scale": "much"})
    with pytest.raises(ComponentError, match="expected guidance of at least 0, got -3"):
        build_guider({"use": "ClassifierFreeGuidance", "guidance_scale": -3})


@pytest.mark.parametrize(
    "name", ["SkipLayerGuidance", "AutoGuidance", "PerturbedAttentionGuidance"]
)
def test_guiders_that_change_layers(name):
    with pytest.raises(ComponentError) as caught:
        build_guider({"use": name})
    text = f"guider: {name} changes layers of the network, which it does not find under an adapter."
    assert str(caught.value).startswith(text)


def test_guidance_by_hand():
    """u + s (c - u), from the two predictions."""
    model, _ = build("flux2_klein_base", guidance=3.0)
    x, cond = state_of(model)
    guider = model.pipe.guider
    found = {}
    plain = guider.forward
    guider.forward = lambda pred_cond, pred_uncond=None: (
        found.setdefault("c", pred_cond) is None or plain(pred_cond, pred_uncond)
    )
    model.denoise(x, at(500.0), cond)
    with Policy(model).unguided():
        assert torch.allclose(model.denoise(x, at(500.0), cond), found["c"], atol=1e-6)
    assert model.guidance == 3.0


def test_the_gradient_outside():
    """The unconditional half is a constant: s times the gradient of the conditional prediction is left."""
    inside, _ = build("wan", guidance=3.0)
    outside = with_outside("wan")
    slopes = {}
    for name, model in (("inside", inside), ("outside", outside)):
        x, cond = state_of(model)
        x.requires_grad_(True)
        slopes[name] = torch.autograd.grad(model.denoise(x, at(500.0), cond).sum(), x)[0]
    x, cond = state_of(inside)
    x.requires_grad_(True)
    with Policy(inside).unguided():
        conditional = torch.autograd.grad(inside.denoise(x, at(500.0), cond).sum(), x)[0]
    assert torch.allclose(slopes["outside"], 3 * conditional, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(slopes["inside"], slopes["outside"], rtol=1e-2)


def with_outside(family):
    pipe, tiny = make_pipeline(FAMILIES[family], 0)
    settings = Settings(
        guidance=3.0, guidance_gradient="outside", height=32, width=32, frames=tiny.frames
    )
    return Modular(pipe, settings, lambda prompt, image: tiny.embed(prompt, True))


def test_a_distilled_network_has_no_guidance():
    with pytest.raises(ComponentError) as caught:
        build("flux2_klein", guidance=4.0)
    assert str(caught.value) == (
        "Flux2KleinModularPipeline has no guidance: its network was distilled without, so `guidance: 4` would do nothing. "
        "Leave it out."
    )
    model, _ = build("flux2_klein")
    assert not hasattr(model, "guidance")


def test_embedded_guidance_is_an_input_of_the_network():
    one, other = (build("flux", guidance=scale)[0] for scale in (1.0, 6.0))
    x, cond = state_of(one)
    first, second = one.denoise(x, at(500.0), cond), other.denoise(x, at(500.0), cond)
    assert not torch.allclose(first, second, atol=1e-3)
    with Policy(other).unguided():
        assert torch.equal(other.denoise(x, at(500.0), cond), first)
    assert torch.equal(other.denoise(x, at(500.0), cond), second)


def test_each_timestep_is_taken_on_its_samplers_grid():
    """A flow map is told where its step ends, which is the next level of the sampler's own grid."""
    model, _ = build("flux3_distilled")
    alone, _ = build("flux3_distilled")
    few = model.levels(2)[0]
    model.levels(5)
    alone.levels(2)
    x, cond = state_of(model)
    t = at(float(few[1]))
    assert torch.equal(model.denoise(x, t, cond), alone.denoise(x, t, cond))
    alone.levels(5)
    assert model._steps == 2 and torch.equal(alone.denoise(x, t, cond), model.denoise(x, t, cond))


def test_guiders_of_diffusers_that_are_known():
    assert all(hasattr(diffusers.guiders, name) for name in REPLAYABLE)
