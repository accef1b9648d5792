"""The digits: images and their splits, the model, the two classifiers, the pairs, and short runs."""

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from rewardft_plugins.digits.classifiers import (
    Convolutional,
    DigitJudge,
    DigitLikelihood,
    Perceptron,
    quality,
)
from rewardft_plugins.digits.data import DigitClasses, DigitImages, half, load_images, split_images
from rewardft_plugins.digits.model import DigitUNet
from rewardft_plugins.digits.pairs import DigitPairs
from rewardft_plugins.digits.weights import ASSETS, load_weights
from safetensors.torch import load_file

from rewardft.errors import ComponentError, DataError
from rewardft.policy.batches import evaluation_batches
from rewardft.testing import check_reward
from rewardft.testing.rewards import make_rollout

RECIPES = files("rewardft_recipes")

pytest.importorskip(
    "sklearn", reason="the digits come with scikit-learn: pip install 'rewardft[digits]'"
)


def real_digits(size):
    """The first images of the held-out split as a batch, and their pixels."""
    (batch,) = evaluation_batches(DigitImages("val"), size, size)
    return batch, batch["image"]


def rows(images):
    return {tuple(image.flatten().tolist()) for image in images}


# -- data ------------------------------------------------------------------------------------------------------------


def test_the_images_are_scikit_learns():
    images = torch.cat(load_images())
    assert images.shape == (1797, 1, 8, 8) and images.min() == 0 and images.max() == 1
    assert [len(part) for part in load_images()] == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]


def test_halves_and_splits_share_no_image():
    odd, even = half(True)[0], half(False)[0]
    assert len(odd) + len(even) == 1797 and not rows(odd) & rows(even)
    train, val = (torch.cat(split_images(split)) for split in ("train", "val"))
    assert (len(train), len(val)) == (1390, 350) and not rows(train) & rows(val)


def test_classes_take_turns_and_ids_name_the_split():
    items = [DigitClasses(40, "val")[i] for i in (0, 13)]
    assert items == [
        {"id": "val/0", "label": 0, "group": "digit0"},
        {"id": "val/13", "label": 3, "group": "digit3"},
    ]
    assert torch.equal(DigitImages("val")[13]["image"], split_images("val")[3][1])
    with pytest.raises(IndexError):
        DigitClasses(40)[40]
    with pytest.raises(
        DataError,
        match=r"^expected the split train or val and at least one item, got 'test' and 4$",
    ):
        DigitClasses(4, "test")


# -- model -----------------------------------------------------------------------------------------------------------


def test_decoding_clamps_with_the_gradient_of_the_identity():
    x = torch.tensor([-1.5, -1.0, 0.0, 1.0, 3.0]).requires_grad_(True)
    pixels = DigitUNet(weights=None).decode(x)
    pixels.sum().backward()
    assert pixels.tolist() == [0, 0, 0.5, 1, 1] and x.grad.tolist() == [0.5] * 5


def test_clean_is_the_inverse_of_decode():
    batch, pixels = real_digits(20)
    model = DigitUNet(weights=None)
    assert torch.equal(model.decode(model.clean(batch)), pixels)


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_guidance_extrapolates_from_the_unconditional_prediction(prediction):
    model, x, t = DigitUNet(prediction), torch.randn(3, 1, 8, 8), torch.full((3,), 500)
    cond = {"label": torch.tensor([1, 2, 3])}
    with torch.no_grad():
        with_class, without = (
            model.denoise(x, t, cond),
            model.predict(x, t, {"label": torch.full((3,), 10)}),
        )
        model.guidance = 2.5
        guided = model.denoise(x, t, cond)
    torch.testing.assert_close(guided, without + 2.5 * (with_class - without))
    assert model.drop(cond, torch.tensor([True, False, True]))["label"].tolist() == [10, 2, 10]


def test_outside_guidance_has_no_gradient_in_the_unconditional_half():
    def gradient(**options):
        model = DigitUNet(**options)
        x = torch.ones(1, 1, 8, 8, requires_grad=True)
        model.denoise(x, torch.tensor([300]), {"label": torch.tensor([4])}).sum().backward()
        return x.grad

    outside, alone = gradient(guidance=2.0, guidance_gradient="outside"), gradient()
    torch.testing.assert_close(outside, 2 * alone)
    assert not torch.allclose(gradient(guidance=2.0), outside, rtol=1e-2)


def test_saved_weights_load_back(tmp_path):
    model = DigitUNet()
    model.save(tmp_path / "base.safetensors")
    again = DigitUNet(weights=str(tmp_path / "base.safetensors")).trainable.state_dict()
    assert all(
        torch.equal(value, again[name]) for name, value in model.trainable.state_dict().items()
    )


