"""Rewards on CLIP: values against the library's model and processor on tiny checkpoints of the real classes."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from PIL import Image
from rewardft_plugins.rewards.aesthetic import Aesthetic
from rewardft_plugins.rewards.text_image import ClipDirection, ClipScore, HpsV2, PickScore
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPProcessor

from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward
from rewardft.testing.rewards import make_rollout

from .checkpoints import EMBEDDING, SIZE, clip_tokenizer, image_processor, save_clip, save_head
from .pictures import batch_of, smooth_pictures

PROMPTS = ["a red fox", "rain", "an old house by the sea, very long indeed", "7 cups"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    save_clip(path)
    return path


@pytest.fixture(scope="module")
def pixels():
    return (smooth_pictures(4, 40, 48) * 255).round() / 255


@pytest.fixture(scope="module")
def batch():
    return batch_of(4, prompt=PROMPTS)


@pytest.fixture(scope="module")
def expected(folder, pixels):
    """(cosines, image embeddings, exp(logit_scale)) as the library computes them from 8-bit pictures."""
    model = CLIPModel.from_pretrained(folder, use_safetensors=True).eval()
    processor = CLIPProcessor(image_processor(), clip_tokenizer())
    pictures = [Image.fromarray((p.permute(1, 2, 0) * 255).round().byte().numpy()) for p in pixels]
    inputs = processor(
        text=PROMPTS,
        images=pictures,
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=24,
    )
    with torch.no_grad():
        output = model(**inputs)
    scale = model.logit_scale.exp().item()
    return output.logits_per_image.diagonal() / scale, output.image_embeds, scale


def score(reward, pixels, batch):
    with torch.no_grad():
        return reward(make_rollout(pixels, batch), batch)


def test_clip_score_is_the_librarys(folder, pixels, batch, expected):
    cosines = expected[0]
    assert cosines.std() > 0.05, "the tiny checkpoint tells images apart"
    percent = ClipScore(str(folder), quantise=True)
    assert torch.allclose(score(percent, pixels, batch), 100 * cosines, atol=1e-4)
    hessel = ClipScore(str(folder), form="hessel", quantise=True)
    assert torch.allclose(score(hessel, pixels, batch), 2.5 * cosines.clamp(min=0), atol=1e-5)
    assert (percent.range, hessel.range) == ((-100.0, 100.0), (0.0, 2.5))


def test_without_rounding_scores_are_close(folder, pixels, batch, expected):
    assert torch.allclose(score(ClipScore(str(folder)), pixels, batch), 100 * expected[0], atol=0.5)


def test_pick_score_has_the_logit_scale(folder, pixels, batch, expected):
    reward = PickScore(str(folder), processor=None, quantise=True)
    assert torch.allclose(score(reward, pixels, batch), expected[2] * expected[0], atol=1e-4)


def test_hps_is_the_cosine_of_the_padded_image(folder, pixels, batch):
    """A square of CLIP's own size needs neither resizing nor borders: there it is CLIP's cosine."""
    square = pixels[..., :SIZE, :SIZE]
    cropped, padded = ClipScore(str(folder), quantise=True), HpsV2(str(folder), quantise=True)
    assert torch.allclose(
        100 * score(padded, square, batch), score(cropped, square, batch), atol=1e-4
    )
    assert not torch.allclose(
        100 * score(padded, pixels, batch), score(cropped, pixels, batch), atol=0.5
    )


def test_aesthetic_is_a_stack_of_linear_layers_on_the_embedding(
    folder, pixels, batch, expected, tmp_path
):
    tensors = save_head(tmp_path / "head.safetensors")
    value = expected[1]
    for number in (0, 2, 4):
        value = value @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
    reward = Aesthetic(str(tmp_path / "head.safetensors"), clip=str(folder), quantise=True)
    assert torch.allclose(score(reward, pixels, batch), value.squeeze(1), atol=1e-4)


def test_the_first_predictor_has_one_layer(folder, pixels, batch, expected, tmp_path):
    weight, bias = (
        torch.randn(1, EMBEDDING, generator=torch.Generator().manual_seed(0)),
        torch.tensor([5.0]),
    )
    save_file({"weight": weight, "bias": bias}, tmp_path / "model.safetensors")
    reward = Aesthetic(str(tmp_path), clip=str(folder), quantise=True)
    assert torch.allclose(
        score(reward, pixels, batch), (expected[1] @ weight.T + bias).squeeze(1), atol=1e-4
    )


@pytest.mark.parametrize("name", ["clip_score", "pick_score", "hps_v2", "aesthetic"])
def test_rewards_on_clip_keep_the_contract(name, folder, pixels, batch, tmp_path):
    save_head(tmp_path / "model.safetensors")
    build = {
        "clip_score": lambda: ClipScore(str(folder)),
        "pick_score": lambda: PickScore(str(folder), processor=None),
        "hps_v2": lambda: HpsV2(str(folder)),
        "aesthetic": lambda: Aesthetic(str(tmp_path), clip=str(folder)),
    }
    reward = build[name]()
    report = check_reward(
        reward, pixels.clamp(0.05, 0.95), batch, differentiable=True, tolerance=1e-3
    )
    low, high = reward.range
    assert low <= report.low < report.high <= high and report.gradient_error < 0.05
    assert "reward_gradient" in reward.provides and reward.space == "pixels"
    assert (
        all(not p.requires_grad and p.grad is None for p in reward.parameters())
        and not reward.training
    )


def test_half_precision_keeps_values_near_and_gradients_finite(folder, pixels, batch):
    leaf = pixels.clone().requires_grad_()
    half = ClipScore(str(folder), precision="bfloat16")
    value = half(make_rollout(leaf, batch), batch)
    assert value.dtype == torch.float32
    assert (value - score(ClipScore(str(folder)), pixels, batch)).abs().max() < 5
    (slope,) = torch.autograd.grad(value.sum(), leaf)
    assert torch.isfinite(slope).all() and slope.any()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_data_set_without_prompts_is_explained(folder, pixels):
    with pytest.raises(RewardError) as caught:
        score(ClipScore(str(folder)), pixels, batch_of(4, caption=PROMPTS, label=[0, 1, 2, 3]))
    assert str(caught.value) == (
        "clip_score compares images with the text in batch['prompt'], and the data set gives only: caption, label. "
        "Name the column of the prompts with the option `column`."
    )


def test_pickled_weights_are_never_read(tmp_path):
    model = save_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ComponentError) as caught:
        ClipScore(str(tmp_path))
    message = str(caught.value)
    assert message.startswith(
        f"clip_score: the CLIP weights of {str(tmp_path)!r} cannot be loaded: OSError: "
    )
    assert "model.safetensors" in message
    assert message.endswith(
        "Expected a folder or a hub id with safetensors weights and their configuration."
    )


@pytest.mark.parametrize("name", ["head.pth", "head.bin"])
def test_a_pickled_head_is_never_read(name, folder, tmp_path):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(ComponentError) as caught:
        Aesthetic(str(tmp_path / name), clip=str(folder))
    assert str(caught.value) == (
        f"aesthetic: {tmp_path / name} is not a .safetensors file. Other formats can run code when they are read; "
        f"docs/rewards.md says how to convert published weights once."
    )


def test_a_truncated_head_is_explained(folder, tmp_path):
    path = tmp_path / "head.safetensors"
    save_head(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(
        ComponentError,
        match=r"aesthetic: .*head\.safetensors cannot be read as safetensors \(truncated\?\)",
    ):
        Aesthetic(str(path), clip=str(folder))


def test_a_missing_head_is_explained(folder, tmp_path):
    with pytest.raises(ComponentError) as caught:
        Aesthetic(str(tmp_path / "nowhere.safetensors"), clip=str(folder))
    assert str(caught.value) == (
        f"aesthetic: expected a .safetensors file, a folder with model.safetensors, or a hub id (owner/name); "
        f"{str(tmp_path / 'nowhere.safetensors')!r} does not exist."
    )


def test_a_head_for_another_clip_is_explained(folder, tmp_path):
    save_head(tmp_path / "model.safetensors", sizes=(24, 8, 1), numbers=(0, 2))
    with pytest.raises(ComponentError) as caught:
        Aesthetic(str(tmp_path), clip=str(folder))
    assert str(caught.value) == (
        f"aesthetic: the head {tmp_path / 'model.safetensors'} reads embeddings of 24 numbers, the CLIP {str(folder)!r} "
        f"gives 16. LAION's published heads of 768 go with CLIP ViT-L/14."
    )


def test_a_head_whose_layers_do_not_fit_is_explained(folder, tmp_path):
    tensors = {
        "layers.0.weight": torch.zeros(8, 16),
        "layers.2.weight": torch.zeros(2, 9),
        "scale": torch.zeros(1),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ComponentError) as caught:
        Aesthetic(str(tmp_path), clip=str(folder))
    assert str(caught.value) == (
        f"aesthetic: {tmp_path / 'model.safetensors'} is not a head of linear layers: "
        f"layers.2.weight reads 9 numbers, the layer before gives 8; unexpected tensor scale; "
        f"the last layer gives 2 numbers, expected 1"
    )


# -- hub ids -----------------------------------------------------------------------------------------------------------

OFFLINE = """
import torch
from rewardft.errors import ComponentError
from rewardft_plugins.rewards.aesthetic import Aesthetic
from rewardft_plugins.rewards.text_image import ClipScore

