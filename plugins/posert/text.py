"""Words: the miniature's tokenizer, the form of prompts, and the wanted answers."""

from __future__ import annotations

import re
from typing import Any

import torch
from rewardft_plugins.posert.posecodes import PHRASES
from torch import Tensor

POSE = "<POSE>"
IMAGE, BODY = "<image>", "<body>"  # places that soft tokens take in a prompt
PAD, END, ANSWER = "<pad>", "<end>", "<answer>"

TASKS = ("image", "text", "describe")
"""image -> pose, text -> pose, pose -> text."""

ANSWER_TEXT = f"The SMPL pose of this person is {POSE} ."
OTHER_ANSWERS = (f"I am not sure, here is {POSE} .", "I can see no person here.")
OTHER_SHARES = (0.12, 0.18)
"""What a supervised base also says, and how often: base models do not always keep to a form."""

POSE_FORM = r"The SMPL pose of this person is <POSE> ?\."
CAPTION_FORM = r"(?:[a-z ]+? ?, ){1,11}[a-z ]+? ?\."


def build_tokenizer() -> Any:
    """One token for each word of captions and answers, as a transformers tokenizer."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    special = [PAD, END, "<unk>", ANSWER, POSE, IMAGE, BODY]
    spoken = " ".join([*PHRASES, *OTHER_ANSWERS, ANSWER_TEXT, ", ."])
    words = re.findall(r"[A-Za-z]+|[.,]", spoken.replace(POSE, ""))
    # Sorted, so that a word has the same number on every machine.
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*special, *sorted(words)]))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token="<unk>",
        additional_special_tokens=[ANSWER, POSE, IMAGE, BODY],
    )


def add_pose_tokens(tokenizer: Any) -> int:
    """Make `<POSE>`, `<image>` and `<body>` tokens of a tokenizer; returns how many were new."""
    # Without `replace` the tokenizer's own special tokens would be forgotten.
    added: int = tokenizer.add_special_tokens(
        {"additional_special_tokens": [POSE, IMAGE, BODY]}, replace_extra_special_tokens=False
    )
    return added


def encode_texts(tokenizer: Any, texts: list[str], end: bool = False) -> list[list[int]]:
    """Token numbers of each text; with `end`, closed by the token that ends an answer."""
    close = [tokenizer.eos_token_id] if end else []
    return [tokenizer.encode(text, add_special_tokens=False) + close for text in texts]


def decode_texts(tokenizer: Any, tokens: Tensor, mask: Tensor) -> list[str]:
    """Texts of `tokens` `(b, l)` where `mask`; the end token and padding are left out."""
    drop = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    rows = [
        [int(t) for t, kept in zip(row, keep) if kept and int(t) not in drop]
        for row, keep in zip(tokens.tolist(), mask.tolist())
    ]
    return [tokenizer.decode(row).replace(" ,", ",") for row in rows]


def pad_left(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Tokens `(b, l)`, and which of them are not padding."""
    return _padded(rows, value, left=True)


def pad_right(rows: list[list[int]], value: int) -> tuple[Tensor, Tensor]:
    """Tokens `(b, l)`, and which of them are not padding."""
    return _padded(rows, value, left=False)


def _padded(rows: list[list[int]], value: int, left: bool) -> tuple[Tensor, Tensor]:
    length = max(len(row) for row in rows)
    tokens = torch.full((len(rows), length), value)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        tokens[i, place], mask[i, place] = torch.tensor(row, dtype=torch.long), True
    return tokens, mask
