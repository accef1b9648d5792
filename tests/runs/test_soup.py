"""Merged runs: the sum of the products against the weights themselves, lower ranks, refusals, whole runs."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import rewardft
from rewardft.cli import main
from rewardft.errors import CheckpointError, RewardftError
from rewardft.policy.merge import merge_full, merge_lora
from rewardft.runs.open import load_trained, open_run
from rewardft.runs.soup import soup
from rewardft.testing import run_recipe

RECIPE = """\
plugins: [rewardft.testing.tiny]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, size: 10, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2, alpha: 3}
optimizer: {use: adamw, lr: 3e-2}
train: {steps: 3}
evaluate: {samples: 4, data: {split: val}, kl: true}
"""
DARK = ["rewards=[{use: tiny_brightness, weight: -1, name: dark}]", "seed=1"]


def make(folder, name, *overrides):
    (folder / "recipe.yaml").write_text(RECIPE)
    return run_recipe(folder / "recipe.yaml", folder / name, *overrides).folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Bright and dark: other rewards, ranks and strengths on the same base."""
    folder = tmp_path_factory.mktemp("runs")
    bright = make(folder, "bright")
    return bright, make(folder, "dark", *DARK, "adapter={rank: 3, alpha: 1.5}")


@pytest.fixture(scope="module")
def full_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    sets = ["adapter={kind: full}", "optimizer.lr=1e-3"]
    return [make(folder, "bright", *sets), make(folder, "dark", *sets, *DARK)]


def layers(folder, trained=True):
    """What every adapted layer computes with, by name: W + s B A."""
    session = open_run(folder)
    if trained:
        load_trained(session, folder)
    found = {}
    for name, layer in session.model.trainable.named_modules():
        if hasattr(layer, "lora_A"):
            factors = (
                layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
            )
            found[name] = layer.weight.double() + layer.scaling["default"] * factors
    assert found
    return found


def assert_merged(target, runs, weights):
    base, parts, merged = (
        layers(runs[0], trained=False),
        [layers(run) for run in runs],
        layers(target),
    )
    for name, own in merged.items():
        expected = base[name] + sum(
            w * (part[name] - base[name]) for w, part in zip(weights, parts)
        )
        assert torch.allclose(own, expected, rtol=0, atol=1e-6), name


def test_every_layer_is_the_base_and_the_average_of_the_updates(runs, tmp_path):
    made = rewardft.soup(runs, tmp_path / "soup", [0.3, 0.7])
    assert (made.rank, made.lost, made.weights) == (5, 0.0, (0.3, 0.7))
    assert_merged(made.folder, runs, [0.3, 0.7])
    # The average of the factors would be another matrix, by much more than rounding.
    one, two = (load_file(run / "adapter" / "adapter_model.safetensors") for run in runs)
    name = next(n for n in one if ".lora_A." in n)
    other = name.replace(".lora_A.", ".lora_B.")
    products = [0.3 * 1.5 * one[other] @ one[name], 0.7 * 0.5 * two[other] @ two[name]]
    crossed = (0.3 * 1.5 * one[other]) @ one[name][:2] + (0.7 * 0.5 * two[other][:, :2]) @ one[name]
    assert (sum(products) - crossed).abs().max() > 1e-4


@pytest.mark.parametrize("weights", [[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]])
def test_the_weights_may_be_any_numbers(runs, tmp_path, weights):
    assert_merged(soup(runs, tmp_path / "soup", weights).folder, runs, weights)


def test_a_run_alone_is_itself(runs, tmp_path):
    """Weight 1 and 0: the same samples as the first run, and its evaluation."""
    made = soup(runs, tmp_path / "soup", [1.0, 0.0])
    first, merged = (rewardft.evaluate(folder) for folder in (runs[0], made.folder))
    for name, values in first.tuned.per_sample.items():
        assert merged.tuned.per_sample[name] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_the_merged_run_evaluates_the_rewards_of_all_and_can_be_merged_again(runs, tmp_path):
    made = soup(runs, tmp_path / "soup")
    assert made.weights == (0.5, 0.5)
    names = {row.name for row in rewardft.evaluate(made.folder).rows}
    assert {"reward/tiny_brightness", "reward/dark"} <= names
    again = soup([made.folder, runs[0]], tmp_path / "again", [0.5, 0.5])
    assert_merged(again.folder, runs, [0.75, 0.25])