first = ClipScore("owner/tiny", revision="1" * 40).clip.model.visual_projection.weight
second = ClipScore("owner/tiny").clip.model.visual_projection.weight
head = Aesthetic("owner/head", head_revision="v1", clip="owner/tiny").head
print(first.sum().item(), second.sum().item(), len(head))
try:
    ClipScore("owner/tiny", revision="3" * 40)
except ComponentError as error:
    print(str(error).partition(": OSError")[0])
"""


def add_to_cache(cache, name, commit, reference, save):
    snapshot = cache / f"models--owner--{name}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    pointer = snapshot.parent.parent / "refs" / reference
    pointer.parent.mkdir(exist_ok=True)
    pointer.write_text(commit)
    return save(snapshot)


def test_hub_ids_and_their_revisions_load_by_the_same_path(tmp_path):
    """The hub's own cache, filled by hand and read without a network."""
    first = add_to_cache(tmp_path, "tiny", "1" * 40, "old", lambda p: save_clip(p, seed=1))
    second = add_to_cache(tmp_path, "tiny", "2" * 40, "main", lambda p: save_clip(p, seed=2))
    add_to_cache(tmp_path, "head", "4" * 40, "v1", lambda p: save_head(p / "model.safetensors"))
    environment = os.environ | {
        "HF_HUB_CACHE": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", textwrap.dedent(OFFLINE)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    numbers, refusal = result.stdout.splitlines()
    sums = [model.visual_projection.weight.sum().item() for model in (first, second)]
    assert [float(n) for n in numbers.split()] == pytest.approx([*sums, 3])
    assert (
        refusal
        == f"clip_score: the CLIP weights of 'owner/tiny' (revision {'3' * 40}) cannot be loaded"
    )


def test_clip_direction_is_the_librarys_cosine(folder, pixels):
    """cos(E(sample) - E(picture), E(target) - E(source)), from the library's own embeddings."""
    model = CLIPModel.from_pretrained(folder, use_safetensors=True).eval()
    processor = CLIPProcessor(image_processor(), clip_tokenizer())

    def images(values):
        pictures = [
            Image.fromarray((p.permute(1, 2, 0) * 255).round().byte().numpy()) for p in values
        ]
        inputs = processor(images=pictures, return_tensors="pt")
        return model(**inputs, **texts(PROMPTS)).image_embeds

    def texts(prompts):
        cut = {"padding": True, "truncation": True, "max_length": 24}
        return processor(text=prompts, return_tensors="pt", **cut)

    def embed(prompts):
        blank = processor(images=[Image.new("RGB", (16, 16))], return_tensors="pt")
        return model(**blank, **texts(prompts)).text_embeds

    before, after = pixels.roll(1, 0), PROMPTS[::-1]
    with torch.no_grad():
        moved, wanted = images(pixels) - images(before), embed(after) - embed(PROMPTS)
    expected = torch.nn.functional.cosine_similarity(moved, wanted, dim=1)
    edits = batch_of(4, image=before, source=PROMPTS, target=after)
    reward = ClipDirection(str(folder), quantise=True)
    value = reward(make_rollout(pixels, edits), edits)
    assert torch.allclose(value, expected, atol=1e-4)
    untouched = batch_of(4, image=pixels, source=PROMPTS, target=after)
    assert reward(make_rollout(pixels, untouched), untouched).abs().max() < 1e-3
    report = check_reward(ClipDirection(str(folder)), pixels, edits, differentiable=True)
    assert report.gradient_error < 0.05


def test_clip_direction_needs_pictures(folder, pixels):
    edits = batch_of(4, source=PROMPTS, target=PROMPTS)
    with pytest.raises(RewardError) as caught:
        ClipDirection(str(folder))(make_rollout(pixels, edits), edits)
    assert str(caught.value) == (
        "clip_direction compares with the pictures in batch['image'], and the data set gives: source, target"
    )
