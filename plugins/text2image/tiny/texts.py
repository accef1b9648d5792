"""Text encoders of a few thousand random weights, from the real classes of transformers, and their
tokenizers, which know letters or bytes alone: a word is as many tokens as it has letters."""

from __future__ import annotations

from typing import Any

import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

# Its own types do not know all of its classes, nor all that these take.
T: Any = transformers
WIDTH = 16  # of text features
MARKS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


def qwen_tokenizer() -> Any:
    names = [*bytes_to_unicode().values(), *MARKS]
    tokenizer = T.Qwen2Tokenizer(
        vocab={name: i for i, name in enumerate(names)},
        merges=[],
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS[1:]})
    tokenizer.chat_template = CHAT
    return tokenizer


def t5_tokenizer() -> Any:
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T.T5TokenizerFast(
        vocab=[(n, -float(i)) for i, n in enumerate(names)], extra_ids=0, model_max_length=512
    )


def clip_tokenizer() -> Any:
    """Bytes alone, once within a word and once at its end."""
    names = list(bytes_to_unicode().values())
    names += [f"{name}</w>" for name in names]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {name: i for i, name in enumerate(names)}
    return T.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def qwen3(kind: Any, layers: int) -> Any:
    config = T.Qwen3Config(
        vocab_size=300,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return kind(config)


def qwen25_vl() -> Any:
    text = {
        "vocab_size": 300,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [2, 1, 1],
            "rope_theta": 10000.0,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": WIDTH,
        "intermediate_size": 32,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1],
        "window_size": 28,
        "patch_size": 14,
    }
    ids = {
        "image_token_id": 261,
        "vision_start_token_id": 259,
        "vision_end_token_id": 260,
        "video_token_id": 299,
    }
    return T.Qwen2_5_VLForConditionalGeneration(
        T.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids)
    )


def clip(kind: Any = T.CLIPTextModel, width: int = WIDTH) -> Any:
    size = len(clip_tokenizer())
    config = T.CLIPTextConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=32,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    return kind(config)


def t5() -> Any:
    config = T.T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T.T5EncoderModel(config)


def umt5() -> Any:
    config = T.UMT5Config(vocab_size=40, d_model=WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    return T.UMT5EncoderModel(config)
