"""From folders to models, and what is said of folders that are not whole."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline
from rewardft_plugins.modular.from_weights import ModularFromWeights
from safetensors.torch import load_file, save_file

from rewardft import Batch
from rewardft.errors import ComponentError
from rewardft.samplers.flow import FlowEuler
from rewardft.types import Plan

SIZE = {"height": 32, "width": 32}
PROMPTS = ["a red cat", "a blue dog on a hill"]


def copy_of(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def batch():
    return Batch(("0", "1"), (0, 0), {"prompt": PROMPTS})


def refused(**options):
    with pytest.raises(ComponentError) as caught:
        ModularFromWeights(**options)
    return str(caught.value)


@pytest.mark.parametrize("family", ["qwen_image", "z_image"])
def test_from_prompts_to_pixels_as_the_standard_pipeline(family, folders):
    """The pipelines that are not modular, called as users call them, on the same noise."""
    from rewardft import Context
    from rewardft.policy.full import FullFineTuning
    from rewardft.policy.policy import Policy

    size = {"height": 64, "width": 64}
    model = ModularFromWeights(weights=str(folders[family]), **size)
    sampler = FlowEuler(3)
    sampler.setup(model)
    adapter = FullFineTuning(model, keep_reference=False)
    ctx = Context(policy=Policy(model), sampler=sampler, adapter=adapter)
    rollout = ctx.rollout(batch(), Plan(stop=3))
    start = rollout.noise.draw("initial", rollout.x0.shape[1:])
    pipe = DiffusionPipeline.from_pretrained(folders[family])
    pipe.set_progress_bar_config(disable=True)
    guidance = {
        "qwen_image": {"true_cfg_scale": 4.0, "negative_prompt": ""},
        "z_image": {"guidance_scale": 0.0},
    }
    for row, prompt in enumerate(PROMPTS):
        wanted = pipe(
            prompt=prompt, **size, num_inference_steps=3, latents=start[row : row + 1], output_type="pt",
            **guidance.get(family, {}),
        ).images  # fmt: skip
        assert float((rollout.decoded[row] - wanted[0]).abs().max()) < 1e-5


def test_video_from_a_folder(folders):
    model = ModularFromWeights(weights=str(folders["wan"]), frames=5, **SIZE)
    cond = model.encode(batch())
    x = torch.randn(2, *model.sample_shape(cond), generator=torch.Generator().manual_seed(0))
    assert model.decode(x).shape == (2, 5, 3, 32, 32)


def test_blocks_that_the_index_does_not_name(folders):
    weights = str(folders["wan"])
    named = ModularFromWeights(weights=weights, blocks="WanBlocks", frames=5, **SIZE)
    found = ModularFromWeights(weights=weights, frames=5, **SIZE)
    cond = [model.encode(batch()) for model in (named, found)]
    x = torch.randn(2, *named.sample_shape(cond[0]), generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 500.0)
    assert torch.equal(named.denoise(x, t, cond[0]), found.denoise(x, t, cond[1]))


def test_each_prompt_is_encoded_once(folders):
    model = ModularFromWeights(weights=str(folders["wan"]), frames=5, **SIZE)
    calls = []
    model.pipe.text_encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first = model.encode(batch())
    count = len(calls)
    assert count > 0 and model.encode(batch())[1] is first[1] and len(calls) == count


def test_a_part_that_is_missing(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    shutil.rmtree(folder / "text_encoder")
    text = refused(weights=str(folder), frames=5, **SIZE)
    assert text.startswith(f"{folder}/text_encoder: no UMT5EncoderModel could be loaded (OSError: ")
    assert text.endswith(
        "Weights are read from safetensors files alone; pickled ones can run code and are refused."
    )


def test_pickled_weights_are_refused(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert "pickled ones can run code and are refused" in refused(
        weights=str(folder), frames=5, **SIZE
    )


def test_a_tensor_that_is_missing(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("proj_out.bias")
    save_file(tensors, path)
    assert "proj_out.bias" in refused(weights=str(folder), frames=5, **SIZE)


def write_index(folder, **parts):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | parts))


def test_a_class_of_the_checkpoints_own(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    index["transformer"] = ["json", "JSONDecoder"]
    (folder / "model_index.json").write_text(json.dumps(index))
    assert refused(weights=str(folder), frames=5, **SIZE) == (
        f"{folder}/transformer: the index names a class of its own (json.decoder) for transformer; only classes of "
        f"diffusers, transformers, tokenizers are loaded, and no code of a checkpoint"
    )


def test_a_class_for_another_part(folders, tmp_path):
    """A scheduler is no network, and a function or a whole pipeline is no part at all."""
    for part, named, what in (
        ("transformer", ["diffusers", "FlowMatchEulerDiscreteScheduler"], "is a network"),
        ("transformer", ["transformers", "pipeline"], "is a network"),
        ("transformer", ["diffusers", "WanPipeline"], "is a network"),
        ("tokenizer", ["diffusers", "AutoencoderKLWan"], "has no weights"),
    ):
        folder = copy_of(folders["wan"], tmp_path / named[1])
        write_index(folder, **{part: named})
        assert refused(weights=str(folder), frames=5, **SIZE) == (
            f"{folder}/{part}: the index names {named[1]} for {part}, which {what}. Fetch the index again."
        )


def test_a_class_that_chooses_one_is_held_to_the_same_rules(folders, tmp_path):
    """transformers' Auto classes are no modules themselves; what they make must be whole and no pickle."""
    folder = copy_of(folders["wan"], tmp_path)
    write_index(folder, text_encoder=["transformers", "AutoModel"])
    assert "do not fill the UMT5Model" in refused(weights=str(folder), frames=5, **SIZE)
    path = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(path), folder / "text_encoder" / "pytorch_model.bin")
    path.unlink()
    assert "no AutoModel could be loaded" in refused(weights=str(folder), frames=5, **SIZE)