def test_rewards_of_one_name_are_all_evaluated(tmp_path):
    """Both runs name their reward alike, with other options; the second one's gets its number."""
    sets = ["plugins=[rewardft.testing.tiny, toy]", "rewards=[{use: brightness}]", "train.steps=1"]
    bright = make(tmp_path, "bright", *sets)
    dark = make(tmp_path, "dark", *sets, "rewards.0.target=0.1", "rewards.0.weight=3")
    same = make(tmp_path, "same", *sets, "rewards.0.weight=2", "seed=1")
    made = soup([bright, dark, same], tmp_path / "soup")
    result = rewardft.evaluate(made.folder)
    names = [row.name for row in result.rows if row.name.startswith("reward/")]
    assert names == ["reward/brightness", "reward/brightness_2"]
    drawn = rewardft.sample(made.folder, count=4).drawn
    levels = drawn.tuned["decoded"].flatten(1).mean(1)
    for name, target in (("brightness", 0.9), ("brightness_2", 0.1)):
        values = result.tuned.per_sample[f"reward/{name}"]
        assert values == pytest.approx((-((levels - target) ** 2)).tolist(), rel=1e-4)


def test_a_lower_rank_is_the_nearest_matrix_and_says_what_it_loses():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    states = [
        {
            "x.lora_A.weight": draw(r, 7),
            "x.lora_B.weight": draw(6, r),
            "y.lora_A.weight": draw(r, 2, 3, 3),
            "y.lora_B.weight": draw(5, r, 1, 1),
        }
        for r in (3, 2)
    ]

    def products(state):
        return {
            layer: state[f"{layer}.lora_B.weight"].double().flatten(1)
            @ state[f"{layer}.lora_A.weight"].double().flatten(1)
            for layer in ("x", "y")
        }

    one, two = map(products, states)
    exact = {layer: 0.4 * one[layer] - 1.2 * two[layer] for layer in one}
    whole, lost = merge_lora(states, [0.4, -1.2])
    assert lost == 0 and whole["y.lora_A.weight"].shape == (5, 2, 3, 3)
    for layer, product in products(whole).items():
        assert torch.allclose(product, exact[layer], atol=1e-5)
    low, lost = merge_lora(states, [0.4, -1.2], rank=2)
    dropped = kept = 0.0
    for layer, product in products(low).items():
        u, s, v = torch.linalg.svd(exact[layer])
        nearest = u[:, :2] * s[:2] @ v[:2]
        assert torch.allclose(product, nearest, atol=1e-5)
        dropped, kept = dropped + float((s[2:] ** 2).sum()), kept + float((s[:2] ** 2).sum())
    assert lost == pytest.approx(dropped / (dropped + kept), rel=1e-6)
    assert low["y.lora_B.weight"].shape == (5, 2, 1, 1)


def test_full_fine_tuning_is_averaged_weight_by_weight(full_runs, tmp_path):
    made = soup(full_runs, tmp_path / "soup", [0.25, 0.75])
    one, two, got = (
        load_file(folder / "adapter" / "model.safetensors") for folder in (*full_runs, made.folder)
    )
    assert made.rank is None and got.keys() == one.keys()
    assert all(torch.allclose(got[n], 0.25 * one[n] + 0.75 * two[n], atol=1e-6) for n in got)
    load_trained(open_run(made.folder), made.folder)
    counts = {"steps": torch.tensor([3])}
    assert torch.equal(merge_full([counts, counts], [0.5, 0.5])["steps"], counts["steps"])
    for options, wanted in (
        (
            {"weights": [0.5, 0.6]},
            "weights: runs with full fine-tuning need weights that add up to 1, got 1.1",
        ),
        ({"rank": 2}, "rank: runs with full fine-tuning have no adapter whose rank it is"),
    ):
        with pytest.raises(RewardftError) as error:
            soup(full_runs, tmp_path / "other", **options)
        assert str(error.value) == wanted and not (tmp_path / "other").exists()


def test_averaged_weights_are_taken_where_a_run_is_evaluated_by_them(runs, tmp_path):
    averaged = make(tmp_path, "ema", "train.ema=0.5")
    made = soup([averaged, runs[1]], tmp_path / "soup", [1.0, 0.0])
    state = load_file(averaged / "adapter_ema" / "adapter_model.safetensors")
    merged = load_file(made.folder / "adapter" / "adapter_model.safetensors")
    for name in (n for n in state if ".lora_A." in n):
        assert torch.allclose(merged[name][:2], state[name])


