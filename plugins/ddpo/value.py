"""The value head of DPOK: a small network that predicts the final reward from a state of the chain.

Its input is what any model has: mean and spread of each channel of the state, the condition's
tensors averaged over their middle dimensions, and the step. Weights and optimizer state live in
`ctx.memory`, so that a resumed run continues to the same bits; all processes learn from the
gathered states and stay equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rewardft import Context, Rollout
from rewardft.errors import ComponentError

KEY = "dpok/value_head"
WIDTH = 64


class ValueHead:
    """V(x_k, c, k), trained by mean squared error on the final reward (authors' code: AdamW,
    lr 1e-4)."""

    def __init__(self, lr: float, steps: int) -> None:
        if lr <= 0 or steps < 1:
            raise ComponentError(
                f"expected value_lr > 0 and value_steps >= 1, got {lr} and {steps}"
            )
        self.lr, self.steps = lr, steps
        self.network: nn.Module | None = None

    def advantage(self, ctx: Context, rollout: Rollout, rewards: Tensor, kept: Tensor) -> Tensor:
        """r - V(x_k) `(b, T)` by the head as it was, then learn from the states of the samples that
        are `kept`, `(b,)`: to the others no reward applies."""
        # (b, T, f): one row for every state of the chain.
        features = torch.stack([state_features(rollout, k) for k in sorted(rollout.states)], dim=1)
        network = self.network or self.build(ctx, features.shape[-1])
        # Before learning: a head that has seen these very rewards would explain them away.
        with torch.no_grad():
            advantage = rewards[:, None] - network(features).squeeze(-1)
        # Every process fits the states of all, in the same order, so their heads stay equal.
        used = ctx.gather(kept)
        error = self.fit(ctx, network, ctx.gather(features)[used], ctx.gather(rewards)[used])
        ctx.record("value_error", error.expand(len(rewards)))
        return advantage

    def build(self, ctx: Context, size: int) -> nn.Module:
        """A new head from the run's seed, or the one that a checkpoint holds."""
        # The global generator is put back, so that a value head changes no other draw of the run.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)
            layers = [
                # The features have no common scale: means near 0, the step's number up to T.
                nn.LayerNorm(size),
                nn.Linear(size, WIDTH),
                nn.SiLU(),
                nn.Linear(WIDTH, 1),
            ]
        self.network = nn.Sequential(*layers).to(ctx.device)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.lr)
        if KEY in ctx.memory:
            self.network.load_state_dict(ctx.memory[KEY]["network"])
            self.optimizer.load_state_dict(ctx.memory[KEY]["optimizer"])
        return self.network

    def fit(self, ctx: Context, network: nn.Module, features: Tensor, rewards: Tensor) -> Tensor:
        """Gradient steps on all states; returns the squared error before the first, NaN where
        there are none."""
        if not len(rewards):
            return torch.tensor(float("nan"), device=ctx.device)
        first = None
        for _ in range(self.steps):
            with torch.enable_grad():
                # (b, T, f) -> (b, T), against one reward for all states of a sample.
                error = (network(features).squeeze(-1) - rewards[:, None]).square().mean()
                self.optimizer.zero_grad()
                error.backward()
            self.optimizer.step()
            # The error of the head that gave the advantages, before it learned from this batch.
            first = error.detach() if first is None else first
        ctx.memory[KEY] = {
            "network": network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        assert first is not None
        return first


def state_features(rollout: Rollout, k: int) -> Tensor:
    """`(b, f)` float32."""
    state = rollout.states[k].float()
    # (b, channels, positions); a flat state has one position per channel.
    channels = state.flatten(2) if state.ndim > 2 else state[:, :, None]
    parts = [
        channels.mean(2),
        # The population's: dividing by n - 1 would be NaN for a single position.
        channels.std(2, unbiased=False),
        torch.full_like(state.flatten(1)[:, :1], k),
    ]
    parts += [
        # (b, tokens, ..., width) -> (b, width), whatever the number of tokens.
        t.float().reshape(len(t), -1, t.shape[-1] if t.ndim > 1 else 1).mean(1)
        for t in tensors(rollout.cond)
    ]
    return torch.cat(parts, dim=1)


def tensors(cond: Any) -> Iterator[Tensor]:
    """The tensors inside a condition's dictionaries, lists and tuples."""
    if isinstance(cond, Tensor):
        yield cond
    # Models nest conditions as they like; whatever else is inside does not vary by sample.
    elif isinstance(cond, Mapping):
        for value in cond.values():
            yield from tensors(value)
    elif isinstance(cond, (list, tuple)):
        for value in cond:
            yield from tensors(value)