def test_mistakes_are_named(tmp_path):
    with pytest.raises(
        ComponentError,
        match=r"^prediction is one of epsilon, flow, got 'flwo'. Did you mean 'flow'\?$",
    ):
        DigitUNet("flwo")
    (batch,) = evaluation_batches(DigitClasses(4), 4, 4)
    batch.columns["label"][2] = 10
    with pytest.raises(
        ComponentError, match=r"^labels must be whole numbers from 0 to 9, got \[0, 1, 3, 10\]$"
    ):
        DigitUNet(weights=None).encode(batch)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    for name in ("x.safetensors", "missing.safetensors"):
        with pytest.raises(
            ComponentError, match=f"{name}: expected the weights of a UNet2DModel as safetensors"
        ):
            DigitUNet(weights=str(tmp_path / name))


# -- classifiers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "network", "odd"),
    [("likelihood", Convolutional(), True), ("judge", Perceptron(), False)],
)
def test_a_shipped_classifier_is_as_good_as_it_says_on_the_half_that_it_has_not_seen(
    name, network, odd
):
    load_weights(network, ASSETS / f"{name}.safetensors")
    stated = json.loads((ASSETS / "quality.json").read_text())[name]
    assert quality(network, not odd) == pytest.approx(stated, abs=1e-4)
    assert stated["accuracy"] > 0.97 and stated["log_prob"] > -0.12


def test_the_likelihood_keeps_the_contract_of_rewards():
    batch, pixels = real_digits(8)
    noisy = pixels + 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    report = check_reward(DigitLikelihood(), noisy, batch, differentiable=True)
    assert report.low < report.high <= 0 and report.not_applicable == 0


def test_reward_and_judge_agree_on_real_digits_and_on_wrong_labels():
    batch, pixels = real_digits(100)
    wrong = batch.to(torch.device("cpu"))
    wrong.columns["label"] = (wrong["label"] + 1) % 10
    reward, judge = DigitLikelihood(), DigitJudge()
    for labels, low, high in ((batch, 0.95, 1.0), (wrong, 0.0, 0.02)):
        rollout = make_rollout(pixels, labels)
        judge.reset()
        judge.update(rollout, labels)
        found = judge.compute()
        assert found["accuracy"].shape == found["log_prob"].shape == (100,)
        assert low <= float(found["accuracy"].mean()) <= high
        assert (float(reward(rollout, labels).mean()) > -0.2) == (low > 0.5)


def test_the_weights_stay_small():
    sizes = {path.name: path.stat().st_size for path in ASSETS.glob("*.safetensors")}
    assert sorted(sizes) == [
        "base_epsilon.safetensors",
        "base_flow.safetensors",
        "judge.safetensors",
        "likelihood.safetensors",
    ]
    assert (
        max(sizes.values()) <= 300_000
        and sizes["judge.safetensors"] + sizes["likelihood.safetensors"] <= 120_000
    )
    assert {
        str(t.dtype) for path in ASSETS.glob("*.safetensors") for t in load_file(path).values()
    } == {"torch.float16"}


# -- pairs -----------------------------------------------------------------------------------------------------------


def test_pairs_are_ordered_by_the_reward_and_repeatable():
    pairs, again = DigitPairs(30, steps=3), DigitPairs(30, steps=3, seed=0)
    (batch,) = evaluation_batches(pairs, 30, 30)
    reward = DigitLikelihood()
    better, worse = (
        reward(make_rollout(batch[side], batch), batch) for side in ("winner", "loser")
    )
    assert (better > worse).all() and float((better - worse).mean()) > 0.1
    assert torch.equal(again[7]["winner"], pairs[7]["winner"])
    assert not torch.equal(DigitPairs(30, steps=3, seed=1)[7]["winner"], pairs[7]["winner"])
    assert DigitPairs(30, "val", steps=3)[7] == {"id": "val/7", "label": 7, "group": "digit7"}


# -- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "overrides", "evaluations"),
    [
        ("digits_drtune", ["data.batch_size=32", "train.steps=16"], 512),
        ("digits_diffusion_dpo", ["data.size=128", "train.steps=10"], 0),
    ],
)
def test_a_short_run_raises_reward_and_judge(run_recipe, name, overrides, evaluations):
    size = ["evaluate.samples=64", "evaluate.batch_size=64"]
    run = run_recipe(Path(str(RECIPES / f"{name}.yaml")), *overrides, *size)
    rows = {row["name"]: row for row in run.summary["evaluation"]}
    for value in ("reward/digit_likelihood", "digit_judge/log_prob"):
        assert rows[value]["difference"] > rows[value]["half_width"] > 0, rows[value]
    assert (
        rows["digit_judge/accuracy"]["count"] == 64
        and run.summary["reward_evaluations"] == evaluations
    )
