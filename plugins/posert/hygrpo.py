"""HyGRPO: group-relative policy optimization of words and a pose (Pose-RFT, 2508.07804).

    pi(a, p | q) = pi(a | q) pi(p | q, a)

    F_i = (R_words(i) - mean) / (std + floor)   over the G answers of a prompt
    D_i = (R_pose(i) - mean) / (std + floor)    over those V <= G of them that hold a valid pose

    J = E[ 1/G sum_{i <= G} min(r_d F_i, clip(r_d, 1 - e_d, 1 + e_d) F_i)
         + w/V sum_{i <= V} min(r_c D_i, clip(r_c, 1 - e_c, 1 + e_c) D_i) - KL ]       (equation 6)

r_d and r_c are the ratios of the tokens and of the pose, against the policy that drew them or
against the reference. The paper writes the reference; at the first update both are 1. The KL comes
from the recipe's regularizers, `{use: kl, form: categorical}` for tokens and `{use: kl, form:
gaussian}` for poses, each with its own weight and name.

Log-probabilities are means over the tokens of an answer and over the D dimensions of a pose, so r_c
is the D-th root of the ratio of the densities, and e_c has about the size of e_d. The gradient for
the pose is D times weaker than with the densities themselves: `pose_weight` makes up for it, and
`pose_weight: D` is the paper's objective as written, to first order in r_c - 1.

Variants: `advantage: tokens` is plain GRPO, which moves the tokens by the sum of all rewards and
does not train the pose; `advantage: joint` gives both parts that sum's advantage.

Cost per sample: 1 forward of the roll-out, 1 forward and 1 backward of each update, 1 forward more
with regularizers or `ratio: reference`; group_size samples per item of a batch.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rewardft import Batch, Context, Loss, Scores
from rewardft.algorithms.advantages import group_advantages
from rewardft.algorithms.surrogates import clipped_ratio_loss
from rewardft.errors import ComponentError, did_you_mean
from rewardft.recipe.bounds import Count, NotNegative, Pair, Positive
from rewardft.types import Plan, Rollout, Transition, micro_slices

TOKENS, POSE = 0, 1  # steps of the roll-out
WORDS = ("format", "answer_similarity")
POSES = ("joint_accuracy", "pose_text_similarity")


@dataclass(frozen=True)
class Part:
    """Advantages and weights `(b,)` that train one half of an answer. The weights of a batch sum
    to 1, or less where prompts have no valid answer."""

    advantage: Tensor
    weight: Tensor
    clip: float

    def select(self, rows: slice) -> Part:
        return Part(self.advantage[rows], self.weight[rows], self.clip)


class HyGRPO:
    """Hybrid-action GRPO; needs a policy that speaks and poses.

    Args:
        group_size: G >= 2 answers for each prompt.
        advantage: `separate` (HyGRPO), `joint`, or `tokens` (plain GRPO).
        ratio: against the `old` policy or the `reference`.
        clip, pose_clip: e_d and e_c, > 0.
        pose_weight: w, >= 0.
        words, poses: names of the rewards of each part; every reward of the recipe is in one.
        updates, inner_epochs: optimizer steps per batch, each on a part of every group, and passes
            over it.
        floor: added to standard deviations, > 0.
    """

    needs = frozenset({"hybrid"})

    def __init__(
        self,
        group_size: Pair = 8,
        advantage: Literal["separate", "joint", "tokens"] = "separate",
        ratio: Literal["old", "reference"] = "old",
        clip: Positive = 0.2,
        pose_clip: Positive = 0.2,
        pose_weight: NotNegative = 8.0,
        words: Sequence[str] = WORDS,
        poses: Sequence[str] = POSES,
        updates: Count = 1,
        inner_epochs: Count = 1,
        floor: Positive = 1e-4,
    ) -> None:
        if group_size < 2 or min(clip, pose_clip, floor) <= 0 or pose_weight < 0:
            raise ComponentError(
                "expected group_size >= 2, clip, pose_clip and floor > 0, pose_weight >= 0; got "
                f"group_size={group_size}, clip={clip}, pose_clip={pose_clip}, floor={floor}, "
                f"pose_weight={pose_weight}"
            )
        # Every update takes the same number of answers of each group.
        if min(updates, inner_epochs) < 1 or group_size % updates:
            raise ComponentError(
                "expected inner_epochs >= 1 and updates that divide group_size, got "
                f"{inner_epochs} and {updates} with group_size {group_size}"
            )
        self.group_size, self.advantage, self.ratio = group_size, advantage, ratio
        self.clip, self.pose_clip, self.pose_weight = clip, pose_clip, pose_weight
        self.words, self.poses = frozenset(words), frozenset(poses)
        self.updates, self.inner_epochs, self.floor = updates, inner_epochs, floor
        self.needs_reference = ratio == "reference"

    def calls(self, steps: int, rng: random.Random, reference: bool) -> tuple[int, int]:
        """Per item of a batch."""
        passes = 2 if reference or self.needs_reference else 1
        learned = self.group_size * self.inner_epochs
        return self.group_size + passes * learned, learned

    def losses(self, ctx: Context, batch: Batch) -> Iterator[Loss]:
        samples = batch.repeat(self.group_size)
        rollout = ctx.rollout(samples, Plan(stop=2, keep=frozenset({TOKENS, POSE})))
        parts = self.parts(ctx, ctx.score(rollout, samples), rollout.x0["valid"])
        for _ in range(self.inner_epochs):
            for start in range(self.updates):
                rows = slice(start, None, self.updates)
                yield from self.update(ctx, rollout.select(rows), [p.select(rows) for p in parts])

    def parts(self, ctx: Context, scores: Scores, valid: Tensor) -> list[Part]:
        """Advantages and weights of the tokens, and of the pose unless it is not trained."""
        words, poses = (self.total(ctx, scores, names) for names in (self.words, self.poses))
        count = len(valid)
        if self.advantage == "separate":
            spoken, posed = self.normalise(ctx, words), self.normalise(ctx, poses, valid)
        else:
            # An invalid answer has no pose whose reward could count.
            spoken = self.normalise(ctx, words.nan_to_num(0) + poses.nan_to_num(0) * valid)
            posed = spoken * valid
        parts = [Part(spoken, torch.full_like(spoken, 1 / count), self.clip)]
        if self.advantage != "tokens":
            held = valid.to(spoken).view(-1, self.group_size)  # V of each group, equation 6
            share = held / held.sum(1, keepdim=True).clamp(min=1) / len(held)
            parts.append(Part(posed, self.pose_weight * share.flatten(), self.pose_clip))
        ctx.record("valid", valid.to(spoken))
        return parts

    def normalise(self, ctx: Context, rewards: Tensor, valid: Tensor | None = None) -> Tensor:
        """Advantages `(b,)` in groups of G, or of the V that are valid; 0 for the others."""
        return group_advantages(ctx, rewards, self.group_size, "group", self.floor, valid=valid)[0]

    def total(self, ctx: Context, scores: Scores, names: frozenset[str]) -> Tensor:
        """Weighted sum of some rewards, `(b,)`; NaN where none applies. Raises ComponentError for a
        reward that is in neither part."""
        # A reward that neither part claims would silently train nothing.
        known = self.words | self.poses
        for name in (r.name for r in ctx.rewards if r.name not in known):
            raise ComponentError(
                f"hygrpo: is the reward {name!r} of the words or of the pose? Name it in `words` "
                f"or `poses`.{did_you_mean(name, known)}"
            )
        own = [r.weight * scores.by_name[r.name] for r in ctx.rewards if r.name in names]
        if not own:
            return torch.full_like(scores.total, torch.nan)
        # (rewards, b).
        stacked = torch.stack(own)
        absent = stacked.isnan().all(0)
        return stacked.nansum(0).masked_fill(absent, torch.nan)

    def update(self, ctx: Context, rollout: Rollout, parts: Sequence[Part]) -> Iterator[Loss]:
        """One optimizer step, some answers at a time; the loss that is yielded last ends it."""
        cuts = list(micro_slices(len(parts[0].advantage), ctx.micro_batch))
        for rows in cuts:
            piece = rollout.select(rows)
            new = ctx.replay_all(piece)
            compared = self.needs_reference or bool(ctx.regularizers)
            # One pass of the reference serves ratios and regularizers of both parts.
            reference = ctx.reference_all(piece) if compared else None
            # Weights sum to 1 over the whole batch, and an update has one part in `updates` of it.
            loss = torch.stack(
                [
                    self.updates * self.part_loss(ctx, piece, k, part.select(rows), new, reference)
                    for k, part in enumerate(parts)
                ]
            ).sum()
            yield Loss(loss, step=rows == cuts[-1])

    def part_loss(
        self,
        ctx: Context,
        rollout: Rollout,
        k: int,
        part: Part,
        new: Sequence[Transition],
        reference: Sequence[Transition] | None,
    ) -> Tensor:
        """The part of -J that step k of some answers contributes."""
        old = rollout.log_probs[k]
        if self.ratio == "reference":
            assert reference is not None
            fixed = reference[k].log_prob
            assert fixed is not None
            old = fixed
        own = new[k].log_prob
        assert own is not None
        surrogate = clipped_ratio_loss(own, old, part.advantage, part.clip)
        compared = None if reference is None else reference[k]
        loss = surrogate + self.pull(ctx, new[k], rollout, k, compared)
        name, counts = ("tokens", "pose")[k], part.weight > 0
        # NaN is left out of the mean, so invalid answers do not dilute what is logged.
        ctx.record(f"ratio/{name}", torch.where(counts, (own - old).exp(), torch.nan))
        ctx.record(f"loss/{name}", torch.where(counts, loss, torch.nan))
        return (part.weight * torch.where(counts, loss, 0.0)).sum()

    def pull(
        self,
        ctx: Context,
        new: Transition,
        rollout: Rollout,
        k: int,
        reference: Transition | None,
    ) -> Tensor:
        """The regularizers at step k, `(b,)`; those of the pose are not multiplied by w."""
        penalty = ctx.penalty(new, rollout, k, reference)
        # The part's weight contains w, which is for the reward alone.
        return penalty if k == TOKENS or self.pose_weight == 0 else penalty / self.pose_weight
