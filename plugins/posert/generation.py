"""Answers token by token, with temperature, nucleus and a key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rewardft_plugins.posert.network import PoseLanguageNetwork, Prompt, positions
from torch import Tensor


@dataclass(frozen=True)
class Decoding:
    """temperature: 0 takes the likeliest token.
    top_p: draw among the likeliest tokens that hold this share of the probability, in (0, 1].
    length: tokens of an answer, at most."""

    temperature: float = 1.0
    top_p: float = 1.0
    length: int = 24


@dataclass(frozen=True)
class Answers:
    """tokens, mask: `(b, l)`, padded on the right.
    log_probs: `(b, l)` of each token drawn, at the temperature, before the nucleus.
    states: `(b, l, h)` after each token."""

    tokens: Tensor
    mask: Tensor
    log_probs: Tensor
    states: Tensor


def generate(
    network: PoseLanguageNetwork, prompt: Prompt, draws: Tensor, decoding: Decoding, end: int
) -> Answers:
    """Draw an answer for each prompt, up to the token `end`.

    draws: `(b, length)` uniform numbers in [0, 1): the same draws give the same answers.
    """
    from transformers import DynamicCache

    # Prompts are padded on the left, so the last state of every row is its prompt's end.
    mask, alive = prompt["mask"], torch.ones_like(prompt["mask"][:, 0])
    # The prompt is read once; each further token costs one position.
    states, cache = network.hidden(network.embed(prompt), mask, positions(mask), DynamicCache())
    last, kept = states[:, -1], []
    for step in range(decoding.length):
        logits = network.logits(last)
        tokens = pick(logits, draws[:, step], decoding)
        # Rows that have ended go on with the end token, masked, until all have.
        tokens = torch.where(alive, tokens, end)
        # Before the nucleus: what the replay computes, which knows of no cut.
        scores = tempered(logits, decoding.temperature).gather(-1, tokens[:, None])[:, 0]
        mask = torch.cat([mask, alive[:, None]], dim=1)
        embedded = network.lm.get_input_embeddings()(tokens[:, None])
        states, cache = network.hidden(embedded, mask, positions(mask)[:, -1:], cache)
        last = states[:, -1]
        kept.append((tokens, alive, scores, last))
        alive = alive & (tokens != end)
        if not alive.any():
            break
    parts = [torch.stack(column, dim=1) for column in zip(*kept)]
    return Answers(*parts)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature; those of the policy itself where it is 0."""
    return (logits / temperature if temperature > 0 else logits).log_softmax(-1)


def pick(logits: Tensor, draws: Tensor, decoding: Decoding) -> Tensor:
    """A token for each row of `logits` `(b, v)` by the inverse of the cumulative distribution."""
    if decoding.temperature == 0:
        return logits.argmax(-1)
    # (b, v), likeliest first.
    probability, order = tempered(logits, decoding.temperature).exp().sort(-1, descending=True)
    # `total - probability` is the mass before a token: it is inside if that is below top_p.
    total = probability.cumsum(-1)
    inside = total - probability < decoding.top_p  # the likeliest one is always inside
    share = (probability * inside).cumsum(-1)
    # Inverse of the cumulative distribution; a draw of nearly 1 may round beyond the last.
    place = (share <= draws[:, None] * share[:, -1:]).sum(-1, keepdim=True)
    last = inside.sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last))[:, 0]
