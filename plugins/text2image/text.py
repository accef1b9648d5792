"""Frozen text encoders, and a bounded cache of their embeddings: each prompt is encoded once."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rewardft.errors import ComponentError

from .source import Source

Embedding = dict[str, Tensor]  # the conditions of one prompt, without the batch dimension


@dataclass
class TextEncoder:
    """A tokenizer and its frozen network.

    `length`: every prompt is padded or cut to this many tokens.
    cut: the prompts that a warning was given for.
    """

    tokenizer: Any
    network: nn.Module
    length: int
    cut: set[str] = field(default_factory=set)

    @classmethod
    def load(
        cls, source: Source, name: str, number: int, dtype: torch.dtype, length: int | None = None
    ) -> TextEncoder:
        """`text_encoder` and `tokenizer` of a checkpoint, or `text_encoder_2` and so on; `name` is
        its class."""
        suffix = "" if number == 1 else f"_{number}"
        tokens = "T5TokenizerFast" if name.startswith("T5") else "CLIPTokenizer"
        tokenizer = source.tokenizer(tokens, f"tokenizer{suffix}")
        network = source.network("transformers", name, f"text_encoder{suffix}", dtype)
        # A token beyond the embeddings fails at the first prompt that has one.
        if len(tokenizer) > network.config.vocab_size:  # type: ignore[union-attr,operator]
            raise ComponentError(
                f"{source.place(f'tokenizer{suffix}')} has {len(tokenizer)} tokens, more than the "
                f"{network.config.vocab_size} of {source.place(f'text_encoder{suffix}')}: "  # type: ignore[union-attr]
                f"they belong to different models."
            )
        return cls(tokenizer, network, length or int(tokenizer.model_max_length))

    def __call__(self, prompt: str) -> Any:
        """The network's output for one prompt,
        hidden states included: `(1, length, width)` each."""
        # To the full length, as the models were trained, so that every prompt has one shape.
        ids = self.tokenizer(
            [prompt],
            padding="max_length",
            max_length=self.length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        self._warn_of_cut(prompt)
        return self.network(
            ids.to(next(self.network.parameters()).device), output_hidden_states=True
        )

    def _warn_of_cut(self, prompt: str) -> None:
        # Once per prompt, or a long run would repeat the warning at every batch.
        count = len(self.tokenizer(prompt).input_ids)
        if count > self.length and prompt not in self.cut:
            self.cut.add(prompt)
            warnings.warn(
                f"a prompt of {count} tokens is cut to the {self.length} that the text encoder "
                f"reads: {prompt!r}",
                stacklevel=2,
            )


class PromptCache:
    """Embeddings in host memory, least recently used first out.

    limit: bytes. A prompt is embedded alone, so what it gives depends on no other prompt.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self.entries: OrderedDict[str, Embedding] = OrderedDict()

    def holds(self, prompts: Sequence[str]) -> bool:
        return all(prompt in self.entries for prompt in prompts)

    def get(self, prompts: Sequence[str], embed: Callable[[str], Embedding]) -> Embedding:
        """The embeddings of all prompts, stacked, on the CPU;
        `embed` is asked for those that are not held."""
        # Taken out first: a batch larger than the cache would throw out what it still needs.
        found = {prompt: self.entries[prompt] for prompt in prompts if prompt in self.entries}
        for prompt in dict.fromkeys(prompts):
            if prompt not in found:
                found[prompt] = {name: value.cpu() for name, value in embed(prompt).items()}
                self.size += size_of(found[prompt])
            self.entries[prompt] = found[prompt]
            self.entries.move_to_end(prompt)
        while self.size > self.limit:
            self.size -= size_of(self.entries.popitem(last=False)[1])
        return {
            name: torch.stack([found[prompt][name] for prompt in prompts])
            for name in found[prompts[0]]
        }


def size_of(embedding: Embedding) -> int:
    return sum(value.numel() * value.element_size() for value in embedding.values())


@contextmanager
def placed(encoders: Mapping[str, TextEncoder], device: torch.device) -> Iterator[None]:
    """Text encoders on `device` inside, and back in host memory afterwards."""
    for encoder in encoders.values():
        encoder.network.to(device)
    try:
        yield
    finally:
        for encoder in encoders.values():
            encoder.network.to("cpu")
