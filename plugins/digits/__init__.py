"""Handwritten digits: a real task that runs on one CPU core in seconds, for comparing algorithms
with each other.

A class-conditional U-Net generates scikit-learn's 8x8 digits; the reward is how sure a classifier
is of the digit that was asked for, and another classifier, trained on other images, judges whether
the reward was earned.

Registers the model `digit_unet`, the rewards `digit_likelihood` and `digit_ink` (which is there to
be in its way), the metric `digit_judge`, the data sets `digit_classes` (conditions alone),
`digit_images` (for pre-training and SPIN) and `digit_pairs` (for preferences), and the commands
under `rewardft digits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rewardft import hookimpl

Factories = Mapping[str, Callable[..., Any]]


@hookimpl
def register_models() -> Factories:
    # Imported inside the hooks, so that loading the plugin alone costs nothing.
    from .model import DigitUNet

    return {"digit_unet": DigitUNet}


@hookimpl
def register_datasets() -> Factories:
    from .data import DigitClasses, DigitImages
    from .pairs import DigitPairs

    return {"digit_classes": DigitClasses, "digit_images": DigitImages, "digit_pairs": DigitPairs}


@hookimpl
def register_rewards() -> Factories:
    from .classifiers import DigitLikelihood, digit_ink

    return {"digit_likelihood": DigitLikelihood, "digit_ink": digit_ink}


@hookimpl
def register_metrics() -> Factories:
    from .classifiers import DigitJudge

    return {"digit_judge": DigitJudge}


@hookimpl
def register_commands() -> Factories:
    from .commands import app

    return {"digits": app}
