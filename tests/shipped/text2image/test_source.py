"""Loading: every failure says what was expected, where, and how to mend it."""

import json
import shutil

import pytest
import torch
from rewardft_plugins.text2image.sd3 import StableDiffusion3
from rewardft_plugins.text2image.sdxl import StableDiffusionXL
from rewardft_plugins.text2image.source import Source
from rewardft_plugins.text2image.stable_diffusion import StableDiffusion
from safetensors.torch import load_file, save_file

from rewardft.errors import ComponentError
from rewardft.types import Batch
from tests.shipped.text2image import checkpoints

LAYOUT = "Give a folder in diffusers' layout, as `save_pretrained` of a pipeline writes it."


@pytest.fixture
def folder(folders, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(folders["stable_diffusion"], tmp_path / "sd")


def message(build):
    with pytest.raises(ComponentError) as error:
        build()
    return str(error.value)


def load(folder, **options):
    return StableDiffusion(weights=str(folder), **options)


def test_a_missing_subfolder(folder):
    shutil.rmtree(folder / "vae")
    assert message(lambda: load(folder)) == (
        f"{folder}: expected the subfolder 'vae' (AutoencoderKL), and it is not there; the folder has: scheduler, "
        f"text_encoder, tokenizer, unet. {LAYOUT}"
    )


@pytest.mark.parametrize(
    "file, name",
    [
        ("unet/config.json", "UNet2DConditionModel"),
        ("text_encoder/config.json", "CLIPTextModel"),
        ("scheduler/scheduler_config.json", "Scheduler"),
    ],
)
def test_a_missing_configuration(folder, file, name):
    (folder / file).unlink()
    place, base = (folder / file).parent, file.rpartition("/")[2]
    assert (
        message(lambda: load(folder))
        == f"{place}: expected {base} of a {name}, and it is not there. {LAYOUT}"
    )


def test_a_missing_vocabulary(folder):
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    assert message(lambda: load(folder)) == (
        f"{folder / 'tokenizer'}: expected tokenizer.json or vocab.json or spiece.model of a CLIPTokenizer, and it is "
        f"not there. {LAYOUT}"
    )


def test_pickled_weights_are_refused(folder):
    """Also where they would load: the file is a proper one, and it is not opened."""
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), folder / "unet" / "diffusion_pytorch_model.bin")
    file.unlink()
    assert message(lambda: load(folder)) == (
        f"{folder / 'unet'}: expected the weights of a UNet2DConditionModel as NAME.safetensors, found "
        "diffusion_pytorch_model.bin. Pickled weights can run code and are never loaded; if you trust them, load "
        "them once and save them with `save_pretrained(folder, safe_serialization=True)`."
    )


def test_a_variant_is_loaded_when_it_is_named(folder):
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (folder / part / f"{name}.safetensors").rename(folder / part / f"{name}.fp16.safetensors")
    assert message(lambda: load(folder)) == (
        f"{folder / 'unet'}: expected the weights of a UNet2DConditionModel as NAME.safetensors, found "
        "diffusion_pytorch_model.fp16.safetensors. Set `variant` to the one that is there."
    )
    model = load(folder, variant="fp16")
    assert {p.dtype for p in model.trainable.parameters()} == {torch.float32}


def test_a_checkpoint_of_another_family(folders):
    place = folders["sd3"] / "transformer"
    assert message(lambda: load(folders["sd3"])).startswith(
        f"{folders['sd3']}: expected the subfolder 'unet' (UNet2DConditionModel), and it is not there"
    )
    config = json.loads((place / "config.json").read_text())
    assert config["_class_name"] == "SD3Transformer2DModel"
    from rewardft_plugins.text2image.flux import Flux

    assert message(lambda: Flux(weights=str(folders["sd3"]))) == (
        f"{place}: expected a FluxTransformer2DModel, but config.json describes a SD3Transformer2DModel. The "
        "checkpoint is of another model family; change `use` in the recipe's model section."
    )
    assert "expected the subfolder 'tokenizer_2'" in message(
        lambda: StableDiffusionXL(weights=str(folders["stable_diffusion"]))
    )


def test_a_scheduler_of_another_family(folders, folder, tmp_path):
    shutil.copy(folders["sd3"] / "scheduler" / "scheduler_config.json", folder / "scheduler")
    advice = (
        "The checkpoint is of another model family; change `use` in the recipe's model section."
    )
    assert message(lambda: load(folder)) == (
        f"{folder}/scheduler: expected a scheduler with betas, got FlowMatchEulerDiscreteScheduler. {advice}"
    )
    other = shutil.copytree(folders["sd3"], tmp_path / "sd3")
    shutil.copy(folders["sdxl"] / "scheduler" / "scheduler_config.json", other / "scheduler")
    assert message(lambda: StableDiffusion3(weights=str(other))) == (
        f"{other}/scheduler: expected a scheduler of flow matching, got EulerDiscreteScheduler. {advice}"
    )


