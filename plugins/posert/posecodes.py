"""Posecodes: descriptions of a pose, by rules of our own.

A posecode measures one thing about the joints, an angle or a distance, and gives the phrase for the
range that the measure falls into. The idea is PoseScript's (Delmas et al. 2022, 2210.11795);
measures, thresholds and words are not, and none of its code is used.

Joints are `(n, 27, 3)` in metres, y up, the person facing +z, the pelvis at the origin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

PELVIS, NECK, HEAD_TOP, ANKLES = 0, 12, 22, (7, 8)


@dataclass(frozen=True)
class Side:
    """Joints of one half of the body."""

    hip: int
    knee: int
    ankle: int
    shoulder: int
    elbow: int
    wrist: int


SIDES = {"left": Side(1, 4, 7, 16, 18, 20), "right": Side(2, 5, 8, 17, 19, 21)}


@dataclass(frozen=True)
class Posecode:
    """phrases: one more than `limits`, which ascend: the first is said of measures below the first
    limit, the last of those from the last limit on."""

    measure: Callable[[Tensor], Tensor]
    limits: tuple[float, ...]
    phrases: tuple[str, ...]

    def category(self, joints: Tensor) -> Tensor:
        """Which phrase, `(n,)`."""
        return torch.bucketize(
            self.measure(joints).contiguous(), torch.tensor(self.limits).to(joints), right=True
        )


def angle(joints: Tensor, first: int, middle: int, last: int) -> Tensor:
    """Degrees at the joint `middle`, 180 where the limb is straight."""
    # Clamped below: a cosine of 1 + a rounding has no angle.
    inward, outward = joints[:, first] - joints[:, middle], joints[:, last] - joints[:, middle]
    return torch.rad2deg(torch.acos(cosine_similarity(inward, outward, dim=-1).clamp(-1, 1)))


def steepness(joints: Tensor, start: int, end: int) -> Tensor:
    """Height of the unit vector from `start` to `end`: 1 up, 0 level, -1 down."""
    return normalize(joints[:, end] - joints[:, start], dim=-1)[:, 1]


def hand_height(joints: Tensor, side: Side) -> Tensor:
    """0 below the hips, 1 at the waist, 2 at the shoulder, 3 above the top of the head."""
    wrist = joints[:, side.wrist, 1]
    marks = [
        joints[:, PELVIS, 1] + 0.1,
        joints[:, side.shoulder, 1] - 0.12,
        joints[:, HEAD_TOP, 1],
    ]
    # cumprod: in an inverted body the marks do not ascend, and counting stops at the first missed.
    return (torch.stack(marks) < wrist).cumprod(0).sum(0).to(joints.dtype)


def codes_of(name: str, side: Side) -> list[Posecode]:
    """The five posecodes of one half of the body."""
    return [
        Posecode(
            lambda j: angle(j, side.hip, side.knee, side.ankle),
            # Degrees.
            (95.0, 155.0),
            (f"{name} knee very bent", f"{name} knee bent", f"{name} knee straight"),
        ),
        Posecode(
            lambda j: angle(j, side.shoulder, side.elbow, side.wrist),
            # Degrees.
            (95.0, 155.0),
            (f"{name} elbow very bent", f"{name} elbow bent", f"{name} elbow straight"),
        ),
        Posecode(
            lambda j: hand_height(j, side),
            (0.5, 1.5, 2.5),
            (
                f"{name} hand low",
                f"{name} hand at waist",
                f"{name} hand at shoulder",
                f"{name} hand above head",
            ),
        ),
        Posecode(
            lambda j: steepness(j, side.hip, side.knee),
            (-0.75, -0.3),
            (f"{name} thigh down", f"{name} thigh raised", f"{name} thigh high"),
        ),
        Posecode(
            lambda j: j[:, side.wrist, 2] - j[:, side.shoulder, 2],
            # Metres.
            (-0.1, 0.2),
            (f"{name} hand behind", f"{name} hand beside", f"{name} hand in front"),
        ),
    ]


CODES = (
    *codes_of("left", SIDES["left"]),
    *codes_of("right", SIDES["right"]),
    Posecode(
        lambda j: steepness(j, PELVIS, NECK),
        (-0.2, 0.6, 0.93),
        ("torso upside down", "torso horizontal", "torso leaning", "torso upright"),
    ),
    Posecode(
        lambda j: (j[:, ANKLES[0]] - j[:, ANKLES[1]]).norm(dim=-1),
        # Metres.
        (0.28, 0.55),
        ("feet together", "feet apart", "feet wide apart"),
    ),
)
PHRASES = tuple(phrase for code in CODES for phrase in code.phrases)
_FIRST = [sum(len(code.phrases) for code in CODES[:i]) for i in range(len(CODES))]
RARE = 0.7  # a phrase that is true of few poses is said more often: by this power of its rarity


def true_phrases(joints: Tensor) -> Tensor:
    """The phrase of each posecode, `(n, 12)`, as numbers of `PHRASES`."""
    categories = [code.category(joints) + first for code, first in zip(CODES, _FIRST)]
    return torch.stack(categories, dim=1)


def frequencies(phrases: Tensor) -> Tensor:
    """How often each of `PHRASES` is true of the poses with these `phrases` `(n, 12)`."""
    counts = torch.bincount(phrases.flatten(), minlength=len(PHRASES))
    return counts / len(phrases)


def choose(
    phrases: Tensor, frequency: Tensor, count: int, generator: torch.Generator
) -> list[list[int]]:
    """`count` of each pose's phrases `(n, 12)`, rarer ones more often, in random order."""
    # Clamped, so that a phrase of one frame in a thousand is not in each of its captions.
    weight = (1 / frequency.clamp(min=1 / 30)).pow(RARE)[phrases]
    # Without replacement: a caption does not say a thing twice.
    chosen = torch.multinomial(weight, count, generator=generator)
    found: list[list[int]] = phrases.gather(1, chosen).tolist()
    return found


def caption(chosen: Sequence[int]) -> str:
    """`left knee bent, torso upright.`"""
    return ", ".join(PHRASES[i] for i in chosen) + "."


def read(text: str) -> list[int]:
    """The phrases in a caption, as numbers of `PHRASES`; other words are ignored."""
    parts = [part.strip(" .") for part in text.lower().replace(" ,", ",").split(",")]
    return [PHRASES.index(part) for part in parts if part in PHRASES]


def satisfied(texts: Sequence[str], joints: Tensor) -> Tensor:
    """Share of each caption's phrases that are true of its pose, `(n,)`; NaN for a text that holds
    none."""
    shares = torch.full((len(texts),), torch.nan)
    for row, (text, true) in enumerate(zip(texts, true_phrases(joints).tolist())):
        said = read(text)
        if said:
            shares[row] = sum(phrase in true for phrase in said) / len(said)
    return shares