def test_a_tokenizer_without_its_words(folders, tmp_path):
    """transformers would make one of its own."""
    folder = copy_of(folders["wan"], tmp_path)
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert refused(weights=str(folder), frames=5, **SIZE) == (
        f"{folder}/tokenizer: expected tokenizer.json or vocab.json or vocab.txt or spiece.model or tokenizer.model "
        "or sentencepiece.bpe.model of a T5Tokenizer, and it is not there. Fetch it again."
    )


def test_a_part_that_the_index_leaves_out(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    index = json.loads((folder / "model_index.json").read_text())
    del index["tokenizer"]
    (folder / "model_index.json").write_text(json.dumps(index))
    model = ModularFromWeights(weights=str(folder), frames=5, **SIZE)
    with pytest.raises(
        ComponentError, match=r"WanTextEncoderStep .* The checkpoint has no tokenizer"
    ):
        model.encode(batch())


def test_damaged_files_are_told_from_missing_ones(folders, tmp_path):
    folder = copy_of(folders["wan"], tmp_path)
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "SafetensorError: " in refused(weights=str(folder), frames=5, **SIZE)
    (folder / "model_index.json").write_text("{")
    assert refused(weights=str(folder)).startswith(
        f"{folder}/model_index.json: not readable as JSON (Expecting property name"
    )
    (folder / "model_index.json").write_text("[]")
    assert refused(weights=str(folder)).startswith(
        f"{folder}/model_index.json: expected an object with the class of a pipeline"
    )


def test_no_code_of_a_checkpoint_runs(folders, tmp_path):
    """Neither blocks, classes nor modules that the folder brings along, nor a pickle."""
    folder = copy_of(folders["wan"], tmp_path)
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w')\nclass X:\n    pass\n"
    for place in (folder, folder / "transformer", folder / "text_encoder"):
        (place / "brought.py").write_text(code)
    for part, kind in (("transformer", "diffusers"), ("text_encoder", "transformers")):
        config = folder / part / "config.json"
        mapped = json.loads(config.read_text()) | {"auto_map": {"AutoModel": "brought.X"}}
        config.write_text(json.dumps(mapped))
        write_index(folder, **{part: [kind, "AutoModel"]})
        refused(weights=str(folder), frames=5, **SIZE)
    (folder / "modular_config.json").write_text(
        json.dumps({"auto_map": {"ModularPipelineBlocks": "brought.X"}})
    )
    assert "custom code" in refused(weights=str(folder), frames=5, **SIZE)
    assert not trace.exists()


def test_a_folder_without_an_index(tmp_path):
    (tmp_path / "readme").touch()
    assert refused(weights=str(tmp_path)) == (
        f"{tmp_path}: expected modular_model_index.json or model_index.json of a pipeline, and the folder has: readme. "
        f"Give a folder as `save_pretrained` of a pipeline writes it."
    )


def test_a_folder_that_is_not_there(tmp_path):
    assert refused(weights=f"{tmp_path}/none") == (
        f"weights: {tmp_path}/none is neither a folder nor a hub id (owner/name)"
    )


def test_unknown_names_get_suggestions(folders):
    weights = str(folders["wan"])
    assert "Did you mean 'WanBlocks'" in refused(weights=weights, blocks="WanBlock")
    assert "Did you mean 'num_frames'" in refused(weights=weights, inputs={"num_frame": 5})
    assert "Did you mean 'transformer'" in refused(weights=weights, dtypes={"transfomer": "bf16"})
    assert "Did you mean 'transformer'" in refused(weights=weights, train=["transformers"])
    assert refused(weights=weights, workflow="text2image") == (
        "WanModularPipeline has no workflow 'text2image'. It has one only; leave `workflow` out."
    )


def test_inputs_that_belong_elsewhere(folders):
    weights = str(folders["wan"])
    assert refused(weights=weights, inputs={"num_inference_steps": 5}) == (
        "inputs: 'num_inference_steps' is set by `steps` of the sampler; leave it out"
    )
    assert refused(weights=weights, inputs={"guidance_scale": 5.0}) == (
        "inputs: 'guidance_scale' is set by the option `guidance`; leave it out"
    )
    assert refused(weights=weights, dtypes={"tokenizer": "bf16"}) == (
        "dtypes: tokenizer has no weights, so leave it out"
    )
    assert refused(weights=str(folders["flux2_klein"]), frames=5) == (
        "Flux2KleinModularPipeline has no input 'num_frames', so leave the option `frames` out"
    )


def test_sizes_that_a_family_does_not_take(folders):
    """diffusers' own words for it, and 0 is not its default."""
    weights = str(folders["wan"])
    assert refused(weights=weights, frames=0) == "the option `frames` must be at least 1, got 0"
    for sizes, what in (
        (
            {"frames": 4, **SIZE},
            r"WanPrepareLatentsStep fails with the recipe's settings \(ValueError: `num_frames` has to be greater "
            r"than 0, and \(num_frames - 1\) must be divisible by 4, but got 4\)\.",
        ),
        ({"frames": 5, "height": 33, "width": 32}, "WanPrepareLatentsStep .* divisible by 8"),
        ({"frames": 5, "height": 8, "width": 8}, "WanDenoiseStep fails with the recipe's settings"),
    ):
        model = ModularFromWeights(weights=weights, **sizes)
        with pytest.raises(ComponentError, match="WanModularPipeline: " + what):
            _ = model.lora_targets


def test_guidance_of_one_from_a_folder(folders):
    """The conditional prediction alone, equal to a guided model's with its guidance set to 1."""
    one, other = (
        ModularFromWeights(weights=str(folders["wan"]), guidance=g, frames=5, **SIZE)
        for g in (1.0, 5.0)
    )
    conditions = one.encode(batch()), other.encode(batch())
    x = torch.randn(2, *one.sample_shape(conditions[0]), generator=torch.Generator().manual_seed(0))
    t = torch.full((2,), 500.0)
    guided = other.denoise(x, t, conditions[1])
    other.guidance = 1.0
    plain = one.denoise(x, t, conditions[0])
    assert torch.equal(plain, other.denoise(x, t, conditions[1])) and not torch.equal(plain, guided)


def test_a_workflow_that_does_not_start_from_noise(folders):
    model = ModularFromWeights(
        weights=str(folders["z_image"]), workflow="image2image", height=64, width=64
    )
    pictures = Batch(("0",), (0,), {"prompt": ["a cat"], "image": torch.rand(1, 3, 64, 64)})
    with pytest.raises(
        ComponentError, match="starts from a picture that is noised or kept in part"
    ):
        model.sample_shape(model.encode(pictures))


def test_precision_of_parts(folders):
    model = ModularFromWeights(
        weights=str(folders["wan"]), dtype="bf16", dtypes={"text_encoder": "fp32"}, frames=5, **SIZE
    )
    assert model.trainable.dtype == torch.bfloat16
    assert model.pipe.vae.dtype == model.pipe.text_encoder.dtype == torch.float32
    cond = model.encode(batch())
    x = torch.randn(2, *model.sample_shape(cond))
    assert torch.isfinite(model.denoise(x, torch.full((2,), 500.0), cond).float()).all()


def test_offloaded_encoders_are_put_away(folders):
    model = ModularFromWeights(weights=str(folders["wan"]), offload_encoders=True, frames=5, **SIZE)
    model.to(torch.device("cpu"))
    assert model.pipe.text_encoder is None
    kept = ModularFromWeights(weights=str(folders["wan"]), frames=5, **SIZE)
    one, other = model.encode(batch())[0], kept.encode(batch())[0]
    assert torch.equal(one.values["prompt_embeds"], other.values["prompt_embeds"])
    assert model.pipe.text_encoder is None
