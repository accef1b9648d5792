"""U-Nets on pixels: classes, guidance, new and trained weights."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from rewardft_plugins.text2image.class_conditional import ClassConditionalUNet
from rewardft_plugins.text2image.unet import UnconditionalUNet

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.samplers.ddim import DDIM
from rewardft.testing import run_recipe
from rewardft.types import Batch, Plan
from tests.shipped.text2image import checkpoints
from tests.shipped.text2image.checkpoints import CLASSES, PIXEL_UNET

NOISE = Noise(0, ["a", "b"], [0, 0])
LABELS = Batch(("a", "b"), (0, 0), {"label": torch.tensor([0, 2])})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.class_conditional(tmp_path_factory.mktemp("unet"))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_rollout_equals_the_schedulers_own_loop(folder, guidance):
    model = ClassConditionalUNet(weights=str(folder), guidance=guidance)
    sampler = DDIM(5)
    sampler.setup(model)
    network, scheduler = (
        UNet2DModel.from_pretrained(folder, subfolder="unet"),
        DDIMScheduler.from_pretrained(folder, subfolder="scheduler"),
    )
    scheduler.set_timesteps(5)
    x = NOISE.draw("initial", (3, 8, 8))
    with torch.no_grad():
        ours = sampler.rollout(model, model.encode(LABELS), Plan(stop=5), NOISE).x0
        for t in scheduler.timesteps:
            output = network(x, t, class_labels=LABELS["label"]).sample
            null = network(x, t, class_labels=torch.full((2,), CLASSES)).sample
            x = scheduler.step(null + guidance * (output - null), t, x).prev_sample
    assert float((ours - x).abs().max() / x.std()) < 1e-4


def test_labels_are_checked(folder):
    model = ClassConditionalUNet(weights=str(folder))
    for labels, said in (([0, 5], "[0, 5]"), ([-1, 0], "[-1, 0]"), ([0.0, 1.5], "[0.0, 1.5]")):
        with pytest.raises(ComponentError) as error:
            model.encode(Batch(("a", "b"), (0, 0), {"label": torch.tensor(labels)}))
        assert str(error.value) == f"labels must be whole numbers from 0 to 4, got {said}"
    with pytest.raises(ComponentError) as error:
        model.encode(Batch(("a",), (0,), {"prompt": ["a dog"]}))
    assert str(error.value) == (
        "class_conditional_unet needs a column `label` of whole numbers, and the data set gives: prompt. "
        "The data set `class_labels` has one."
    )


def test_a_network_without_classes_is_refused():
    with pytest.raises(ComponentError) as error:
        ClassConditionalUNet(config=PIXEL_UNET)
    assert str(error.value) == (
        "class_conditional_unet: the network has no class embedding (num_class_embeds is not set); "
        "use `unconditional_unet`"
    )


def test_weights_and_config_exclude_each_other(folder):
    for options in (
        {},
        {"weights": str(folder), "config": PIXEL_UNET},
        {"weights": str(folder), "schedule": {"flow": True}},
    ):
        with pytest.raises(ComponentError) as error:
            UnconditionalUNet(**options)
        assert str(error.value) == (
            "UnconditionalUNet: expected `weights` alone, or `config` (and `schedule`) for random weights"
        )


def test_the_oldest_layout_has_everything_at_the_top(tmp_path):
    network = UNet2DModel(**PIXEL_UNET)
    network.save_pretrained(tmp_path)
    DDIMScheduler().save_pretrained(tmp_path)
    model = UnconditionalUNet(weights=str(tmp_path), subfolders=False)
    x, t = NOISE.draw("x", (3, 8, 8)), torch.tensor([3, 900])
    with torch.no_grad():
        assert torch.equal(model.denoise(x, t, model.encode(LABELS)), network.eval()(x, t).sample)


RECIPE = (
    f"""\
plugins: [toy, text2image]
model:     {{use: class_conditional_unet, config: {{num_class_embeds: {CLASSES + 1}, """
    + ", ".join(f"{key}: {value}".replace("'", "") for key, value in PIXEL_UNET.items())
    + """}, schedule: {prediction_type: v_prediction, clip_sample: false}}
sampler:   {use: ddim, steps: 4}
data:      {use: toy_blobs, batch_size: 4}
rewards:   [{use: brightness}]
algorithm: {use: denoising, condition_dropout: 0.2}
adapter:   {kind: full}
optimizer: {use: adamw, lr: 1e-3}
train:     {steps: 3}
evaluate:  {samples: 8, data: {split: val}, rewards: [{use: brightness}]}
"""
)


def test_a_network_is_trained_from_nothing_and_fine_tuned_from_its_file(tmp_path):
    """Full weights that one recipe wrote are the base of the next: its first evaluation is the last of the other."""
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    base = run_recipe(path, tmp_path / "base", "rewards=[]")
    tuned = run_recipe(
        path,
        tmp_path / "tuned",
        f"model.trained={tmp_path / 'base/adapter/model.safetensors'}",
        "algorithm={use: drtune, early_stop: 2}",
        "adapter={kind: lora, rank: 2}",
        "train.checkpointing=true",
    )
    assert base.column("loss")[-1] != base.column("loss")[0]
    assert tuned.summary["evaluation"][0]["before"] == pytest.approx(
        base.summary["evaluation"][0]["after"], abs=1e-5
    )
    assert tuned.summary["evaluation"][0]["after"] != tuned.summary["evaluation"][0]["before"]


def test_a_trained_file_that_does_not_fit_is_refused(folder):
    with pytest.raises(ComponentError) as error:
        UnconditionalUNet(config=PIXEL_UNET, trained="nowhere.safetensors")
    assert (
        str(error.value)
        == "trained: expected a file such as RUN/adapter/model.safetensors, got 'nowhere.safetensors'"
    )
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ComponentError) as error:
        UnconditionalUNet(config=PIXEL_UNET, trained=str(file))
    assert str(error.value).startswith(f"trained: {file} does not fit the network of the recipe.\n")


def test_random_weights_depend_on_the_seed_alone():
    torch.manual_seed(0)
    first = UnconditionalUNet(config=PIXEL_UNET, seed=3)
    torch.manual_seed(1)
    again, other = (
        UnconditionalUNet(config=PIXEL_UNET, seed=3),
        UnconditionalUNet(config=PIXEL_UNET, seed=4),
    )
    same = [
        torch.equal(a, b)
        for a, b in zip(first.trainable.parameters(), again.trainable.parameters())
    ]
    assert all(same)
    assert not torch.equal(first.trainable.conv_in.weight, other.trainable.conv_in.weight)