def test_the_command_says_what_it_made(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    words = ["soup", *map(str, runs), "--out", str(out), "--weights", "0.5,0.25", "--rank", "2"]
    assert main(words) == 0
    said = capsys.readouterr().out.splitlines()
    facts = json.loads((out / "soup.json").read_text())
    assert said == [
        f"adapter of rank 2: the sum of the products B A, {facts['lost']:.2%} of its squared norm left out",
        f"2 runs merged with weights 0.5, 0.25: {out}",
        f"evaluate it with: rewardft evaluate {out}",
    ]
    assert facts["weights"] == [0.5, 0.25] and 0 < facts["lost"] < 1
    assert main(["evaluate", str(out)]) == 0
    assert main(["soup", str(runs[0]), str(runs[1]), "--out", "x", "--weights", "a,b"]) == 2
    assert "--weights: expected numbers with commas between, such as 0.5,0.5, got 'a,b'" in (
        capsys.readouterr().err
    )


def test_what_cannot_be_merged_is_refused_and_nothing_is_written(runs, full_runs, tmp_path):
    out, (bright, dark) = tmp_path / "soup", runs
    other = make(tmp_path, "other", "model.width=12", "train.steps=1")
    cases = {
        (bright,): "expected two or more runs to merge, got 1",
        (
            bright,
            tmp_path / "none",
        ): f"{tmp_path / 'none'}: there is no such folder. Choose one of: other.",
        (
            bright,
            other,
        ): f"{other}: its model is {{'use': 'tiny', 'prediction': 'v_prediction', 'width': 12}}, and "
        f"that of {bright} is {{'use': 'tiny', 'prediction': 'v_prediction', 'width': 8}}. Only runs from the same "
        "base can be merged.",
        (
            bright,
            full_runs[0],
        ): f"{full_runs[0]}: its adapter.kind is full, and that of {bright} is lora. Only "
        "runs from the same base can be merged.",
    }
    for folders, wanted in cases.items():
        with pytest.raises(RewardftError) as error:
            soup(folders, out)
        assert str(error.value) == wanted
    with pytest.raises(RewardftError) as error:
        soup(runs, out, [1.0])
    assert str(error.value) == "weights: expected one number for each of the 2 runs, got 1"
    with pytest.raises(RewardftError) as error:
        soup(runs, out, [1.0, float("nan")])
    assert str(error.value) == "weights: expected one number for each of the 2 runs, got 1, nan"
    assert not out.exists()
    with pytest.raises(CheckpointError) as error:
        soup(runs, dark)
    assert str(error.value).startswith(f"{dark} is in the way and was not made by rewardft")
    soup(runs, out)
    with pytest.raises(CheckpointError) as error:
        soup(runs, out)
    assert str(error.value) == f"{out} already holds a merged run. Give another folder."


def test_unfinished_runs_and_other_layers_are_refused(runs, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "recipe.yaml").write_text((runs[0] / "recipe.yaml").read_text())
    with pytest.raises(CheckpointError) as error:
        soup([runs[0], unfinished], tmp_path / "soup")
    assert str(error.value) == (
        f"{unfinished}: not a finished run; expected its weights in adapter/. Continue it with --resume."
    )
    narrow = make(tmp_path, "narrow", "adapter={rank: 2, targets: [to_q]}", "train.steps=1")
    with pytest.raises(CheckpointError) as error:
        soup([runs[0], narrow], tmp_path / "soup")
    assert str(error.value) == (
        "the weights of run 2 cannot be merged: base_model.model.to_out.lora_A.weight is missing, not finite, or "
        "unlike that of run 1 (2 tensors in all). Merge runs of one model and adapter."
    )
    path = narrow / "adapter" / "adapter_model.safetensors"
    save_file({n: v * float("nan") for n, v in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"^the weights of run 1 cannot be merged: .*to_q"):
        soup([narrow, narrow], tmp_path / "soup")


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", None), ("lora_alpha", "2"), ("r", 0)])
def test_a_damaged_configuration_of_an_adapter_is_told(runs, tmp_path, key, value):
    damaged = tmp_path / "damaged"
    shutil.copytree(runs[1], damaged)
    path = damaged / "adapter" / "adapter_config.json"
    config = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError) as error:
        soup([runs[0], damaged], tmp_path / "soup")
    assert str(error.value) == (
        f"{path}: damaged: expected numbers for r, of at least 1, and lora_alpha, got {config['r']} and "
        f"{config['lora_alpha']!r}. It must be as peft writes it."
    )
