"""`rewardft export`: each layout is read back by the library that it is for, and samples the same."""

import json

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rewardft
from rewardft.cli import main
from rewardft.errors import CheckpointError, ComponentError
from rewardft.policy.layouts import kohya_state, merged_state
from rewardft.policy.lora import Lora
from rewardft.recipe.recipe import load_recipe
from rewardft.recipe.sections import AdapterSpec
from rewardft.runs.export import copy_checkpoint, export_weights
from rewardft.runs.model_card import training
from rewardft.testing import run_recipe
from rewardft.testing.tiny import TinyModel

RECIPE = """
plugins: [toy]
model:     {use: toy, prediction: v_prediction, guidance: 2.0}
sampler:   {use: ddim, steps: 4}
data:      {use: toy_blobs, batch_size: 4}
rewards:   [{use: brightness, weight: 2.0}]
algorithm: {use: draft_k}
adapter:   {kind: lora, rank: 4, alpha: 6.0}
optimizer: {lr: 1e-2}
train:     {steps: 3}
evaluate:  {every: 3, samples: 8, data: {split: val}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    (folder / "mine.yaml").write_text(RECIPE)
    return run_recipe(folder / "mine.yaml", folder / "mine").folder


def called(model, x):
    """The network's prediction for x."""
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        return model(x, torch.tensor([10.0, 500.0, 900.0]), labels)


@pytest.fixture(scope="module")
def states():
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_peft_loads_its_layout(run, states):
    folder = rewardft.export(run, "peft")
    tuned = called(rewardft.load_run(run).model.trainable, states)
    base = TinyModel(prediction="v_prediction", guidance=2.0).trainable
    before = called(base, states)
    theirs = called(PeftModel.from_pretrained(base, str(folder)), states)
    assert torch.allclose(theirs, tuned, atol=1e-5) and (tuned - before).abs().max() > 1e-3


def test_merged_weights_load_into_the_plain_network(run, states):
    folder = rewardft.export(run, "merged")
    plain = TinyModel(prediction="v_prediction", guidance=2.0).trainable
    plain.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    tuned = called(rewardft.load_run(run).model.trainable, states)
    assert torch.allclose(called(plain, states), tuned, atol=1e-5)


def test_merging_by_hand_in_the_bases_precision():
    model = TinyModel(width=8)
    model.trainable.to(torch.bfloat16)
    weight = model.trainable.to_q.weight.detach().clone()
    adapter = Lora(model, AdapterSpec(rank=2, alpha=3.0, targets=["to_q"]), 0)
    a, b = (adapter.named[f"to_q.lora_{side}.default.weight"] for side in "AB")
    b.data.normal_(generator=torch.Generator().manual_seed(3))
    merged = merged_state(adapter)
    assert set(merged) == set(TinyModel(width=8).trainable.state_dict())
    expected = (weight.float() + 1.5 * b @ a).to(torch.bfloat16)
    assert torch.equal(merged["to_q.weight"], expected)
    assert {value.dtype for value in merged.values()} == {torch.bfloat16}


def test_kohyas_layout_by_hand():
    model = TinyModel(width=8)
    adapter = Lora(model, AdapterSpec(rank=2, alpha=3.0), 0)
    state = kohya_state(adapter, "lora_unet_")
    layers = ("lora_unet_to_q", "lora_unet_to_out")
    endings = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(state) == {f"{layer}.{ending}" for layer in layers for ending in endings}
    assert state["lora_unet_to_q.alpha"] == 3.0
    assert state["lora_unet_to_q.lora_down.weight"].shape == (2, 8)


def test_full_fine_tuning_is_merged_alone(tmp_path, states, capsys):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    given = ["adapter={kind: full}", "optimizer.lr=1e-3", "train.steps=1"]
    run = run_recipe(tmp_path / "mine.yaml", tmp_path / "full", *given).folder
    plain = TinyModel(prediction="v_prediction").trainable
    plain.load_state_dict(load_file(rewardft.export(run, "merged") / "model.safetensors"))
    tuned = called(rewardft.load_run(run).model.trainable, states)
    assert torch.equal(called(plain, states), tuned)
    capsys.readouterr()
    assert main(["export", str(run), "--to", "peft"]) == 2
    assert capsys.readouterr().err == (
        "error: --to peft is for low-rank adapters, and this run trained all weights (`adapter: {kind: full}`). "
        "Write --to merged.\n"
    )


