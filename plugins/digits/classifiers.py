"""Two small classifiers of digits: one is the reward, the other judges what the reward has taught.

They share nothing: a convolutional network on one half of the images, a perceptron on the other
half. A sample that fools the first has no reason to fool the second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from rewardft.noise import keyed_generator
from rewardft.types import Batch, Rollout

from .data import CLASSES, SIZE, half
from .weights import ASSETS, load_weights


class Convolutional(nn.Sequential):
    """Images `(b, 1, 8, 8)` in [0, 1] -> logits `(b, 10)`; 19,000 weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * (SIZE // 2) ** 2, CLASSES),
        )


class Perceptron(nn.Sequential):
    """Images `(b, 1, 8, 8)` in [0, 1] -> logits `(b, 10)`; 24,000 weights."""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(SIZE**2, 160),
            nn.GELU(),
            nn.Linear(160, 80),
            nn.GELU(),
            nn.Linear(80, CLASSES),
        )


def classify(network: nn.Module, pixels: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """log p(label | pixels) `(b,)`, and whether `label` is the most likely class `(b,)` bool."""
    # Unlike log(softmax), finite for a class that the network is sure it is not.
    log_probs = network(pixels).log_softmax(1)
    return log_probs.gather(1, label[:, None])[:, 0], log_probs.argmax(1) == label


class DigitLikelihood(nn.Module):
    """Reward log p(asked class | image): at most 0, differentiable, not bounded from below.

    Args:
        weights: a safetensors file of `Convolutional`; null: the shipped one.
    """

    provides = frozenset({"reward_gradient"})

    def __init__(self, weights: Path | None = None) -> None:
        super().__init__()
        self.network = Convolutional()
        load_weights(self.network, weights or ASSETS / "likelihood.safetensors")
        # The gradient goes to the pixels; the classifier itself must not learn from being fooled.
        self.requires_grad_(False)

    def forward(self, rollout: Rollout, batch: Batch) -> Tensor:
        return classify(self.network, rollout.decoded, batch["label"])[0]


def digit_ink(rollout: Rollout, batch: Batch) -> Tensor:
    """Reward: the mean pixel `(b,)` in [0, 1], which is how much ink the digit has."""
    ink: Tensor = rollout.decoded.flatten(1).mean(1)
    return ink


class DigitJudge:
    """Metric: `accuracy` (1 where the asked class is the most likely one) and `log_prob` of it, per
    sample.

    Args:
        weights: a safetensors file of `Perceptron`; null: the shipped one.
    """

    higher_is_better = True

    def __init__(self, weights: Path | None = None) -> None:
        self.network = Perceptron()
        load_weights(self.network, weights or ASSETS / "judge.safetensors")
        self.reset()

    def reset(self) -> None:
        self.log_probs: list[Tensor] = []
        self.correct: list[Tensor] = []

    def update(self, rollout: Rollout, batch: Batch) -> None:
        with torch.no_grad():
            # On the CPU, where the judge lives: it is not a module, so no device is given to it.
            log_prob, correct = classify(self.network, rollout.decoded.cpu(), batch["label"].cpu())
        self.log_probs.append(log_prob)
        self.correct.append(correct.float())

    def compute(self) -> dict[str, Tensor]:
        return {"accuracy": torch.cat(self.correct), "log_prob": torch.cat(self.log_probs)}


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How a classifier is trained.

    noise: standard deviation of the noise that is added to the pixels; samples of a model are never
        quite clean.
    smoothing: of the labels; keeps the likelihood from saturating.
    """

    steps: int = 1500
    batch: int = 64
    lr: float = 3e-3
    noise: float = 0.15
    smoothing: float = 0.02
    seed: int = 0


def train_classifier(
    network: nn.Module, odd: bool, fit: Fit, report: Callable[[str], None]
) -> nn.Module:
    """Train on one half of the images, shifted by up to a pixel, with noise."""
    images, labels = half(odd)
    # Weights come from the global seed, batches and noise from this generator alone.
    generator = keyed_generator("digits", "classifier", odd, fit.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=fit.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, fit.steps)
    for step in range(1, fit.steps + 1):
        rows = torch.randint(len(images), (fit.batch,), generator=generator)
        pixels = shift(images[rows], generator)
        # Clamped, as decoded samples are.
        pixels = (pixels + fit.noise * torch.randn(pixels.shape, generator=generator)).clamp(0, 1)
        loss = cross_entropy(network(pixels), labels[rows], label_smoothing=fit.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 0:
            report(f"step {step}: loss {float(loss.detach()):.3f}")
    return network.eval()


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each batch moved by -1, 0 or 1 pixels along x, black coming in.

    Digits fill the height, so not along y.
    """
    # One shift for the batch: batches are many, and slicing is free.
    by = int(torch.randint(-1, 2, (), generator=generator))
    return pad(images, (1, 1, 0, 0))[..., 1 + by : 1 + by + SIZE]


@torch.no_grad()
def quality(network: nn.Module, odd: bool) -> dict[str, float]:
    """Accuracy and mean log-probability on one half of the images."""
    images, labels = half(odd)
    log_prob, correct = classify(network, images, labels)
    return {"accuracy": float(correct.float().mean()), "log_prob": float(log_prob.mean())}
