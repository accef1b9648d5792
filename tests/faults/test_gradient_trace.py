"""A gradient that is not finite is traced to denoiser, regularizer or loss, with the samples; the last good state is
saved before that."""

import re

import pytest

from rewardft.cli import main
from rewardft.storage.checkpoint import latest_checkpoint, read_state
from rewardft.testing.recipes import read_steps

# Label 1 belongs to the sample train/1 alone: what goes wrong there goes wrong at that sample.
PLUGIN = """
import torch

from rewardft import Loss, Plan, hookimpl
from rewardft.testing.tiny import TinyModel


class Spoiled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, rows):
        ctx.rows = rows
        return h.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.where(ctx.rows.view(-1, 1, 1, 1), float("inf"), gradient), None


class Spoiling(TinyModel):
    calls = 0

    def __init__(self):
        super().__init__("v_prediction", width=8)
        self.rows, mix = None, self.trainable.mix
        self.trainable.mix = lambda h: mix(h) if self.rows is None else Spoiled.apply(mix(h), self.rows)

    def denoise(self, x, t, cond):
        Spoiling.calls += torch.is_grad_enabled()
        self.rows = cond["label"] == 1 if Spoiling.calls > 3 and torch.is_grad_enabled() else None
        return super().denoise(x, t, cond)


class Root:
    def __call__(self, new, reference):
        square = ((new.output - reference.output) ** 2).flatten(1).mean(1)
        return torch.cat([square[:1] * 0.0, square[1:] + 1.0]).sqrt()


class Odd:
    def __init__(self, kind: str = "root"):
        self.kind = kind

    def losses(self, ctx, batch):
        rollout = ctx.rollout(batch, Plan(stop=3, keep=frozenset({2})))
        step = ctx.replay(rollout, 2)
        square = (step.output**2).flatten(1).mean(1)
        if ctx.step == 1 and self.kind == "root":
            rows = torch.as_tensor(batch["label"]) == 1
            square = torch.cat([square[~rows], (square[rows] * 0.0).sqrt()])
        yield Loss(square.mean() * (1e25 if ctx.step == 1 and self.kind == "huge" else 1.0), step=True)


@hookimpl
def register_models():
    return {"spoiling": Spoiling}


@hookimpl
def register_regularizers():
    return {"root": Root}


@hookimpl
def register_algorithms():
    return {"odd": Odd}
"""
RECIPE = """
plugins: [rewardft.testing.tiny, ./spoiling.py]
model: {use: tiny, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 4, batch_size: 4}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft, shape: negative}
adapter: {kind: lora, rank: 2, targets: [to_q]}
optimizer: {lr: 1e-2}
train: {steps: 4, log_every: 9}
evaluate: {every: 0}
save: {every: 0}
"""
HEAD = "step 1: the gradient is NaN or infinite, and the weights were not changed. "
TAIL = " Try a lower learning rate, train.clip_norm, or train.precision fp32."
CASES = {
    "denoiser": (
        ["model={use: spoiling}"],
        "It turns bad in the denoiser's own backward pass, at the samples train/1 (to_q.lora_A.default.weight, "
        "to_q.lora_B.default.weight): what goes into the pass is finite.",
    ),
    "loss": (
        ["algorithm={use: odd}"],
        "It is bad before it reaches the denoiser, at the samples train/1: it comes out of the algorithm's loss, whose "
        "value is 0.NUMBER, or of the sampler's arithmetic. Look there for a root, logarithm or division at 0, or an "
        "exponential that overflows.",
    ),
    "norm": (
        ["algorithm={use: odd, kind: huge}"],
        "Every gradient is finite, but their norm is not: the largest is NUMBERe+23, in to_q.lora_B.default.weight.",
    ),
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "spoiling.py").write_text(PLUGIN)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


def said(capsys):
    """The lines of the error, without the progress before it."""
    return capsys.readouterr().err.partition("error: ")[2].splitlines()


@pytest.mark.parametrize("case", CASES)
def test_the_place_and_the_samples_are_named_and_the_state_before_is_saved(
    case, recipe, tmp_path, capsys
):
    sets, where = CASES[case]
    out = tmp_path / "run"
    words = [word for text in sets for word in ("--set", text)]
    assert main(["run", str(recipe), "--out", str(out), *words]) == 2
    message, note, *rest = said(capsys)
    assert re.fullmatch(re.escape(HEAD + where + TAIL).replace("NUMBER", "[0-9.]+"), message)
    assert (
        note == f"step 1 is saved in {out}/checkpoints/step-00000001; once that is fixed, --resume"
    )
    assert rest == [] and read_state(latest_checkpoint(out))["step"] == 1
    assert [step["step"] for step in read_steps(out)] == [1]


def test_a_regularizer_at_the_first_step(recipe, tmp_path, capsys):
    words = ["--set", "regularizers=[{use: root, weight: 0.1}]"]
    assert main(["run", str(recipe), "--out", str(tmp_path / "run"), *words]) == 2
    audit, gradients, note = said(capsys)
    assert audit == "the start-up audit stopped the run; nothing was trained"
    assert gradients.startswith("  - 2 trainable tensors have NaN or infinite gradients (to_q.")
    assert re.fullmatch(
        r"a gradient is NaN or infinite\. The value or the gradient of regularizer 'root' is NaN or infinite at the "
        r"samples train/\d, where its value is 0\.",
        note,
    )


def test_a_fault_that_does_not_come_again_is_said_to_be_one(recipe, tmp_path, capsys):
    """As on a device that miscalculates now and then: the model spoils one single call."""
    once = PLUGIN.replace("Spoiling.calls > 3", "Spoiling.calls == 4")
    recipe.with_name("spoiling.py").write_text(once)
    assert (
        main(["run", str(recipe), "--out", str(tmp_path / "run"), "--set", "model={use: spoiling}"])
        == 2
    )
    assert said(capsys)[0] == f"{HEAD}It did not happen again when the batch was repeated.{TAIL}"
