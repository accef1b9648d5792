"""Set-level metrics against second computations in numpy: pair by pair, pixel by pixel."""

import colorsys
import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rewardft_plugins.metrics import diversity
from rewardft_plugins.metrics.diversity import Diversity
from rewardft_plugins.metrics.image_statistics import ImageStatistics

from rewardft import Batch
from rewardft.errors import ComponentError
from rewardft.testing import make_rollout, run_recipe


def batch_of(ids, **columns):
    return Batch(tuple(f"s{i}" for i in ids), (0,) * len(ids), columns)


def measure(metric, x0, decode=None, size=3, order=None, **columns):
    """The metric of samples that come in batches of `size`, in some order."""
    order = list(range(len(x0))) if order is None else order
    metric.reset()
    for start in range(0, len(order), size):
        rows = order[start : start + size]
        batch = batch_of(
            rows, **{name: [values[i] for i in rows] for name, values in columns.items()}
        )
        metric.update(make_rollout(x0[rows], batch, decode), batch)
    return metric.compute()


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- diversity -------------------------------------------------------------------------------------------------------


def pairwise(vectors, rows):
    """Mean RMS difference over the pairs of these rows, one pair after the other."""
    values = [
        np.sqrt(np.mean((vectors[i] - vectors[j]) ** 2)) for i, j in itertools.combinations(rows, 2)
    ]
    return np.mean(values)


def test_diversity_is_the_mean_over_pairs_and_over_the_pairs_of_a_group():
    x0, groups = random(11, 2, 3, 4), ["a", "b", "a", "c", "a", "b", "b", "d", "a", "c", "b"]
    found = measure(Diversity(), x0, decode=lambda x: x.square().flatten(1), group=groups)
    latents = x0.numpy().reshape(11, -1).astype(np.float64)
    rows = [
        [i for i, g in enumerate(groups) if g == name] for name in "abc"
    ]  # d has one sample: no pair
    for name, vectors in (("latents", latents), ("pixels", latents**2)):
        assert found[name] == pytest.approx(pairwise(vectors, range(11)), rel=1e-6)
        assert found[f"{name}_within_group"] == pytest.approx(
            np.mean([pairwise(vectors, r) for r in rows]), rel=1e-6
        )
    assert set(found) == {"latents", "latents_within_group", "pixels", "pixels_within_group"}


def test_diversity_depends_neither_on_batches_nor_on_their_order_nor_on_blocks(monkeypatch):
    x0, groups = random(37, 5), [f"g{i % 4}" for i in range(37)]
    expected = measure(Diversity(["latents"]), x0, size=37, group=groups)
    order = torch.randperm(37, generator=torch.Generator().manual_seed(1)).tolist()
    assert measure(Diversity(["latents"]), x0, size=5, order=order, group=groups) == pytest.approx(
        expected, rel=1e-6
    )
    monkeypatch.setattr(diversity, "CHUNK", 4)
    assert measure(Diversity(["latents"]), x0, size=5, order=order, group=groups) == pytest.approx(
        expected, rel=1e-6
    )


def test_diversity_of_twins_is_zero_and_of_one_sample_unknown():
    twins = random(1, 40).expand(6, 40) * 100
    assert measure(Diversity(["latents"]), twins) == {"latents": 0.0}
    assert math.isnan(measure(Diversity(["latents"]), twins[:1])["latents"])


def test_diversity_is_unbiased_for_any_number_of_samples():
    """Two numbers of a uniform distribution are 1/3 apart; sets of 2 and of 6 agree on it."""
    for count in (2, 6):
        means = [
            measure(Diversity(["latents"]), random(count, 1, seed=s), size=count)["latents"]
            for s in range(2000)
        ]
        assert np.mean(means) == pytest.approx(1 / 3, abs=4 * np.std(means) / 2000**0.5)


def test_diversity_groups_by_prompt_where_there_is_no_group_and_by_any_column_on_request():
    x0 = random(4, 3)
    prompts, seeds = ["x", "x", "y", "y"], [1, 2, 1, 2]
    by_prompt = measure(Diversity(["latents"]), x0, prompt=prompts)["latents_within_group"]
    by_seed = measure(Diversity(["latents"], group_by="seed"), x0, prompt=prompts, seed=seeds)[
        "latents_within_group"
    ]
    vectors = x0.numpy().astype(np.float64)
    assert by_prompt == pytest.approx(
        (pairwise(vectors, [0, 1]) + pairwise(vectors, [2, 3])) / 2, rel=1e-6
    )
    assert by_seed == pytest.approx(
        (pairwise(vectors, [0, 2]) + pairwise(vectors, [1, 3])) / 2, rel=1e-6
    )
    with pytest.raises(ComponentError) as error:
        measure(Diversity(group_by="colour"), x0, prompt=prompts)
    assert (
        str(error.value)
        == "diversity: group_by names the column 'colour', and the data set gives only: prompt"
    )


