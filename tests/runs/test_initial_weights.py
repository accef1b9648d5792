"""`adapter.init`: a run starts from weights that were trained before, or says why it cannot."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rewardft.errors import CheckpointError
from rewardft.recipe.recipe import load_recipe

RECIPE = """\
plugins: [toy]
model: {use: toy, prediction: v_prediction}
sampler: {use: ddim, steps: 4}
data: {use: toy_blobs, batch_size: 4}
rewards: [{use: brightness}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {rank: 2}
optimizer: {lr: 5e-3}
train: {steps: 2}
"""
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def trained(run_recipe):
    """A run's folder, copied to where the next one does not write."""
    folder = run_recipe.folder / "first"
    shutil.copytree(run_recipe(RECIPE).folder, folder)
    return folder


def start(run_recipe, folder, *overrides, text=RECIPE):
    return run_recipe(text, f"adapter.init={folder}", *overrides, out="second")


def change(folder, edit):
    state = load_file(folder / WEIGHTS)
    name = sorted(state)[0]
    state[name] = edit(state[name])
    save_file(state, folder / WEIGHTS)
    return name


def test_a_run_goes_on_from_the_weights_as_they_were(run_recipe, trained):
    """With a learning rate of almost 0 it ends with them; without `init` it would not."""
    run = start(run_recipe, trained / "adapter", "optimizer.lr=1e-30", "optimizer.weight_decay=0")
    before, after = (load_file(f / "adapter" / WEIGHTS) for f in (trained, run.folder))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(name.endswith("lora_B.weight") and value.any() for name, value in after.items())
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert str(trained / "adapter") in manifest["data"]


def test_all_weights_can_be_the_start_too(run_recipe):
    full = RECIPE.replace("{rank: 2}", "{kind: full}")
    folder = run_recipe.folder / "first"
    shutil.copytree(run_recipe(full).folder, folder)
    sets = ("optimizer.lr=1e-30", "optimizer.weight_decay=0")
    run = start(run_recipe, folder / "adapter", *sets, text=full)
    before, after = (load_file(f / "adapter/model.safetensors") for f in (folder, run.folder))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_relative_folder_starts_at_the_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE.replace("{rank: 2}", "{rank: 2, init: first/adapter}"))
    assert load_recipe(path).adapter.init == str(tmp_path / "first/adapter")


@pytest.mark.parametrize(("key", "value"), [("use_rslora", True), ("alpha_pattern", {"to_q": 9})])
def test_a_strength_that_no_tensor_shows_is_refused(run_recipe, trained, key, value):
    path = trained / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError) as error:
        start(run_recipe, trained / "adapter")
    assert str(error.value) == (
        f"{path}: {key} is {value!r}, with which the same tensors have another strength than alpha / rank in each "
        "layer, as it is here. Train from weights without it."
    )