def test_weights_that_lack_a_tensor_are_refused(folder):
    """diffusers and transformers would fill the gap with random numbers."""
    for file in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        tensors = load_file(folder / file)
        name = sorted(n for n in tensors if n.endswith("weight"))[0]
        kept = tensors.pop(name)
        save_file(tensors, folder / file, metadata={"format": "pt"})
        text = message(lambda: load(folder))
        assert text.startswith(f"{folder}/{file.partition('/')[0]}: the weights do not fill the ")
        assert text.endswith(
            f"1 tensors are missing or misshapen, the first is {name!r}. Fetch them again."
        )
        save_file(tensors | {name: kept}, folder / file, metadata={"format": "pt"})
    load(folder)


def test_truncated_weights_are_refused(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert message(lambda: load(folder)).startswith(
        f"{folder}/unet: no UNet2DConditionModel could be loaded. The files are damaged or of another model; fetch them "
        "again.\n"
    )


def test_a_tokenizer_of_another_model(folder):
    shutil.rmtree(folder / "tokenizer")
    tokenizer = checkpoints.clip_tokenizer()
    tokenizer.add_tokens(["one", "more"])
    tokenizer.save_pretrained(folder / "tokenizer")
    assert message(lambda: load(folder)) == (
        f"{folder}/tokenizer has 76 tokens, more than the 74 of {folder}/text_encoder: they belong to different models."
    )


def test_what_is_neither_a_folder_nor_a_hub_id(folder):
    for weights, what in (
        ("./nowhere", "does not exist"),
        (f"{folder}/unet/config.json", "is a file"),
    ):
        assert message(lambda w=weights: Source.open(w)) == (
            f"weights: expected a folder or a hub id, got {weights!r}, which {what}. {LAYOUT}"
        )
    assert message(lambda: Source.open(str(folder), revision="main")) == (
        f"weights: {folder} is a folder, and folders have no revision; leave it out"
    )
    assert Source.open("owner/name", revision="0123abc").folder is None


def test_a_hub_id_that_cannot_be_fetched(monkeypatch):
    """Offline, and not in the hub's cache."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    text = message(lambda: load("nobody/has-this-model", revision="0123abc"))
    assert text.startswith(
        "nobody/has-this-model/unet (revision 0123abc): no UNet2DConditionModel could be loaded. "
        "'nobody/has-this-model' is not a folder here and was looked for on the hub: check the name, the revision, the "
        "network and the access token, or give a folder. Only safetensors files are accepted.\n"
    )


def test_a_local_folder_comes_before_the_hub(folders, tmp_path, monkeypatch):
    shutil.copytree(folders["stable_diffusion"], tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    model = load("owner/name")
    assert model.source.folder is not None
    assert model.encode(Batch(("a",), (0,), {"prompt": ["a dog"]}))["text"].shape == (1, 12, 16)


def test_code_in_a_checkpoint_is_never_run(folder):
    """Neither a custom class nor a module beside the weights."""
    (folder / "text_encoder" / "evil.py").write_text("raise SystemExit('ran')\n")
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text()) | {
        "auto_map": {"AutoModel": "evil.Evil", "CLIPTextModel": "evil.Evil"}
    }
    path.write_text(json.dumps(config))
    (folder / "unet" / "evil.py").write_text("raise SystemExit('ran')\n")
    (folder / "model_index.json").write_text(
        '{"_class_name": ["evil", "Evil"], "unet": ["evil", "Evil"]}'
    )
    assert load(folder).trainable.__class__.__name__ == "UNet2DConditionModel"


def test_an_autoencoder_with_the_oldest_names_loads(folder):
    """Stable Diffusion 1.5's names its attention so; diffusers renames it, and nothing counts as missing."""
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    before = load(folder)
    tensors, old = (
        load_file(file),
        {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"},
    )
    renamed = dict(tensors)
    for new, name in old.items():
        for key in [key for key in renamed if f".{new}." in key]:
            renamed[key.replace(f".{new}.", f".{name}.")] = renamed.pop(key)
    assert len(renamed.keys() - tensors.keys()) == 16
    save_file(renamed, file, metadata={"format": "pt"})
    x0 = torch.ones(1, 4, 8, 8)
    assert torch.equal(load(folder).decode(x0), before.decode(x0))
