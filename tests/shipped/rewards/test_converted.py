"""Weights in the published layouts: converted, loaded, and compared with the published architectures written out here.

The architectures are plain torch on the original tensor names (open_clip's CLIP; BLIP's image transformer and its text
encoder with cross-attention), so names, splits, constants and masks are all checked.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from rewardft_plugins.rewards.convert import convert_hps, convert_image_reward
from rewardft_plugins.rewards.image_reward import ImageReward
from rewardft_plugins.rewards.preprocess import Preprocess
from rewardft_plugins.rewards.text_image import HpsV2
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertTokenizer

from rewardft.errors import ComponentError, RewardError
from rewardft.testing import check_reward
from rewardft.testing.rewards import make_rollout
from tests import processes

from .checkpoints import (
    EMBEDDING,
    SIZE,
    WIDTH,
    clip_config,
    clip_tokenizer,
    head_tensors,
    image_processor,
)
from .pictures import batch_of, smooth_pictures

PROMPTS = ["a red fox", "rain", "seven cups a fox a fox"]
LAYERS, HEADS, PATCH = 2, 2, 8
PLACES = (SIZE // PATCH) ** 2


@pytest.fixture
def pixels():
    return (smooth_pictures(3, 40, 48) * 255).round() / 255


@pytest.fixture
def batch():
    return batch_of(3, prompt=PROMPTS)


class Draws:
    """Random tensors by shape; norms near one, so that nothing vanishes and nothing is trivial."""

    def __init__(self, seed):
        self.generator, self.tensors = torch.Generator().manual_seed(seed), {}

    def add(self, name, *shape):
        self.tensors[name] = 0.3 * torch.randn(*shape, generator=self.generator)

    def linear(self, name, gives, reads):
        self.add(f"{name}.weight", gives, reads)
        self.add(f"{name}.bias", gives)

    def norm(self, name, width=WIDTH):
        self.add(f"{name}.weight", width)
        self.tensors[f"{name}.weight"] += 1
        self.add(f"{name}.bias", width)


def layer_norm(tensors, name, x, eps):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def linear(tensors, name, x):
    return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def score(reward, pixels, batch):
    with torch.no_grad():
        return reward(make_rollout(pixels, batch), batch)


# -- open_clip, for HPSv2 ----------------------------------------------------------------------------------------------


def open_clip_tensors(words):
    draws = Draws(0)
    for tower in ("visual.transformer", "transformer"):
        for i in range(LAYERS):
            block = f"{tower}.resblocks.{i}"
            draws.norm(f"{block}.ln_1")
            draws.norm(f"{block}.ln_2")
            draws.add(f"{block}.attn.in_proj_weight", 3 * WIDTH, WIDTH)
            draws.add(f"{block}.attn.in_proj_bias", 3 * WIDTH)
            draws.linear(f"{block}.attn.out_proj", WIDTH, WIDTH)
            draws.linear(f"{block}.mlp.c_fc", 48, WIDTH)
            draws.linear(f"{block}.mlp.c_proj", WIDTH, 48)
    draws.add("visual.class_embedding", WIDTH)
    draws.add("visual.positional_embedding", PLACES + 1, WIDTH)
    draws.add("visual.conv1.weight", WIDTH, 3, PATCH, PATCH)
    for name in ("visual.ln_pre", "visual.ln_post", "ln_final"):
        draws.norm(name)
    draws.add("visual.proj", WIDTH, EMBEDDING)
    draws.add("text_projection", WIDTH, EMBEDDING)
    draws.add("token_embedding.weight", words, WIDTH)
    draws.add("positional_embedding", 24, WIDTH)
    draws.tensors["logit_scale"] = torch.tensor(4.6)
    return draws.tensors


def open_clip_blocks(tensors, tower, x, mask=None):
    for i in range(LAYERS):
        block = f"{tower}.resblocks.{i}"
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.load_state_dict(
            {
                n.removeprefix(f"{block}.attn."): v
                for n, v in tensors.items()
                if n.startswith(f"{block}.attn.")
            }
        )
        y = layer_norm(tensors, f"{block}.ln_1", x, 1e-5)
        x = x + attention(y, y, y, need_weights=False, attn_mask=mask)[0]
        y = linear(tensors, f"{block}.mlp.c_fc", layer_norm(tensors, f"{block}.ln_2", x, 1e-5))
        x = x + linear(tensors, f"{block}.mlp.c_proj", F.gelu(y))
    return x


def open_clip_cosines(tensors, prepared, tokens):
    patches = F.conv2d(prepared, tensors["visual.conv1.weight"], stride=PATCH).flatten(2).mT
    first = tensors["visual.class_embedding"].expand(len(patches), 1, -1)
    x = layer_norm(
        tensors,
        "visual.ln_pre",
        torch.cat([first, patches], 1) + tensors["visual.positional_embedding"],
        1e-5,
    )
    x = open_clip_blocks(tensors, "visual.transformer", x)
    images = layer_norm(tensors, "visual.ln_post", x[:, 0], 1e-5) @ tensors["visual.proj"]
    y = (
        tensors["token_embedding.weight"][tokens]
        + tensors["positional_embedding"][: tokens.shape[1]]
    )
    mask = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)
    y = layer_norm(tensors, "ln_final", open_clip_blocks(tensors, "transformer", y, mask), 1e-5)
    texts = y[torch.arange(len(y)), tokens.argmax(1)] @ tensors["text_projection"]
    return F.cosine_similarity(images, texts)


@pytest.fixture
def clip_base(tmp_path):
    """What `base` is asked for: configuration, tokenizer, image processor; no weights."""
    tokenizer, folder = clip_tokenizer(), tmp_path / "base"
    config = clip_config(tokenizer)
    config.text_config.hidden_act = config.vision_config.hidden_act = (
        "gelu"  # CLIP-H, unlike OpenAI's
    )
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def test_hps_in_open_clips_layout_scores_as_open_clip(clip_base, tmp_path, pixels, batch):
    tokenizer = clip_tokenizer()
    tensors = open_clip_tensors(len(tokenizer))
    save_file(tensors | {"attn_mask": torch.zeros(24, 24)}, tmp_path / "hps.safetensors")
    convert_hps(tmp_path / "hps.safetensors", tmp_path / "out", str(clip_base))
    tokens = tokenizer(
        PROMPTS, padding=True, truncation=True, max_length=24, return_tensors="pt"
    ).input_ids
    expected = open_clip_cosines(
        tensors, Preprocess(SIZE, fit="pad", resample="floats")(pixels), tokens
    )
    got = score(HpsV2(str(tmp_path / "out")), pixels, batch)
    assert torch.allclose(got, expected, atol=1e-5) and expected.std() > 0.02


def test_weights_that_are_not_open_clips_are_explained(clip_base, tmp_path):
    tensors = open_clip_tensors(len(clip_tokenizer()))
    tensors["visual.extra"] = tensors.pop("visual.proj")
    save_file(tensors, tmp_path / "hps.safetensors")
    with pytest.raises(ComponentError) as caught:
        convert_hps(tmp_path / "hps.safetensors", tmp_path / "out", str(clip_base))
    assert str(caught.value) == (
        f"{tmp_path / 'hps.safetensors'} does not fit: 2 tensors are missing, surplus or of another shape, such as "
        f"visual.extra, visual_projection.weight"
    )


# -- BLIP, for ImageReward ---------------------------------------------------------------------------------------------

TEXT_WIDTH, TEXT_HEADS = 16, 4  # unlike the image encoder's, as in the published model
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fox", "rain", "red", "seven", "cups"]


def image_reward_tensors():
    draws = Draws(1)
    draws.add("blip.visual_encoder.cls_token", 1, 1, WIDTH)
    draws.add("blip.visual_encoder.pos_embed", 1, PLACES + 1, WIDTH)
    draws.add("blip.visual_encoder.patch_embed.proj.weight", WIDTH, 3, PATCH, PATCH)
    draws.add("blip.visual_encoder.patch_embed.proj.bias", WIDTH)
    draws.norm("blip.visual_encoder.norm")
    for i in range(LAYERS):
        block = f"blip.visual_encoder.blocks.{i}"
        draws.norm(f"{block}.norm1")
        draws.norm(f"{block}.norm2")
        for name, gives, reads in (
            ("attn.qkv", 3 * WIDTH, WIDTH),
            ("attn.proj", WIDTH, WIDTH),
            ("mlp.fc1", 40, WIDTH),
            ("mlp.fc2", WIDTH, 40),
        ):
            draws.linear(f"{block}.{name}", gives, reads)
    text = "blip.text_encoder"
    draws.add(f"{text}.embeddings.word_embeddings.weight", len(WORDS) + 2, TEXT_WIDTH)
    draws.add(f"{text}.embeddings.position_embeddings.weight", 40, TEXT_WIDTH)
    draws.norm(f"{text}.embeddings.LayerNorm", TEXT_WIDTH)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for kind, reads in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            draws.linear(f"{layer}.{kind}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            draws.linear(f"{layer}.{kind}.self.key", TEXT_WIDTH, reads)
            draws.linear(f"{layer}.{kind}.self.value", TEXT_WIDTH, reads)
            draws.linear(f"{layer}.{kind}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            draws.norm(f"{layer}.{kind}.output.LayerNorm", TEXT_WIDTH)
        draws.linear(f"{layer}.intermediate.dense", 24, TEXT_WIDTH)
        draws.linear(f"{layer}.output.dense", TEXT_WIDTH, 24)
        draws.norm(f"{layer}.output.LayerNorm", TEXT_WIDTH)
    draws.tensors |= {f"mlp.{n}": v for n, v in head_tensors((TEXT_WIDTH, 8, 6, 1)).items()}
    draws.linear("blip.vision_proj", 4, WIDTH)
    draws.linear("blip.text_proj", 4, TEXT_WIDTH)
    draws.tensors["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None].float()
    return draws.tensors


def attend(queries, keys, values, heads, mask=None):
    queries, keys, values = (
        x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries, keys, values)
    )
    weights = queries @ keys.mT / math.sqrt(queries.shape[-1])
    if mask is not None:
        weights = weights.masked_fill(~mask[:, None, None], -math.inf)
    return (weights.softmax(-1) @ values).transpose(1, 2).flatten(2)


def blip_patches(tensors, prepared):
    prefix = "blip.visual_encoder"
    patches = F.conv2d(
        prepared,
        tensors[f"{prefix}.patch_embed.proj.weight"],
        tensors[f"{prefix}.patch_embed.proj.bias"],
        stride=PATCH,
    )
    x = torch.cat(
        [tensors[f"{prefix}.cls_token"].expand(len(prepared), -1, -1), patches.flatten(2).mT], 1
    )
    x = x + tensors[f"{prefix}.pos_embed"]
    for i in range(LAYERS):
        block = f"{prefix}.blocks.{i}"
        three = linear(
            tensors, f"{block}.attn.qkv", layer_norm(tensors, f"{block}.norm1", x, 1e-6)
        ).chunk(3, dim=-1)
        x = x + linear(tensors, f"{block}.attn.proj", attend(*three, HEADS))
        y = linear(tensors, f"{block}.mlp.fc1", layer_norm(tensors, f"{block}.norm2", x, 1e-6))
        x = x + linear(tensors, f"{block}.mlp.fc2", F.gelu(y))
    return layer_norm(tensors, f"{prefix}.norm", x, 1e-6)


def image_reward_reference(tensors, prepared, tokens):
    patches, prefix = blip_patches(tensors, prepared), "blip.text_encoder"
    ids, mask = tokens.input_ids, tokens.attention_mask.bool()
    x = tensors[f"{prefix}.embeddings.word_embeddings.weight"][ids]
    x = x + tensors[f"{prefix}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = layer_norm(tensors, f"{prefix}.embeddings.LayerNorm", x, 1e-12)
    for i in range(LAYERS):
        layer = f"{prefix}.encoder.layer.{i}"
        for kind, read, visible in (("attention", None, mask), ("crossattention", patches, None)):
            source = x if read is None else read
            parts = [
                linear(tensors, f"{layer}.{kind}.self.{p}", s)
                for p, s in (("query", x), ("key", source), ("value", source))
            ]
            y = linear(tensors, f"{layer}.{kind}.output.dense", attend(*parts, TEXT_HEADS, visible))
            x = layer_norm(tensors, f"{layer}.{kind}.output.LayerNorm", y + x, 1e-12)
        y = linear(
            tensors,
            f"{layer}.output.dense",
            F.gelu(linear(tensors, f"{layer}.intermediate.dense", x)),
        )
        x = layer_norm(tensors, f"{layer}.output.LayerNorm", y + x, 1e-12)
    value = x[:, 0]
    for number in (0, 2, 4):
        value = linear(tensors, f"mlp.layers.{number}", value)
    return (value.squeeze(1) - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture
def bert(tmp_path):
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(
        tmp_path / "bert"
    )
    return tmp_path / "bert"


@pytest.fixture
def image_reward(tmp_path, bert):
    save_file(image_reward_tensors(), tmp_path / "published.safetensors")
    convert_image_reward(
        tmp_path / "published.safetensors", tmp_path / "out", str(bert), heads=(HEADS, TEXT_HEADS)
    )
    return tmp_path / "out"


def test_image_reward_scores_as_its_published_architecture(image_reward, bert, pixels, batch):
    tokens = BertTokenizer.from_pretrained(bert)(
        PROMPTS, padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    expected = image_reward_reference(image_reward_tensors(), Preprocess(SIZE)(pixels), tokens)
    got = score(ImageReward(str(image_reward)), pixels, batch)
    assert torch.allclose(got, expected, atol=1e-4) and expected.std() > 0.05
    swapped = score(ImageReward(str(image_reward)), pixels, batch_of(3, prompt=PROMPTS[::-1]))
    assert (swapped - got).abs().max() > 0.01, "the prompt is read"


def test_image_reward_keeps_the_contract(image_reward, pixels, batch):
    reward = ImageReward(str(image_reward))
    report = check_reward(
        reward, pixels.clamp(0.05, 0.95), batch, differentiable=True, tolerance=1e-3
    )
    assert report.low < report.high and report.gradient_error < 0.05
    assert not reward.training and all(not p.requires_grad for p in reward.parameters())


def test_weights_that_are_not_image_rewards_are_explained(tmp_path, bert):
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(ComponentError) as caught:
        convert_image_reward(tmp_path / "other.safetensors", tmp_path / "out", str(bert))
    assert str(caught.value) == (
        f"{tmp_path / 'other.safetensors'} holds no ImageReward: it lacks what becomes "
        f"'vision_model.embeddings.patch_embedding.weight'"
    )


def test_a_folder_with_missing_tensors_is_explained(image_reward):
    tensors = load_file(image_reward / "model.safetensors")
    del tensors["text_encoder.encoder.layer.1.output.dense.bias"]
    save_file(tensors, image_reward / "model.safetensors")
    with pytest.raises(ComponentError) as caught:
        ImageReward(str(image_reward))
    assert str(caught.value) == (
        f"image_reward: {image_reward} does not fit its configuration: 1 tensors, such as "
        f"text_encoder.encoder.layer.1.output.dense.bias"
    )


def test_image_reward_needs_a_converted_folder_and_prompts(image_reward, pixels):
    with pytest.raises(ComponentError) as caught:
        ImageReward("THUDM/ImageReward")
    assert str(caught.value) == (
        "image_reward: expected a folder made by `rewardft rewards convert-image-reward`, got 'THUDM/ImageReward', "
        "which is not a folder"
    )
    with pytest.raises(
        RewardError, match=r"image_reward compares images with the text in batch\['prompt'\]"
    ):
        score(ImageReward(str(image_reward)), pixels, batch_of(3, label=[1, 2, 3]))


def test_the_commands_convert(tmp_path, clip_base):
    save_file(open_clip_tensors(len(clip_tokenizer())), tmp_path / "hps.safetensors")
    words = ["convert-hps", tmp_path / "hps.safetensors", tmp_path / "out", "--base", clip_base]
    result = processes.run("rewards", *words, env={"HF_HUB_OFFLINE": "1"})
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout.strip()
        == f"wrote {tmp_path / 'out'}: rewards: [{{use: hps_v2, weights: {tmp_path / 'out'}}}]"
    )
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