def test_another_rank_or_strength_is_refused(run_recipe, trained):
    folder = trained / "adapter"
    with pytest.raises(CheckpointError) as caught:
        start(run_recipe, folder, "adapter.rank=4")
    assert str(caught.value) == (
        f"{folder}/adapter_config.json: r is 2, and the recipe's adapter.rank is 4. Set adapter.rank=2 to start from it."
    )
    with pytest.raises(CheckpointError) as caught:
        start(run_recipe, folder, "adapter.alpha=8")
    assert str(caught.value) == (
        f"{folder}/adapter_config.json: lora_alpha is 2.0, and the recipe's adapter.alpha is 8. Set adapter.alpha=2.0 to "
        "start from it."
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.long(), "expected numbers of torch.float32, got torch.int64"),
        (lambda w: w.index_fill(0, torch.tensor([0]), float("nan")), "{row} of its {all} numbers are NaN or infinite"),
        (lambda w: w[:, :1].contiguous(), "expected shape {shape}, got ({rows}, 1)"),
    ],
    ids=["int64", "nan", "shape"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused(run_recipe, trained, edit, said):
    folder = trained / "adapter"
    own = load_file(folder / WEIGHTS)
    name = change(folder, edit)
    shape = tuple(own[name].shape)
    said = said.format(row=shape[1], all=own[name].numel(), shape=shape, rows=shape[0])
    with pytest.raises(CheckpointError) as caught:
        start(run_recipe, folder)
    assert str(caught.value) == (
        f"{folder}/{WEIGHTS}: does not fit this model and adapter (1 tensors differ)\n  - {name}: {said}"
    )


def test_a_folder_that_is_not_there(run_recipe, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        start(run_recipe, tmp_path / "nowhere")
    assert str(caught.value) == (
        f"adapter.init: no folder at '{tmp_path}/nowhere'. Expected one with trained weights, such as `adapter` in the "
        "folder of a run."
    )


def test_weights_of_another_model_are_refused_and_other_options_told(run_recipe, trained, caplog):
    with caplog.at_level(logging.WARNING):
        start(run_recipe, trained / "adapter", "model.guidance=3.0")
    assert (
        f"adapter.init: the weights of {trained / 'adapter'} were trained with other options of the model: guidance None "
        "(now 3.0)"
    ) in caplog.messages
    path = trained / "recipe.yaml"
    path.write_text(path.read_text().replace("use: toy\n", "use: sd15\n", 1))
    with pytest.raises(CheckpointError) as caught:
        run_recipe(RECIPE, f"adapter.init={trained / 'adapter'}", out="third")
    assert str(caught.value) == (
        f"{trained / 'adapter'}: these weights were trained in the model 'sd15' ({path}), and this recipe's is 'toy'."
    )


HELD_OUT = "evaluate.every=1", "evaluate.samples=4"


@pytest.mark.parametrize("kind", ["lora", "full"])
@pytest.mark.parametrize("ema", [(), ("train.ema=0.5",)], ids=["last", "average"])
def test_a_resumed_run_is_compared_with_what_it_started_from(run_recipe, kind, ema):
    """Also where its evaluations must be made anew, as their settings have changed: the same numbers as those of a run
    that had them from the start, and the trained weights are the same bits afterwards."""
    text = RECIPE.replace("{rank: 2}", f"{{kind: {kind}, rank: 2}}")
    folder = run_recipe.folder / "first"
    shutil.copytree(run_recipe(text, "train.steps=4").folder, folder)
    sets = (f"adapter.init={folder / 'adapter'}", *ema)
    whole = run_recipe(text, *sets, *HELD_OUT, "evaluate.seed=5", out="whole")
    run_recipe(text, *sets, *HELD_OUT, "train.steps=1", out="parts")
    resumed = run_recipe(
        text, *sets, *HELD_OUT, "evaluate.seed=5", "train.steps=2", out="parts", resume=True
    )
    files = [f"evaluations/step-0000000{step}.json" for step in (0, 2)]
    expected, found = (
        [json.loads((run.folder / name).read_text()) for name in files] for run in (whole, resumed)
    )
    assert expected == found
    base = run_recipe(text, *HELD_OUT, "evaluate.seed=5", "train.steps=1", out="bare")
    bare = json.loads((base.folder / files[0]).read_text())["per_sample"]
    assert bare != found[0]["per_sample"]
    name = WEIGHTS if kind == "lora" else "model.safetensors"
    one, other = (load_file(run.folder / "adapter" / name) for run in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)


PART = """\
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel


class Part(TinyModel):
    pipeline_part = "unet"


@hookimpl
def register_models():
    return {"part": Part}
"""


@pytest.fixture
def in_pipeline(run_recipe):
    """Trained at alpha / rank = 2, which a file for pipelines has in its B matrices."""
    (run_recipe.folder / "part.py").write_text(PART)
    text = RECIPE.replace("[toy]", "[toy, ./part.py]").replace("{use: toy,", "{use: part,")
    shutil.copytree(run_recipe(text, "adapter.alpha=4").folder, run_recipe.folder / "first")
    return text, run_recipe.folder / "first" / "adapter"


def test_a_lora_of_a_pipeline_starts_with_its_strength(run_recipe, in_pipeline):
    text, folder = in_pipeline
    file = folder.parent / "published.safetensors"
    (folder / "pytorch_lora_weights.safetensors").rename(file)
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0")
    run = start(run_recipe, file, *still, text=text)  # alpha / rank = 1
    before, after = (load_file(f / WEIGHTS) for f in (folder, run.folder / "adapter"))
    for name in (name for name in before if ".lora_A." in name):
        other = name.replace("lora_A", "lora_B")
        assert before[other].any()
        torch.testing.assert_close(
            after[other] @ after[name], 2 * before[other] @ before[name], rtol=1e-6, atol=0
        )
    assert str(file) in json.loads((run.folder / "manifest.json").read_text())["data"]


def test_the_strength_in_a_pipelines_metadata_counts(run_recipe, in_pipeline):
    text, folder = in_pipeline
    file = folder / "pytorch_lora_weights.safetensors"
    state = {
        key.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value
        for key, value in load_file(file).items()
    }
    facts = json.dumps({"unet.r": 2, "unet.lora_alpha": 6})
    save_file(state, file, metadata={"lora_adapter_metadata": facts})
    (folder / "adapter_config.json").unlink()  # else peft's layout is read
    still = ("optimizer.lr=1e-30", "optimizer.weight_decay=0")
    run = start(run_recipe, folder, *still, text=text)
    after = load_file(run.folder / "adapter" / "pytorch_lora_weights.safetensors")
    for key, value in load_file(file).items():
        now = after[key.replace("lora.down", "lora_A").replace("lora.up", "lora_B")]
        torch.testing.assert_close(now, value * (3 if "lora.up" in key else 1), rtol=1e-6, atol=0)


def test_a_lora_of_another_part_rank_or_layout_is_refused(run_recipe, in_pipeline, tmp_path):
    text, folder = in_pipeline
    state = load_file(folder / "pytorch_lora_weights.safetensors")
    key = next(iter(state)).removeprefix("unet.")
    layer, _, _ = key.rpartition(".lora_")
    file = tmp_path / "x.safetensors"
    cases = {
        f"text_encoder.{key}": f"it changes the text_encoder (text_encoder.{key}); here only the unet is trained.",
        f"lora_unet_{layer}.alpha": f"lora_unet_{layer}.alpha is no matrix of a LoRA for unet in the layout of "
        "diffusers' pipelines. Load it in a pipeline, and give what its save_lora_weights writes.",
    }
    for name, said in cases.items():
        save_file(state | {name: torch.ones(1)}, file)
        with pytest.raises(CheckpointError) as caught:
            start(run_recipe, file, text=text)
        assert str(caught.value) == f"{file}: {said}"
    save_file(state, file)
    with pytest.raises(
        CheckpointError,
        match=r"has rank 2, and the recipe's adapter\.rank is 4\. Set adapter\.rank=2",
    ):
        start(run_recipe, file, "adapter.rank=4", text=text)
    with pytest.raises(CheckpointError, match="is no matrix of a LoRA for this model"):
        start(run_recipe, file)
    with pytest.raises(CheckpointError) as caught:
        start(run_recipe, folder / WEIGHTS, text=text)
    assert str(caught.value) == (
        f"{folder / WEIGHTS}: it is peft's own file. Give the folder that holds it."
    )
