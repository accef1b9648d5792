"""VSD: its two gradients by hand, and where it leads under a Gaussian prior, in float64."""

import pytest
import torch
from rewardft_plugins.ddpo3d.model import GaussianScene
from rewardft_plugins.ddpo3d.sds import SDS
from rewardft_plugins.ddpo3d.vsd import VSD

from rewardft.errors import ComponentError, RecipeError
from rewardft.testing import check_algorithm, check_resume, run_recipe
from rewardft.testing.conformance import gradients_of
from rewardft.testing.tiny import TinyModel
from rewardft.types import Batch
from tests.documents import ROOT
from tests.shipped.ddpo3d.scenes import gradient, scene_context, scene_model, views

DIGITS = ROOT / "recipes" / "ddpo3d_digits.yaml"
HALF = {"t_range": (0.5, 0.5005)}  # timestep 500 alone
SPREAD = 0.4  # of the prior's colours


class Channels(torch.nn.Module):
    """One matrix for the colour of every pixel."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.mix(x.movedim(1, -1)).movedim(-1, 1)


class GaussianPrior:
    """All colours of all pixels are N(0, SPREAD^2): at one noise level the best guess of the noise
    is linear, epsilon_hat = sigma / (alpha^2 SPREAD^2 + sigma^2) x_t."""

    provides = frozenset({"denoiser"})
    lora_targets = ("mix",)

    def __init__(self, size=8):
        self.size, self.scheduler = size, TinyModel(width=8).scheduler
        self.alpha, self.sigma = levels(self.scheduler)
        self.trainable = Channels().double()
        self.shrink = self.sigma / (self.alpha**2 * SPREAD**2 + self.sigma**2)
        with torch.no_grad():
            self.trainable.mix.weight.copy_(self.shrink * torch.eye(3))

    def encode(self, batch):
        return {"label": batch["label"]}

    def sample_shape(self, cond):
        return (3, self.size, self.size)

    def denoise(self, x, t, cond):
        return self.trainable(x)

    def decode(self, x0):
        return x0

    def clean(self, batch):
        return 2 * batch["image"] - 1


def levels(scheduler):
    cumulative = float(scheduler.alphas_cumprod.double()[500])
    return cumulative**0.5, (1 - cumulative) ** 0.5


def test_the_promises_of_every_algorithm():
    check_algorithm(
        VSD(), lambda size: scene_context(scene_model(lora_rank=2), micro_batch=size), views()
    )


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_both_gradients_by_hand(weight):
    """Of the scenes: (1) with epsilon_hat - epsilon_phi = -B A x_t. Of A and B: (2), from the
    gradient of its least squares by the matrix B A."""
    prior = GaussianPrior()
    model = scene_model(prior, lora_rank=2)
    ctx, batch = scene_context(model, jitter=0.0), views()
    found = dict(
        zip(
            dict(model.trainable.named_parameters()),
            gradients_of(VSD(lora_weight=weight, **HALF), ctx, batch),
        )
    )
    b, a = (model.trainable.get_parameter(f"lora.mix/lora_{x}/default/weight") for x in "BA")
    cond = model.encode(batch)
    clean = model.to_prior(model.sample(cond))
    epsilon = ctx.noise(batch).draw("noising", (3, 8, 8))
    state = (prior.alpha * clean + prior.sigma * epsilon).detach()
    matrix = (b @ a).detach()
    pull = -torch.einsum("ij,bjhw->bihw", matrix, state)
    expected = gradient(model, (prior.sigma**2 * pull * clean).sum() / len(batch))
    own = torch.cat([found[name].flatten() for name in found if not name.startswith("lora")])
    assert torch.allclose(own, expected, atol=1e-12) and expected.abs().max() > 1e-3
    error = prior.shrink * state - pull - epsilon
    by_matrix = 2 * torch.einsum("bihw,bjhw->ij", error, state) / (len(batch) * 3 * 8 * 8)
    for name, value in {"A": b.T @ by_matrix, "B": by_matrix @ a.T}.items():
        own = found[f"lora.mix/lora_{name}/default/weight"]
        assert torch.allclose(own, weight * value, atol=1e-12) and value.abs().max() > 1e-3


def flat_scenes(prior, spread, count=48):
    """Scenes that are one colour each, all over the picture; only the colours are to learn."""
    model = GaussianScene(
        prior, scenes=count, gaussians=1, size=prior.size, scale=100.0, opacity=0.999, lora_rank=3
    )
    model.trainable.double()
    noise = torch.randn(count, 1, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # A picture is 0.99 of the colour, the largest alpha, and black behind it.
        pixel = ((1 + spread * noise.double().clamp(-2, 2)) / 2 / 0.99).clamp(0.01, 0.99)
        model.trainable.colour.copy_(pixel.logit())
    return model


def colours(model):
    """Of all scenes, `(S, 3)`, as the prior sees them."""
    return (2 * 0.99 * model.trainable.colour.sigmoid() - 1)[:, 0].detach()


def trained(algorithm, spread, steps=150):
    """(scenes, prior) after so many steps, in which the adapter keeps up with the colours."""
    prior = GaussianPrior(size=4)
    model = flat_scenes(prior, spread)
    ctx, count = scene_context(model, jitter=0.0), model.scenes
    table = model.trainable
    rates = [
        {"params": [table.colour], "lr": 3e-2},
        {"params": table.lora.parameters(), "lr": 5e-2},
    ]
    optimizer = torch.optim.Adam(rates, betas=(0.5, 0.99))
    columns = {"scene": torch.arange(count), "azimuth": torch.zeros(count)}
    columns["label"] = torch.zeros(count, dtype=torch.long)
    for step in range(steps):
        ctx.start_step(step)
        ids = tuple(f"scene{i}" for i in range(count))
        optimizer.zero_grad()
        for loss in algorithm.losses(ctx, Batch(ids, (step,) * count, columns)):
            loss.backward()
        optimizer.step()
    return model, prior


@pytest.mark.parametrize("spread", [0.1, 0.7])
def test_scenes_spread_as_a_gaussian_prior_does(spread):
    """The adapter's best matrix is sigma (alpha^2 C + sigma^2)^-1 with C = E[x x^T] over scenes, by
    least squares; so (1) vanishes where C = SPREAD^2."""
    model, prior = trained(VSD(**HALF), spread)
    x = colours(model)
    second = x.T @ x / len(x)
    assert second.diagonal().sqrt().tolist() == pytest.approx([SPREAD] * 3, rel=0.05)
    a, b = (model.trainable.get_parameter(f"lora.mix/lora_{x}/default/weight") for x in "AB")
    learned = (prior.shrink * torch.eye(3) + b @ a).detach()
    best = prior.sigma * torch.linalg.inv(prior.alpha**2 * second + prior.sigma**2 * torch.eye(3))
    assert float((learned - best).norm() / best.norm()) < 0.02


def test_sds_knows_no_spread():
    """The same scenes all go to the mean, 0."""
    collapsed, _ = trained(SDS(**HALF), spread=0.4, steps=100)
    assert float(colours(collapsed).square().mean().sqrt()) < 0.05


def test_the_adapter_works_inside_alone():
    prior = TinyModel(width=8)
    plain = TinyModel(width=8)
    model = scene_model(prior, lora_rank=2)
    plain.trainable.double()
    x, cond = torch.randn(2, 3, 8, 8).double(), {"label": torch.tensor([0, 1])}
    t = torch.tensor([100.0, 700.0])
    expected = plain.denoise(x, t, cond)
    assert torch.equal(prior.denoise(x, t, cond), expected)
    with pytest.raises(ZeroDivisionError), model.adapted():
        assert not torch.allclose(prior.denoise(x, t, cond), expected)
        raise ZeroDivisionError
    assert torch.equal(prior.denoise(x, t, cond), expected)


def test_what_is_trained_is_what_the_prior_computes_with():
    """Also after a move: the table and the network share their tensors."""
    model = scene_model(lora_rank=2)
    model.to(torch.device("cpu"))
    inside = {n: p for n, p in model.prior.trainable.named_parameters() if ".lora_" in n}
    table = dict(model.trainable.lora.named_parameters())
    assert {n.replace(".", "/"): id(p) for n, p in inside.items()} == {
        n: id(p) for n, p in table.items()
    }
    assert len(table) == 2 * len(TinyModel.lora_targets)


def test_an_adapter_begins_as_the_prior_and_the_same_each_time():
    first, second = (
        GaussianScene(TinyModel(width=8), scenes=1, gaussians=2, size=8, lora_rank=2, seed=4)
        for _ in range(2)
    )
    for own, other in zip(first.trainable.lora.parameters(), second.trainable.lora.parameters()):
        assert torch.equal(own, other)
    x, cond = torch.randn(1, 3, 8, 8), {"label": torch.tensor([0])}
    before = first.prior.denoise(x, torch.tensor([300.0]), cond)
    with first.adapted():
        assert torch.equal(first.prior.denoise(x, torch.tensor([300.0]), cond), before)


def test_the_adapter_is_asked_without_guidance():
    prior = TinyModel(width=8, guidance=3.0)
    model = scene_model(prior, lora_rank=2)
    seen = []
    denoise = model.denoise
    layer = model.lora.layers[0]

    def noted(x, t, cond):
        seen.append((prior.guidance, not layer._disable_adapters))
        return denoise(x, t, cond)

    model.denoise = noted
    gradients_of(VSD(), scene_context(model), views())
    assert seen == [(3.0, False), (1.0, True)] and prior.guidance == 3.0


def test_a_prior_without_linear_layers_is_refused():
    prior = GaussianPrior()
    prior.trainable, prior.lora_targets = torch.nn.Conv2d(3, 3, 1), None
    with pytest.raises(ComponentError) as caught:
        scene_model(prior, lora_rank=2)
    assert str(caught.value) == (
        "model.lora_rank needs a prior with linear layers or `lora_targets`; Conv2d has neither"
    )


def test_scenes_without_an_adapter_are_refused():
    with pytest.raises(ComponentError) as caught:
        gradients_of(VSD(), scene_context(scene_model()), views())
    assert str(caught.value) == (
        "gaussian_scene: the algorithm needs an adapter of the prior; set model.lora_rank, for "
        "instance to 4"
    )


SMALL = (
    "model.scenes=2",
    "model.gaussians=10",
    "data.scenes=2",
    "data.batch_size=4",
    "evaluate.samples=8",
    "train.steps=4",
    "train.log_every=1",
    "rewards=[]",
)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            ["algorithm={use: vsd}"],
            "--set algorithm={use: vsd}: vsd trains an adapter of the prior; write `model: "
            "{lora_rank: 4}`, or another rank.",
        ),
        (
            ["algorithm={use: sds}", "model.lora_rank=4"],
            "--set model.lora_rank=4: only the algorithm vsd trains an adapter of the prior; leave "
            "`lora_rank` out.",
        ),
    ],
)
def test_an_adapter_goes_with_vsd_alone(settings, problem, tmp_path):
    with pytest.raises(RecipeError) as caught:
        run_recipe(DIGITS, tmp_path / "run", *SMALL, *settings)
    assert str(caught.value) == f"{DIGITS}: 1 problem\n  - {problem}"


def test_a_run_goes_on_bit_for_bit_with_adapter_and_densification(tmp_path):
    check_resume(
        DIGITS,
        tmp_path,
        *SMALL,
        "save.every=1",
        "algorithm={use: vsd}",
        "model.lora_rank=2",
        "model.densify={every: 2, start: 5, above: 0.5}",
        stop=3,
    )


def test_the_adapter_has_a_learning_rate_of_its_own(tmp_path):
    run = run_recipe(DIGITS, tmp_path / "run", *SMALL, "algorithm={use: vsd}", "model.lora_rank=2")
    assert run.column("learning_rate/lora") == pytest.approx([3e-4] * 4)
    assert run.column("learning_rate/position") == pytest.approx([1e-2] * 4)
    # Per picture: the prior, and its adapter with a backward pass.
    assert run.summary["denoiser_forward_samples"] == 4 * 4 * 2
    assert run.summary["denoiser_backward_samples"] == 4 * 4
