"""What is trained: a causal language model, the projectors of its soft tokens, and the pose
head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rewardft_plugins.posert.head import PoseHead
from rewardft_plugins.posert.rotations import SIZE
from torch import Tensor, nn

Prompt = Mapping[str, Tensor]
"""`tokens` `(b, p)` padded on the left, `mask` `(b, p)` bool, `seen` `(b, t, s)` features of the
picture, `body` `(b, 132)` a pose that is asked about."""


@dataclass(frozen=True)
class SoftTokens:
    """Numbers of the tokens whose places soft tokens take, and how many each feature becomes."""

    image: int
    body: int
    count: int


class Projector(nn.Module):
    """Features `(b, t, size)` -> soft tokens `(b, t * count, hidden)`."""

    def __init__(self, size: int, width: int, hidden: int, count: int) -> None:
        super().__init__()
        self.count, self.hidden = count, hidden
        self.enter, self.leave = nn.Linear(size, width), nn.Linear(width, count * hidden)

    def forward(self, features: Tensor) -> Tensor:
        features = features.to(self.enter.weight.dtype)
        x = self.leave(nn.functional.silu(self.enter(features)))
        return x.unflatten(-1, (self.count, self.hidden)).flatten(1, 2)


class PoseLanguageNetwork(nn.Module):
    """Prompts and answers in, scores of tokens and hidden states out.

    Args:
        lm: a transformers causal language model whose `base_model` takes `inputs_embeds` and whose
            output embedding is one linear layer, as Llama's.
        seen: size of the features of a picture.
        head: the pose head.
        soft: what soft tokens there are.
        width: of the picture's projector; the pose's has half of it.
    """

    def __init__(self, lm: Any, seen: int, head: PoseHead, soft: SoftTokens, width: int) -> None:
        super().__init__()
        hidden = lm.config.hidden_size
        self.lm, self.head, self.soft = lm, head, soft
        self.image = Projector(seen, width, hidden, soft.count)
        self.body = Projector(SIZE, max(width // 2, 1), hidden, soft.count)

    def embed(self, prompt: Prompt) -> Tensor:
        """`(b, p, h)`: words, and soft tokens in their places."""
        tokens = prompt["tokens"]
        embedded = self.lm.get_input_embeddings()(tokens)
        # Placeholders keep the length of a prompt, so masks and positions need no change.
        embedded = replaced(embedded, tokens == self.soft.image, self.image(prompt["seen"]))
        return replaced(embedded, tokens == self.soft.body, self.body(prompt["body"][:, None]))

    def hidden(
        self, embedded: Tensor, mask: Tensor, places: Tensor, cache: Any = None
    ) -> tuple[Tensor, Any]:
        """Last hidden states `(b, n, h)` of `embedded` `(b, n, h)`, and the cache. mask: of all
        positions so far."""
        # Without the output layer: scores are needed at a few places alone.
        # `use_cache` only while speaking: a cache would hold a graph in training.
        output = self.lm.base_model(
            inputs_embeds=embedded,
            attention_mask=mask.long(),
            position_ids=places,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state, output.past_key_values

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every token, in float32 or better: log-probabilities need the digits."""
        scores: Tensor = self.lm.get_output_embeddings()(hidden)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def over(self, prompt: Prompt, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """One pass over prompts and finished answers `(b, l)`: what was scored before each token
        `(b, l, v)`, and the states after each `(b, l, h)`."""
        embedded = torch.cat([self.embed(prompt), self.lm.get_input_embeddings()(tokens)], dim=1)
        whole = torch.cat([prompt["mask"], mask], dim=1)
        states, _ = self.hidden(embedded, whole, positions(whole))
        # Where answers begin, in every row, as prompts are padded on the left.
        start = prompt["tokens"].shape[1]
        # A token is scored by the state before it, the pose by the state after its token.
        return self.logits(states[:, start - 1 : -1]), states[:, start:]


def replaced(embedded: Tensor, where: Tensor, soft: Tensor) -> Tensor:
    """`embedded` `(b, p, h)` with the soft tokens `(b, n, h)`, in order, at the places `where`."""
    # The n-th placeholder of a row takes its n-th soft token.
    order = (where.cumsum(1) - 1).clamp(0, soft.shape[1] - 1)
    chosen = soft.gather(1, order[..., None].expand(-1, -1, soft.shape[-1]))
    return torch.where(where[..., None], chosen.to(embedded.dtype), embedded)


def positions(mask: Tensor) -> Tensor:
    """Places `(b, n)` of the tokens; padding on the left does not count."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)
