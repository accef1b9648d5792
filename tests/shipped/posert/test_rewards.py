"""Rewards against their formulas, and what they say of wrong settings."""

import math
import re

import pytest
import torch
from rewardft_plugins.posert.retriever import Retriever, load_retriever
from rewardft_plugins.posert.rewards import (
    AnswerSimilarity,
    Format,
    JointAccuracy,
    PoseTextSimilarity,
    bags_of_words,
)
from rewardft_plugins.posert.rotations import joints
from rewardft_plugins.posert.text import ANSWER_TEXT
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.types import Plan, Rollout

GOOD = "The SMPL pose of this person is <POSE> ."


def answered(batch, texts, pose=None):
    """A rollout whose answers are `texts`, two of each task in a row: image, text, describe."""
    pose = batch["pose"] if pose is None else pose
    valid = torch.tensor([text.count("<POSE>") == 1 for text in texts])
    decoded = {"text": texts, "joints": joints(pose), "pose": pose, "valid": valid}
    x0 = {"pose": pose, "valid": valid}
    noise = Noise(0, batch.ids, batch.epochs)
    return Rollout(None, noise, Plan(stop=2), x0=x0, decoder=lambda x0: decoded)


def test_joint_accuracy_is_one_over_the_error_and_bounded(batch):
    pose = batch["pose"].clone()
    pose[1] = pose[1] + 0.3 * torch.randn(132, generator=torch.Generator().manual_seed(0))
    value = JointAccuracy(floor=0.05)(answered(batch, [GOOD] * 6, pose), batch)
    error = (joints(pose)[1] - joints(batch["pose"])[1]).norm(dim=-1).mean()
    assert error > 0.05 and value[:2].tolist() == pytest.approx([20.0, 1 / float(error)])
    assert value[2:].isnan().all()  # of other tasks
    none = JointAccuracy()(answered(batch, ["I can see no person here."] * 6), batch)
    assert none.isnan().all()
    with pytest.raises(ComponentError, match=r"^joint_accuracy: floor must be above 0, got 0$"):
        JointAccuracy(0)


def test_form_is_all_or_nothing(batch):
    caption = "left knee bent, torso upright."
    texts = [GOOD, "The SMPL pose of this person is.", GOOD + " .", f"{GOOD} {GOOD}", caption, GOOD]
    rollout = answered(batch, texts)
    assert Format()(rollout, batch).tolist() == [1, 0, 0, 0, 1, 0]
    assert Format(pose="The .*", caption=".*")(rollout, batch).tolist() == [1] * 6
    with pytest.raises(
        ComponentError, match=r"^format: pose is not a regular expression: '\(' \(miss"
    ):
        Format(pose="(")


def test_answers_alike_have_a_cosine_of_one(batch):
    texts = [ANSWER_TEXT, "here is <POSE> .", "I can see no person here.", "", "x y z.", "left"]
    value = AnswerSimilarity()(answered(batch, texts), batch)
    assert value[0] == pytest.approx(1.0) and value[3] == 0
    words = [
        {
            *re.findall(r"<POSE>|\w+", text),
            *zip(split := re.findall(r"<POSE>|\w+", text), split[1:]),
        }
        for text in (texts[1], ANSWER_TEXT)
    ]
    shared = len(words[0] & words[1])
    assert value[1] == pytest.approx(shared / math.sqrt(len(words[0]) * len(words[1])))
    assert bags_of_words(["a b", "b a"])[:, :].sum(1).tolist() == [3, 3]


def test_answers_may_be_compared_by_a_text_encoder(batch, tmp_path):
    """Real classes of transformers, tiny; the first token is the text's embedding."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "pose": 2, "person": 3}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path)
    reward = AnswerSimilarity(model=str(tmp_path))
    value = reward(answered(batch, [ANSWER_TEXT, *["person pose"] * 5]), batch)
    assert value[0] == pytest.approx(1.0, abs=1e-6) and value[1] < 0.999
    with pytest.raises(ComponentError, match=r"^answer_similarity: expected a folder with a text"):
        AnswerSimilarity(model=str(tmp_path / "none"))


def test_similarity_is_the_retrievers_cosine_for_captions_alone(batch):
    rollout = answered(batch, [GOOD, GOOD, GOOD, "no", GOOD, GOOD])
    value = PoseTextSimilarity()(rollout, batch)
    judge = load_retriever("shipped_a")
    expected = judge.text([batch["caption"][2]])[0] @ judge.pose(batch["pose"][2:3])[0]
    assert value.isnan().tolist() == [True, True, False, True, True, True]
    assert value[2] == pytest.approx(float(expected), abs=1e-5)
    with pytest.raises(ComponentError, match=r"got 'shiped_a'. Did you mean 'shipped_a'\?$"):
        PoseTextSimilarity("shiped_a")


def test_retrievers_read_what_they_have_written_and_know_their_kind(tmp_path):
    for features, salt in (("rotations", 0), ("joints", 1)):
        torch.manual_seed(salt)
        made = Retriever(features, salt)
        made.save(tmp_path / "r.safetensors")
        again = load_retriever(str(tmp_path / "r.safetensors"))
        pose = torch.randn(3, 132)
        assert (again.features, again.salt) == (features, salt)
        assert torch.allclose(made(["a b."] * 3, pose), again(["a b."] * 3, pose), atol=5e-3)
    (tmp_path / "r.safetensors").write_bytes(b"no")
    with pytest.raises(ComponentError, match="expected a retriever, as `rewardft posert train-ret"):
        load_retriever(str(tmp_path / "r.safetensors"))


def test_the_shipped_retrievers_tell_whose_caption_it_is():
    """The right pose among the first ten of 300 held-out ones, 3 % by chance."""
    from rewardft_plugins.posert.training import recall

    for name in ("shipped_a", "shipped_b"):
        assert min(recall(load_retriever(name), "shipped")) > 0.25


def test_a_few_steps_of_training_lower_the_retrievers_loss():
    from rewardft_plugins.posert.training import RetrieverSettings, train_retriever

    losses = []
    settings = RetrieverSettings(steps=200, batch=32)
    train_retriever("shipped", settings, lambda text: losses.append(float(text.split()[-1])))
    assert losses[1] < losses[0] < math.log(32)