REFUSED = {
    "diffuser": "there is no layout 'diffuser'. Did you mean 'diffusers'?",
    "diffusers": (
        "model 'toy' names no part of a diffusers pipeline (`pipeline_part`) that could load its adapter. "
        "peft loads it: --to peft."
    ),
    "kohya": (
        "model 'toy' does not say how other programs name its layers (`kohya_prefix`). peft loads its adapter: "
        "--to peft."
    ),
}


@pytest.mark.parametrize("to", REFUSED)
def test_a_layout_that_there_is_not(to, run, tmp_path, capsys):
    assert main(["export", str(run), "--to", to, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {REFUSED[to]}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_others_is_not_replaced(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["export", str(run), "--to", "peft", "--out", str(tmp_path)]) == 2
    assert "was not made by rewardft" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_card_says_what_the_run_says(run, capsys):
    assert main(["export", str(run), "--to", "peft"]) == 0
    folder = run / "export" / "peft"
    names = {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert {line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()} == names
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "peft",
        "tags": ["rewardft", "reward-fine-tuning", "draft_k", "lora"],
    }
    summary = json.loads((run / "summary.json").read_text())
    (row,) = [row for row in summary["evaluation"] if row["name"] == "reward/brightness"]
    half = f"{row['difference']:+.3g} ± {row['half_width']:.2g}"
    line = f"| reward/brightness | 8 | {row['before']:.4g} | {row['after']:.4g} | {half}"
    assert line in body
    assert "A low-rank adapter of step 3, fine-tuned for `brightness` (weight 2)" in body
    assert "* optimizer steps: 3 of 3, batches of 4" in body
    assert "No alarm" in body and str(run) not in text
    assert "The base is that of rewardft's model `toy`." in body
    loading = "from peft import PeftModel\n\n# network: the base's denoiser, such as `pipe.unet` or `pipe.transformer`\n"
    loading += 'network = PeftModel.from_pretrained(network, "FOLDER")\n'
    assert code_of(body) == loading
    # The recipe in it is one that runs.
    recipe = body.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.safe_load(recipe)["adapter"]["alpha"] == 6.0


def code_of(card):
    """The lines that load the weights."""
    return card.partition("```python\n")[2].partition("```")[0]


def test_the_card_of_a_run_that_went_on_names_its_start(run):
    from rewardft.recipe.recipe import load_recipe
    from rewardft.runs.model_card import model_card

    recipe = load_recipe(run / "recipe.yaml", ["adapter.init=/home/me/runs/first"])
    card = model_card(recipe, run, "peft", 3, "mine")
    assert "| value | samples | start | tuned | difference |" in card
    assert "the weights of `first` (`adapter.init`)." in card and "/home/me" not in card


def test_the_card_of_a_base_on_the_hub_names_it_and_paths_are_cut(tmp_path):
    from rewardft.recipe.recipe import load_recipe
    from rewardft.runs.model_card import model_card

    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE.replace("{use: toy,", "{use: sd, weights: owner/name,"))
    card = model_card(load_recipe(path), tmp_path, "diffusers", 3, "mine")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == "owner/name" and head["base_model_relation"] == "adapter"
    assert "These weights were not evaluated against the base model." in card
    assert code_of(card) == (
        "from diffusers import DiffusionPipeline\n\n"
        'pipe = DiffusionPipeline.from_pretrained("owner/name")\n'
        'pipe.load_lora_weights("FOLDER")\n'
    )
    path.write_text(RECIPE.replace("{use: toy,", "{use: sd, weights: /home/me/secret/base,"))
    card = model_card(load_recipe(path), tmp_path, "merged", 3, "mine")
    assert "base_model" not in card and "/home/me" not in card
    assert "The base is base, loaded as `sd`." in card
    assert 'pipe = DiffusionPipeline.from_pretrained("FOLDER")\n```' in card
    card = model_card(load_recipe(path), tmp_path, "diffusers", 3, "mine")
    assert 'pipe = DiffusionPipeline.from_pretrained("base")\n' in card


def test_the_average_is_exported_where_it_is_what_was_evaluated(tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    run = run_recipe(tmp_path / "mine.yaml", tmp_path / "ema", "train.ema=0.5").folder
    exported = load_file(rewardft.export(run, "peft") / "adapter_model.safetensors")
    averaged = load_file(run / "adapter_ema" / "adapter_model.safetensors")
    last = load_file(run / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(exported[name], averaged[name]) for name in averaged)
    assert any(not torch.equal(exported[name], last[name]) for name in last)


def test_kohyas_file_has_its_metadata(tmp_path, run, monkeypatch):
    monkeypatch.setattr(TinyModel, "kohya_prefix", "lora_unet_", raising=False)
    folder = rewardft.export(run, "kohya", tmp_path / "out")
    with safe_open(folder / "mine.safetensors", "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "ss_network_module": "networks.lora",
            "ss_network_dim": "4",
            "ss_network_alpha": "6.0",
        }


def test_a_card_leaves_out_what_a_summary_does_not_know(run):
    ended = json.loads((run / "summary.json").read_text())
    recipe = load_recipe(run / "recipe.yaml")
    (cost,) = [line for line in training(recipe, ended) if line.startswith("cost: ")]
    assert cost == (
        f"cost: {ended['reward_evaluations']:,} rewards, {ended['denoiser_forward_samples']:,} forwards of the "
        f"denoiser, {ended['denoiser_backward_samples']:,} backwards, {ended['train_seconds']:.0f} s"
    )
    ended |= {"train_seconds": None}
    del ended["denoiser_backward_samples"]
    (cost,) = [line for line in training(recipe, ended) if line.startswith("cost: ")]
    assert cost.endswith(f"{ended['denoiser_forward_samples']:,} forwards of the denoiser")


def test_a_card_of_a_damaged_evaluation_is_refused(run):
    """Not with a ValueError, which would be a bug's."""
    path = run / "evaluations" / "step-00000003.json"
    before = path.read_text()
    data = json.loads(before)
    data["per_sample"]["reward/brightness"].pop()
    path.write_text(json.dumps(data))
    try:
        with pytest.raises(CheckpointError) as caught:
            rewardft.export(run, "peft")
    finally:
        path.write_text(before)
    assert str(caught.value) == (
        f"{path}: damaged (ValueError: 'reward/brightness' has not one value for each of its 8 "
        "samples). Delete it to export without it."
    )


def test_weights_of_a_base_that_float16_cannot_hold_are_refused(tmp_path):
    place = tmp_path / "run" / "adapter"
    place.mkdir(parents=True)
    weights = {"good": torch.tensor([1.5, -2.0]), "large": torch.tensor([0.0, 7e4])}
    save_file(weights, place / "model.safetensors")
    with pytest.raises(ComponentError) as error:
        export_weights(tmp_path / "run", tmp_path / "base.safetensors")
    assert str(error.value) == (
        f"{place / 'model.safetensors'}: large has weights that float16 cannot hold: not finite, or beyond 65504"
    )
    assert not (tmp_path / "base.safetensors").exists()
    save_file({"good": weights["good"]}, place / "model.safetensors")
    export_weights(tmp_path / "run", tmp_path / "base.safetensors", prefix="net.")
    written = load_file(tmp_path / "base.safetensors")
    assert written["net.good"].dtype == torch.float16 and written["net.good"].tolist() == [
        1.5,
        -2.0,
    ]
    (place / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        export_weights(tmp_path / "run", tmp_path / "base.safetensors")


def test_a_checkpoint_is_not_copied_into_itself(tmp_path):
    origin = tmp_path / "base"
    (origin / "unet" / "deep").mkdir(parents=True)
    out = origin / "unet" / "deep" / ".x.tmp"
    with pytest.raises(ComponentError) as error:
        copy_checkpoint(origin, out, "unet", {})
    assert str(error.value) == (
        f"{out.parent} is in the base's checkpoint ({origin}), which is copied. Give another folder with --out."
    )
