"""SRPO: Shen et al. 2025, 2509.06942, "Directly Aligning the Full Diffusion Trajectory ...".

Two ideas, of which the second is optional.

**Direct-Align.** A finished sample x0 is noised again with a noise epsilon that is known, to any
level k of the chain:

    x_k = alpha_k x0 + sigma_k epsilon                                                          (1)

The network takes out a part of it, down to the less noisy level j, in one step

    x_j = alpha_j x0_hat(x_k) + sigma_j epsilon_hat(x_k)                                        (2)

and the rest, which is known, is subtracted:

    x0_restored = (x_j - sigma_j epsilon) / alpha_j
                = x0_hat + (sigma_j / alpha_j) (epsilon_hat - epsilon)                          (3)

A perfect network restores x0 exactly from any k; a real one changes it by its own step alone. The
reward of the restored sample is differentiated through that one step; x_k is a constant. So every
level can learn, early ones too, at the price of one forward and one backward. Restored from level
j, a sample counts lambda(j): little where hardly any noise is left, because late steps are what
reward hacking uses,

    lambda(u) = s u / (1 + (s - 1) u),   u = (T - j) / T,   s = discount_shift                  (4)

**Semantic relative preference.** The reward of a sample is that for a prompt with a wanted word in
front, less that for the prompt with an unwanted one:

    r_srp = (1 + k) r(x, "wanted. prompt") - r(x, "unwanted. prompt")                           (5)

With a CLIP-like reward, linear in the text's embedding, this is f(x) . ((1 + k) C_wanted -
C_unwanted): what the reward model likes whatever the prompt says cancels. It costs a second
evaluation of the reward, and the reward model need not know of it.

**The inversion branch** (`inversion`) regularises by the opposite walk. x_i with i > j, less
noisy than level j, is noised by one step of the network up to x_j, equation 2 from i, and
restored by (3). The reward asked of it is the opposite one,

    r_inv = (1 + k') r(x, "unwanted. prompt") - r(x, "wanted. prompt")                          (6)

or -r without words. The network enters (2) with the opposite sign there, so both branches pull it
the same way, while what every step does to a picture, whatever it shows, cancels. Each visit then
learns from both branches, which meet at level j, and its loss is their mean.

The released code for FLUX is `inversion: true`, `target: 0.7` (the loss is relu(0.7 - r) in both
branches), `discount_shift: null`, and for (5) and (6) strengths that depend on the level, linear
from the clean end to the noisiest: `strength: [0.1, 0.25]` at level j, `inverted_strength: [0.3,
0.01]` at level i. It goes over 1,000 levels between the 6th and the 26th of its sampler's and
jumps a tenth of them. Like it, (3) divides by alpha_j, the level that (2) reaches; epsilon is the
noise that the sample was rolled out from; visits run without guidance; the words change with the
step; pictures are clamped to [0, 1] before they are scored, by the model's `decode` here. The
discount (4) is the paper's.

Cost per optimizer step and sample, with V visits: T + V denoiser forwards and V backwards (and V
forwards under the reference when there are regularizers); 1 + V reward evaluations, or 1 + 2 V with
words. With the inversion branch V counts twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rewardft import Context
from rewardft.errors import ComponentError
from rewardft.recipe.bounds import Count, NotNegative, Positive
from rewardft.types import Batch, Loss, Plan, Rollout, Transition, micro_slices

DIRECT = frozenset({"differentiable_sampler", "renoise", "reward_gradient"})


@dataclass(frozen=True)
class Visit:
    """Noise to level k, go to level j with the network, k and j < T.

    Levels count as the sampler's steps do, 0 is the noisiest: k < j denoises, k > j inverts.
    """

    k: int
    j: int

    @property
    def inverts(self) -> bool:
        return self.k > self.j


@dataclass(frozen=True)
class SRPO:
    """Direct-Align, with the semantic relative preference where words are given.

    Args:
        visits: levels at which each sample learns, per optimizer step.
        jump: sampling steps that the network takes out at once; the rest of the noise is known.
        window: the part of the chain where visits begin, [0, 1] all of it, [0, 0.6] the noisy 60
            percent.
        discount_shift: s in (4), > 0; 1 is linear, null: every level counts 1.
        wanted, unwanted: words in front of the prompt, (5); of a list, one word per step, in turn.
        strength: k in (5), >= 0: one number, or two, at the clean end and at the noisiest level.
        inverted_strength: k' in (6), likewise.
        inversion: learn from the inversion branch too.
        target: the loss is relu(target - r), so that samples that are good enough are left alone;
            null: -r.
        column: the batch's column of prompts.
    """

    visits: Count = 1
    jump: Count = 1
    window: tuple[float, float] = (0.0, 1.0)
    discount_shift: Positive | None = 3.0
    wanted: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    strength: NotNegative | tuple[NotNegative, NotNegative] = 0.0
    inverted_strength: NotNegative | tuple[NotNegative, NotNegative] = 0.0
    inversion: bool = False
    target: float | None = None
    column: str = "prompt"

    needs = DIRECT

    @staticmethod
    def needs_for(wanted: tuple[str, ...] = (), **_: Any) -> frozenset[str]:
        """Words make sense with rewards that read the prompt, which say so."""
        return frozenset({"prompt_reward"}) if wanted else frozenset()

    def __post_init__(self) -> None:
        low, high = self.window
        if self.visits < 1 or self.jump < 1 or not 0 <= low < high <= 1:
            raise ComponentError(
                "srpo: expected visits and jump of at least 1 and a window within [0, 1], got "
                f"{self.visits}, {self.jump} and [{low:g}, {high:g}]"
            )
        strengths = (*ends(self.strength), *ends(self.inverted_strength))
        if (self.discount_shift is not None and self.discount_shift <= 0) or min(strengths) < 0:
            raise ComponentError(
                "srpo: expected discount_shift > 0, strength and inverted_strength >= 0, got "
                f"{self.discount_shift}, {self.strength} and {self.inverted_strength}"
            )
        # The difference of two wordings needs both.
        if bool(self.wanted) != bool(self.unwanted):
            raise ComponentError(
                "srpo: a relative preference needs `wanted` and `unwanted` words; only one is given"
            )

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        steps = ctx.sampler.steps
        visits = [
            branch
            for _ in range(self.visits)
            for branch in self.branches(self.draw_visit(steps, ctx.rng))
        ]
        # No state is kept: visits make their own from the finished sample.
        rollout = ctx.rollout(batch, Plan(stop=steps))
        ctx.score(rollout, batch)  # of the samples themselves, for the logs
        total = len(batch) * len(visits)
        parts = [
            (rows, n)
            for rows in micro_slices(len(batch), ctx.micro_batch)
            for n in range(len(visits))
        ]
        for rows, n in parts:
            loss = self.loss(ctx, rollout.select(rows), batch.select(rows), visits[n])
            yield Loss(loss.sum() / total, step=(rows, n) == parts[-1])

    def draw_visit(self, steps: int, rng: random.Random) -> Visit:
        """Draw k over the window's steps from which `jump` can be taken with noise left, where
        lambda is above 0; the inversion branch comes from another `jump` below."""
        low, high = (round(edge * steps) for edge in self.window)
        # The inversion begins another jump further down, which must still have noise.
        taken = self.jump * (2 if self.inversion else 1)
        last = min(high, steps - taken) - 1
        if last < low:
            raise ComponentError(
                f"srpo: no step of {steps} is within the window [{self.window[0]:g}, "
                f"{self.window[1]:g}] and leaves noise after {taken} of them. Widen the "
                "window, lower `jump` or sample with more steps."
            )
        k = rng.randint(low, last)
        return Visit(k, k + self.jump)

    def branches(self, visit: Visit) -> list[Visit]:
        """The visit, and the inversion that meets it at level j."""
        inverted = [Visit(visit.j + self.jump, visit.j)] if self.inversion else []
        return [visit, *inverted]

    # -- Direct-Align ------------------------------------------------------------------------------

    def loss(self, ctx: Context, rollout: Rollout, batch: Batch, visit: Visit) -> Tensor:
        """`(b,)`: its gradient is that of -lambda r(restored) plus the regularizers;
        its value is a surrogate."""
        # Known noise is what makes the jump exact: see (2) and (3).
        epsilon = rollout.noise.draw("initial", rollout.x0.shape[1:])
        state = ctx.sampler.renoise(rollout.x0, visit.k, epsilon)  # equation 1
        noised = replace(rollout.with_x0(None), states={visit.k: state}, outputs={}, log_probs={})
        # One pass of the network: guidance would double the cost of a visit.
        with ctx.policy.unguided():
            new = ctx.replay(noised, visit.k)
            penalty = ctx.penalty(new, noised, visit.k)
        restored = restore(ctx.sampler, new, epsilon, visit.j)
        ctx.record(
            "restored/change", (restored - rollout.x0).detach().square().flatten(1).mean(1).sqrt()
        )
        # The reward's own graph ends here: its gradient comes back as a constant.
        seen = rollout.with_x0(restored.detach())
        reward, slope, applies = self.reward(ctx, seen, batch, visit)
        penalty, value, wanting = applies * penalty, -reward, torch.ones_like(reward)
        if self.target is not None:
            value = applies * (self.target - reward).relu()
            wanting = (reward < self.target).to(reward)
        # `wanting` is relu's derivative: a sample above the target passes no gradient.
        weight = self.discount(visit.j, ctx.sampler.steps)
        ctx.record("loss", penalty + weight * value)
        # Linear in `restored`, with the reward's gradient as a constant: one denoiser graph and no
        # reward graph at a time.
        # (b,): the reward's slope times what it is a slope of.
        return -weight * wanting * (restored * slope).flatten(1).sum(1) + penalty

    def discount(self, j: int, steps: int) -> float:
        """Equation 4."""
        if self.discount_shift is None:
            return 1.0
        # The level in [0, 1]: 1 is pure noise.
        u = (steps - j) / steps
        return self.discount_shift * u / (1 + (self.discount_shift - 1) * u)

    # -- the reward --------------------------------------------------------------------------------

    def reward(
        self, ctx: Context, restored: Rollout, batch: Batch, visit: Visit
    ) -> tuple[Tensor, Tensor, Tensor]:
        """r of the restored samples, of the relative kind where there are words, `(b,)`, its
        gradient, and to which samples a reward applies."""
        where = "inverted" if visit.inverts else "restored"
        if not self.wanted:
            value, slope, applies = score(ctx, restored, batch, f"{where}/reward")
            return (-value, -slope, applies) if visit.inverts else (value, slope, applies)
        scores = {}
        for name, words in (("wanted", self.wanted), ("unwanted", self.unwanted)):
            worded = with_word(batch, words[ctx.step % len(words)], self.column)
            scores[name] = score(ctx, restored, worded, f"{where}/{name}")
        k = self.strength_at(visit, ctx.sampler.steps)
        asked, other = ("unwanted", "wanted") if visit.inverts else ("wanted", "unwanted")
        (value, slope, applies), (less, flatter, _) = scores[asked], scores[other]
        return (1 + k) * value - less, (1 + k) * slope - flatter, applies  # equations 5 and 6

    def strength_at(self, visit: Visit, steps: int) -> float:
        """Linear between its ends, by the cleaner of the visit's levels."""
        low, high = ends(self.inverted_strength if visit.inverts else self.strength)
        noisy = (steps - max(visit.k, visit.j)) / steps
        return low + (high - low) * noisy


