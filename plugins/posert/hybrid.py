"""`hybrid`: the sampler of a policy that speaks, then poses.

    pi(a, p | q) = pi(a | q) * N(p; mean(q, a), Sigma(q, a))     Pose-RFT, 2508.07804, section 3.2

Step 0 draws the tokens a, step 1 the pose p. Both log-probabilities of a finished answer come from
one pass over it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from rewardft_plugins.posert.generation import Decoding, tempered
from rewardft_plugins.posert.head import density, draw
from rewardft_plugins.posert.text import ANSWER_TEXT
from torch import Tensor
from torch.distributions import Categorical

from rewardft.errors import ComponentError
from rewardft.noise import Noise
from rewardft.recipe.bounds import Count, NotNegative, Share
from rewardft.types import Plan, Rollout, Transition

TOKENS, POSE = 0, 1


class Hybrid:
    """Answers, then poses. Log-probabilities are means: over the tokens of an answer, over the
    dimensions of a pose.

    Args:
        temperature: of the tokens, >= 0; 0 takes the likeliest. Log-probabilities are the tempered
            policy's.
        top_p: draw among the likeliest tokens that hold this share, in (0, 1]. Log-probabilities
            ignore it, so train with 1.
        length: tokens of an answer, at most.
        pose: `sample` of the Gaussian, or its `mean`.
        complete: an answer without a pose gets the pose that the answer in the wanted form would
            have had, and stays invalid. For evaluations, which would otherwise judge fewer poses of
            one model than of another.
    """

    steps = 2
    needs = frozenset({"hybrid_policy"})
    provides = frozenset({"log_prob", "stochastic", "hybrid"})

    def __init__(
        self,
        temperature: NotNegative = 1.0,
        top_p: Share = 1.0,
        length: Count = 24,
        pose: Literal["sample", "mean"] = "sample",
        complete: bool = False,
    ) -> None:
        if temperature < 0 or not 0 < top_p <= 1 or length < 1:
            raise ComponentError(
                "expected temperature >= 0, top_p in (0, 1] and length >= 1, got "
                f"temperature={temperature}, top_p={top_p}, length={length}"
            )
        self.decoding = Decoding(temperature, top_p, length)
        self.pose, self.complete = pose, complete

    def setup(self, model: Any) -> None:
        """Raises ComponentError for a model that neither speaks nor poses."""
        if not hasattr(model, "speak") or not hasattr(model, "answer"):
            raise ComponentError(
                f"hybrid needs a model with `speak` and `answer`, such as `pose_lm`; got "
                f"{type(model).__name__}"
            )

    def rollout(self, model: Any, cond: Any, plan: Plan, noise: Noise) -> Rollout:
        """Answers of all prompts, without autograd. Raises ComponentError for a plan that stops
        before the pose."""
        # A rollout that stopped between words and pose could not be scored or replayed.
        if plan.stop != self.steps:
            raise ComponentError(
                "hybrid runs both steps: an answer without its pose is not a sample"
            )
        # Uniform numbers from the keyed normal ones: the same sample draws the same tokens.
        draws = torch.special.ndtr(noise.draw("tokens", (self.decoding.length,)))
        tokens, mask, log_probs, mean, deviation, factor = model.call(
            "speak", len(noise), cond, draws, self.decoding
        )
        valid = model.is_valid(tokens, mask)
        if self.complete and not valid.all():
            # Only for the rows that need it: each costs a pass of the network.
            own = self.completed(model, cond, ~valid)
            mean, deviation, factor = (
                part.index_put((~valid,), new) for part, new in zip((mean, deviation, factor), own)
            )
        pose = mean
        if self.pose == "sample":
            shape = (mean.shape[1] + factor.shape[2],)
            pose = draw(mean, deviation, factor, noise.draw("pose", shape).to(mean))
        # Means over tokens and dimensions, so that ratios do not depend on their number.
        known = {
            TOKENS: masked_mean(log_probs, mask),
            POSE: density(mean, deviation, factor).log_prob(pose) / mean.shape[1],
        }
        x0 = {"tokens": tokens, "mask": mask, "pose": pose, "valid": valid}
        return Rollout(
            cond,
            noise,
            plan,
            x0=x0,
            states=dict.fromkeys(sorted(plan.keep), x0),
            log_probs={k: known[k] for k in sorted(plan.keep & known.keys())},
            info={"mean": mean, "deviation": deviation, "token_log_probs": log_probs},
            decoder=model.decode,
        )

    def completed(self, model: Any, cond: Any, rows: Tensor) -> tuple[Tensor, ...]:
        """Mean, deviation and factor that the answer in form would have had, for some rows."""
        prompts = {name: value[rows] for name, value in cond.items()}
        tokens, mask = model.spell([ANSWER_TEXT] * int(rows.sum()), rows.device)
        parts: tuple[Tensor, ...] = model.call("answer", len(tokens), prompts, tokens, mask)
        return parts[1:]

    def replay_all(self, model: Any, rollout: Rollout) -> list[Transition]:
        """Both steps, from one pass over the finished answers, in the caller's gradient mode."""
        x0 = rollout.x0
        # One pass gives both steps; two would cost twice for the same numbers.
        logits, mean, deviation, factor = model.call(
            "answer", len(x0["tokens"]), rollout.cond, x0["tokens"], x0["mask"]
        )
        return [self.token_step(x0, logits), pose_step(x0, mean, deviation, factor)]

    def replay(self, model: Any, rollout: Rollout, k: int, *, input_gradient: bool) -> Transition:
        """One of both steps. Raises ComponentError where a gradient of tokens is asked for."""
        if input_gradient:
            raise ComponentError(
                "hybrid: tokens have no gradient. Use an algorithm that needs densities alone, "
                "such as `hygrpo`."
            )
        return self.replay_all(model, rollout)[k]

    def token_step(self, x0: dict[str, Tensor], logits: Tensor) -> Transition:
        """Step 0; `output` holds the log-probability of each token, `(b, l)`."""
        tokens, mask = x0["tokens"], x0["mask"]
        # At the temperature that drew the tokens, or the ratio would not be 1 at first.
        scores = tempered(logits, self.decoding.temperature)
        own = scores.gather(-1, tokens[..., None])[..., 0]
        return Transition(
            state=None,
            next=tokens,
            output=own,
            log_prob=masked_mean(own, mask),
            density=Categorical(logits=scores, validate_args=False),
            mask=mask,
        )


def pose_step(x0: dict[str, Tensor], mean: Tensor, deviation: Tensor, factor: Tensor) -> Transition:
    """Step 1, whose density is the Gaussian of the head."""
    gaussian = density(mean, deviation, factor)
    return Transition(
        state=x0["tokens"],
        next=x0["pose"],
        mean=mean,
        std=deviation,
        log_prob=gaussian.log_prob(x0["pose"]) / mean.shape[1],
        density=gaussian,
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row of `values` `(b, l)` where `mask`."""
    kept = mask.to(values)
    # An answer without a token counts 0, not NaN.
    return (values * kept).sum(1) / kept.sum(1).clamp(min=1)
