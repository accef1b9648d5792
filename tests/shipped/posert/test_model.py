"""The model: what it takes for a language model and for eyes, its weights, and its messages."""

import json

import pytest
import torch
from rewardft_plugins.posert.encoders import PictureEncoder
from rewardft_plugins.posert.model import PoseLM
from rewardft_plugins.posert.text import POSE, build_tokenizer
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from rewardft.errors import ComponentError
from rewardft.policy.adapter import attach
from rewardft.recipe.sections import AdapterSpec
from rewardft.types import Batch
from tests.shipped.posert.conftest import small
from tests.shipped.posert.test_hybrid import roll_out


def test_words_become_tokens_and_come_back():
    tokenizer = build_tokenizer()
    text = f"left hand above head, torso upside down. {POSE} ."
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.unk_token_id not in tokens
    assert (
        tokenizer.decode(tokens).split()
        == text.replace(",", " ,").replace("down.", "down .").split()
    )


def test_weights_are_written_and_read_and_must_fit(batch, tmp_path):
    model = small(seed=4)
    model.save(tmp_path / "m.safetensors")
    again = PoseLM(str(tmp_path / "m.safetensors"), width=16, heads=2, head_width=8)
    tokens, mask = model.spell(batch["answer"], torch.device("cpu"))
    with torch.no_grad():
        one, other = (m.answer(m.encode(batch), tokens, mask) for m in (model, again))
    assert torch.allclose(one[0], other[0], atol=0.2) and torch.allclose(
        one[1], other[1], atol=1e-2
    )
    with pytest.raises(
        ComponentError, match="as safetensors, as a command under `rewardft posert` writes"
    ):
        PoseLM(str(tmp_path / "m.safetensors"), width=32, heads=2)


def test_any_llama_of_a_folder_learns_the_pose_tokens(batch, tmp_path):
    """A tokenizer that knows neither <POSE> nor soft tokens; embeddings grow."""
    tokenizer = build_tokenizer()
    words = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in ("<POSE>", "<image>", "<body>"):
        words["model"]["vocab"].pop(token)
    words["added_tokens"] = [
        t for t in words["added_tokens"] if t["content"] in ("<pad>", "<end>", "<unk>")
    ]
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(words)),
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
    )
    plain.save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = max(plain.get_vocab().values()) + 1
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=plain.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = PoseLM(None, lm=str(tmp_path), head_width=8)
    assert model.trainable.lm.get_input_embeddings().num_embeddings > model.pose_token
    rollout = roll_out(model, batch)[2]
    assert rollout.x0["pose"].shape == (6, 132) and len(rollout.decoded["text"]) == 6
    with pytest.raises(
        ComponentError, match=r"^pose_lm: the shipped weights are those of the mini"
    ):
        PoseLM(lm=str(tmp_path))
    with pytest.raises(ComponentError, match="expected a folder with a causal language model of"):
        PoseLM(None, lm=str(tmp_path / "none"))


def test_eyes_as_in_the_paper(batch, tmp_path):
    """CLIP's patches of the last layer but one, and a second encoder's mean beside each."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    CLIPVisionModel(CLIPVisionConfig(**sizes)).save_pretrained(tmp_path / "clip")
    ViTModel(ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(tmp_path / "pose")
    encoder = PictureEncoder(str(tmp_path / "clip"), str(tmp_path / "pose"))
    assert (encoder.tokens, encoder.size) == (4, 16)
    seen = {**batch.columns, "picture": torch.rand(6, 3, 16, 16)}
    pictures = Batch(batch.ids, batch.epochs, seen)
    features = encoder(pictures)
    pixels = (seen["picture"] - encoder.mean) / encoder.deviation
    hidden = encoder.clip(pixel_values=pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(features[..., :8], hidden[:, 1:]) and features.shape == (6, 4, 16)
    assert (features[:, 0, 8:] == features[:, 3, 8:]).all()
    eyes = {
        "vision": "clip",
        "clip": str(tmp_path / "clip"),
        "pose_encoder": str(tmp_path / "pose"),
    }
    model = small(**eyes)
    prompt = model.encode(pictures)
    assert (prompt["tokens"] == model.soft.image).sum(1).tolist() == [16, 16, 0, 0, 0, 0]
    assert roll_out(model, pictures)[2].x0["valid"].shape == (6,)
    with pytest.raises(
        ComponentError, match=r"^pose_lm with `vision: clip` needs the column `pict"
    ):
        model.encode(batch)
    with pytest.raises(
        ComponentError, match=r"^pose_lm: `vision: clip` needs `clip`, the folder of"
    ):
        PoseLM(None, vision="clip")


def test_the_adapter_is_pefts_and_the_reference_is_it_switched_off(batch):
    model = small()
    tokens, mask = model.spell(batch["answer"], torch.device("cpu"))
    with torch.no_grad():
        before = model.answer(model.encode(batch), tokens, mask)
        adapter = attach(model, AdapterSpec(kind="lora", rank=2), 0, True)
        layers = {name.rpartition(".lora_")[0].rpartition(".")[2] for name in adapter.named}
        assert layers == {
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "lm_head",
            "enter",
            "middle",
            "mean",
            "spread",
        }
        for parameter in adapter.parameters:
            parameter.add_(0.1)
        after = model.answer(model.encode(batch), tokens, mask)
        with adapter.disabled():
            reference = model.answer(model.encode(batch), tokens, mask)
    assert not torch.allclose(after[1], before[1]) and not torch.allclose(after[0], before[0])
    assert torch.allclose(reference[0], before[0], atol=1e-6)
    assert torch.allclose(reference[1], before[1], atol=1e-6)


def test_poses_are_shown_as_skeletons(batch):
    model = small()
    rollout = roll_out(model, batch)[2]
    shown = model.show(rollout.decoded, batch)
    assert shown.shape == (6, 3, 128, 256) and 0 <= shown.min() < shown.max() <= 1