def ends(value: float | tuple[float, float]) -> tuple[float, float]:
    """An option as two ends; a single number is both."""
    return (value, value) if isinstance(value, (int, float)) else value


def restore(sampler: Any, new: Transition, epsilon: Tensor, j: int) -> Tensor:
    """Equations 2 and 3; alpha_j and sigma_j are read off the sampler's forward process."""
    assert new.x0 is not None and new.epsilon is not None
    one, zero = torch.ones_like(epsilon), torch.zeros_like(epsilon)
    # renoise(x, j, e) = alpha_j x + sigma_j e for every sampler, so two probes give both.
    alpha, sigma = sampler.renoise(one, j, zero), sampler.renoise(zero, j, one)
    return new.x0 + sigma / alpha * (new.epsilon - epsilon)


def score(ctx: Context, rollout: Rollout, batch: Batch, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The recipe's rewards, their gradient, and to which samples one applies; logged under `name`,
    not as the run's rewards."""
    scores = ctx.score(rollout, batch, gradient=True, record=False)
    ctx.record(name, scores.rewards)
    assert scores.gradient is not None
    return scores.total, scores.gradient, scores.applies


def with_word(batch: Batch, word: str, column: str) -> Batch:
    """The batch with 'word. ' in front of each prompt.

    Raises ComponentError when there are no prompts.
    """
    if column not in batch:
        raise ComponentError(
            "srpo: `wanted` and `unwanted` go in front of the prompt, and the data set has no "
            f"column {column!r}; it gives: {', '.join(batch.columns)}"
        )
    columns: Mapping[str, Any] = {
        **batch.columns,
        column: [f"{word}. {prompt}" for prompt in batch[column]],
    }
    return replace(batch, columns=columns)