def test_diversity_says_what_it_cannot_measure():
    batch = batch_of([0, 1])
    with pytest.raises(ComponentError) as error:
        Diversity().update(make_rollout(random(2, 3), batch, decode=lambda x: {"mesh": x}), batch)
    assert str(error.value) == (
        "diversity: the space 'pixels' needs decoded samples that are tensors, got dict. Leave it out with the option "
        "`spaces`."
    )
    with pytest.raises(ComponentError) as error:
        Diversity(["latents"]).update(make_rollout([1, 2], batch), batch)
    assert str(error.value) == (
        "diversity: the space 'latents' needs finished samples that are tensors, got list. Leave it out with the option "
        "`spaces`."
    )
    with pytest.raises(ComponentError) as error:
        Diversity([])
    assert (
        str(error.value)
        == "diversity has nothing to measure: name a space, or a folder in `features`"
    )


# -- features --------------------------------------------------------------------------------------------------------


@pytest.fixture
def vision(tmp_path):
    """A tiny ViT with random weights, as `save_pretrained` writes it."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
    )
    torch.manual_seed(0)
    transformers.ViTModel(config).eval().save_pretrained(tmp_path / "vit")
    facts = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(facts))
    return tmp_path / "vit"


def test_feature_diversity_is_the_cosine_distance_of_the_models_own_output(vision):
    """Pictures of the model's size, so that nothing is resized."""
    from transformers import ViTModel

    pictures = random(5, 3, 8, 8)
    found = measure(Diversity([], features=vision), pictures)
    mean, std = (
        np.array([0.5, 0.4, 0.3]).reshape(3, 1, 1),
        np.array([0.2, 0.3, 0.4]).reshape(3, 1, 1),
    )
    pixels = torch.from_numpy((pictures.numpy() - mean) / std).float()
    with torch.no_grad():
        features = (
            ViTModel.from_pretrained(vision)
            .eval()(pixel_values=pixels)
            .pooler_output.numpy()
            .astype(np.float64)
        )
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = np.mean([1 - unit[i] @ unit[j] for i, j in itertools.combinations(range(5), 2)])
    assert found == {"features": pytest.approx(expected, rel=1e-4)} and expected > 1e-3


def test_features_take_grey_multi_view_and_larger_pictures(vision):
    metric = Diversity([], features=vision)
    grey = random(4, 1, 20, 12)
    assert measure(metric, grey) == pytest.approx(
        measure(metric, grey.expand(-1, 3, -1, -1)), rel=1e-4
    )
    views = random(4, 2, 3, 8, 8)
    assert metric.extractor(views).shape == (4, 2 * 16)
    assert torch.allclose(metric.extractor(views)[:, 16:], metric.extractor(views[:, 1]), atol=1e-6)


def test_features_of_tokens_and_of_maps_are_means_over_positions(vision):
    extractor = Diversity([], features=vision).extractor
    maps = random(2, 5, 3, 4)  # (n, channels, h, w), as a convolutional network has them

    def of(state):
        extractor.model = lambda pixel_values: SimpleNamespace(last_hidden_state=state)
        return extractor._features(torch.zeros(2, 3, 8, 8))

    assert torch.allclose(of(maps), maps.mean((2, 3)))
    assert torch.allclose(of(maps.flatten(2).transpose(1, 2)), maps.mean((2, 3)))


def test_a_folder_without_a_vision_model_is_refused(vision, tmp_path):
    with pytest.raises(ComponentError) as error:
        Diversity(features=tmp_path / "nothing")
    assert str(error.value) == (
        f"diversity: {tmp_path}/nothing/preprocessor_config.json cannot be read (FileNotFoundError). `features` is the "
        "folder of a transformers vision model with its preprocessor_config.json, as `save_pretrained` writes them."
    )
    (vision / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ComponentError) as error:
        Diversity(features=vision)
    assert str(error.value) == (
        f"diversity: {vision}/preprocessor_config.json has no list image_mean and no list image_std: the mean and "
        "deviation of pixels"
    )
    (vision / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    (vision / "model.safetensors").unlink()
    with pytest.raises(
        ComponentError, match=rf"^diversity: the vision model in {vision} cannot be loaded: "
    ):
        Diversity(features=vision)


# -- image statistics --------------------------------------------------------------------------------------------------


def slow_statistics(picture, levels=8, threshold=0.1):
    """One picture `(c, h, w)`, pixel by pixel, with colorsys for saturation."""
    c, h, w = picture.shape
    luma = picture[0] if c == 1 else 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
    pixels = [tuple(picture[:, y, x]) * (3 if c == 1 else 1) for y in range(h) for x in range(w)]
    edges = []
    for y, x in itertools.product(range(1, h - 1), range(1, w - 1)):
        block = luma[y - 1 : y + 2, x - 1 : x + 2]
        across = (block[:, 2] - block[:, 0]) @ [1, 2, 1] / 8
        down = (block[2] - block[0]) @ [1, 2, 1] / 8
        edges.append(math.hypot(across, down) > threshold)
    colours = [tuple(min(int(v * levels), levels - 1) for v in pixel) for pixel in pixels]
    shares = [colours.count(colour) / len(colours) for colour in set(colours)]
    return {
        "brightness": np.mean(luma),
        "contrast": np.sqrt(np.mean((luma - np.mean(luma)) ** 2)),
        "saturation": np.mean([colorsys.rgb_to_hsv(*pixel)[1] for pixel in pixels]),
        "edge_density": np.mean(edges),
        "colour_entropy": -sum(share * math.log2(share) for share in shares),
    }


def smooth(*shape):
    """Pictures with flat and steep parts, black and white pixels among them."""
    rough = torch.nn.functional.interpolate(
        random(*shape[:2], 4, 4, seed=0), shape[-2:], mode="bilinear"
    )
    return (1.6 * rough - 0.3).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_image_statistics_are_those_of_a_second_computation(channels):
    pictures = smooth(7, channels, 12, 9)
    found = measure(ImageStatistics(), pictures)
    expected = [slow_statistics(picture.astype(np.float64)) for picture in pictures.numpy()]
    for name, values in found.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected], abs=1e-5), name
        assert len(set(values.tolist())) > 3 or (channels == 1 and name == "saturation")
    assert list(found) == list(expected[0])


