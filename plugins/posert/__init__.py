"""Pose-RFT (arXiv 2508.07804) in miniature: a language model that answers with words and a human
pose, fine-tuned by hybrid-action reinforcement learning.

Registers the model `pose_lm`, the sampler `hybrid`, the algorithms `hygrpo` and `pose_sft`, the
rewards `joint_accuracy`, `pose_text_similarity`, `format` and `answer_similarity`, the data sets
`pose_dialogues`, `pose_script` and `bedlam_script`, the metric `pose_answers`, and the commands
under `rewardft posert`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rewardft import hookimpl

if TYPE_CHECKING:
    from rewardft import Recipe

requires = ("humans",)  # pictures with landmarks, kinematics, skeletons; motions

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from rewardft_plugins.posert.model import PoseLM

    return {"pose_lm": PoseLM}


@hookimpl
def register_samplers() -> Factories:
    from rewardft_plugins.posert.hybrid import Hybrid

    return {"hybrid": Hybrid}


@hookimpl
def register_algorithms() -> Factories:
    from rewardft_plugins.posert.hygrpo import HyGRPO
    from rewardft_plugins.posert.sft import PoseSFT

    return {"hygrpo": HyGRPO, "pose_sft": PoseSFT}


@hookimpl
def register_rewards() -> Factories:
    from rewardft_plugins.posert.rewards import (
        AnswerSimilarity,
        Format,
        JointAccuracy,
        PoseTextSimilarity,
    )

    return {
        "joint_accuracy": JointAccuracy,
        "pose_text_similarity": PoseTextSimilarity,
        "format": Format,
        "answer_similarity": AnswerSimilarity,
    }


@hookimpl
def register_datasets() -> Factories:
    from rewardft_plugins.posert.dataset import PoseDialogues
    from rewardft_plugins.posert.scripts import bedlam_script, pose_script

    return {
        "pose_dialogues": PoseDialogues,
        "pose_script": pose_script,
        "bedlam_script": bedlam_script,
    }


@hookimpl
def check_recipe(recipe: Recipe) -> Iterator[str]:
    if recipe.model.use.casefold() == "pose_lm" and recipe.train.shard:
        yield (
            "train.shard: pose_lm reads one token after the other until all answers of a process "
            "have ended, so processes would call it unequally often and wait for each other "
            "forever. Leave `shard` out."
        )


@hookimpl
def register_metrics() -> Factories:
    from rewardft_plugins.posert.metric import PoseAnswers

    return {"pose_answers": PoseAnswers}


@hookimpl
def register_commands() -> Factories:
    from rewardft_plugins.posert.commands import app

    return {"posert": app}