def test_image_statistics_of_plain_pictures():
    black, red, half = torch.zeros(3, 6, 6), torch.zeros(3, 6, 6), torch.zeros(3, 6, 6)
    red[0] = 1.0
    half[:, :, 3:] = 1.0  # white on the right: one edge, two pixels wide under Sobel's filter
    found = measure(ImageStatistics(), torch.stack([black, red, half]))
    assert found["brightness"].tolist() == pytest.approx([0, 0.299, 0.5], abs=1e-6)
    assert found["contrast"].tolist() == pytest.approx([0, 0, 0.5], abs=1e-6)
    assert found["saturation"].tolist() == [0, 1, 0]
    assert found["edge_density"].tolist() == [0, 0, 0.5]
    assert found["colour_entropy"].tolist() == [0, 0, 1]


def test_image_statistics_of_views_are_averaged_and_options_count():
    views = smooth(12, 3, 8, 8).unflatten(0, (4, 3))
    together = measure(ImageStatistics(), views, size=4)
    apart = [measure(ImageStatistics(), views[:, v], size=4) for v in range(3)]
    for name, values in together.items():
        assert torch.allclose(values, torch.stack([one[name] for one in apart]).mean(0), atol=1e-6)
    other = measure(ImageStatistics(edge_threshold=0.02, levels=16), views[:, 0])
    picture = views[0, 0].numpy().astype(np.float64)
    expected = slow_statistics(picture, levels=16, threshold=0.02)
    for name in ("edge_density", "colour_entropy"):
        assert float(other[name][0]) == pytest.approx(expected[name], abs=1e-5)
        assert float(other[name][0]) != float(apart[0][name][0])


def test_image_statistics_says_what_is_no_picture():
    start = (
        "image_statistics measures pictures: decoded samples (b, c, h, w) or (b, v, c, h, w) of 1 or 3 channels, got {}. "
        "Leave it out for this model."
    )
    for x0, got in (
        (random(2, 4, 8, 8), "shape (2, 4, 8, 8)"),
        (random(2, 3), "shape (2, 3)"),
        ([1, 2], "list"),
    ):
        batch = batch_of([0, 1])
        with pytest.raises(ComponentError) as error:
            ImageStatistics().update(make_rollout(x0, batch), batch)
        assert str(error.value) == start.format(got)
    with pytest.raises(ComponentError) as error:
        measure(ImageStatistics(), random(2, 3, 2, 5))
    assert (
        str(error.value)
        == "image_statistics: edges need pictures of at least 3x3 pixels, got (2, 5)"
    )
    with pytest.raises(ComponentError) as error:
        ImageStatistics(levels=1)
    assert str(error.value) == (
        "image_statistics: expected edge_threshold >= 0 and levels from 2 to 64, got 0.1 and 1"
    )


# -- in a run ----------------------------------------------------------------------------------------------------------


def test_a_run_lists_them_beside_its_rewards(tmp_path):
    (tmp_path / "recipe.yaml").write_text(
        "plugins: [toy, metrics]\nmodel: {use: toy, width: 8}\nsampler: {use: ddim, steps: 2}\n"
        "data: {use: toy_blobs, batch_size: 4}\nrewards: [{use: brightness}]\nalgorithm: {use: draft_k, train_steps: 1}\n"
        "optimizer: {lr: 1e-3}\ntrain: {steps: 1}\n"
        "evaluate: {samples: 8, metrics: [{use: diversity, spaces: [latents]}, {use: image_statistics, levels: 4}]}\n"
    )
    run = run_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    table = json.loads((run.folder / "evaluations" / "step-00000000.json").read_text())
    assert set(table["overall"]) == {"diversity/latents", "diversity/latents_within_group"}
    assert table["overall"]["diversity/latents"] > 0
    names = {
        f"image_statistics/{n}"
        for n in ("brightness", "contrast", "saturation", "edge_density", "colour_entropy")
    }
    assert set(table["per_sample"]) == {"reward/brightness", *names}
    assert all(len(table["per_sample"][name]) == 8 for name in names)
