"""Samples that are no pictures, and several samples of each item, in evaluations, audits and what
`sample` writes."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rewardft.cli import main
from rewardft.errors import AuditError
from rewardft.testing import run_recipe

PLUGIN = """
import torch
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel


class Poses(TinyModel):
    pictures = False

    def decode(self, x0):
        return {"joints": 10 * x0.flatten(1).unflatten(1, (64, 3)), "twists": x0[:, 0]}

    def show(self, decoded, batch):
        shade = decoded["twists"].sigmoid()[:, None]
        return torch.where(batch["label"][:, None, None, None] == 0, 0.0, 1.0) * shade


class Vectors(TinyModel):
    def decode(self, x0):
        return 10 * x0.flatten(1)


class Quiet(Vectors):
    pictures = False


def reach(rollout, batch):
    return rollout.decoded["joints"].flatten(1).mean(1)


def length(rollout, batch):
    return rollout.decoded.mean(1)


class Groups:
    higher_is_better = {"each": True}

    def reset(self):
        self.each, self.best = [], []

    def update(self, rollout, batch):
        values = rollout.decoded["joints"].flatten(1).mean(1)
        self.each.append(values)
        self.best.append(values.unflatten(0, (-1, batch.copies)).amax(1))

    def compute(self):
        return {"each": torch.cat(self.each), "best": torch.cat(self.best)}


@hookimpl
def register_models():
    return {"poses": Poses, "vectors": Vectors, "quiet": Quiet}


@hookimpl
def register_rewards():
    return {"reach": reach, "length": length}


@hookimpl
def register_metrics():
    return {"groups": Groups}
"""
RECIPE = """
plugins: [rewardft.testing.tiny, ./poses.py]
model: {use: poses}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 8, batch_size: 4}
rewards: [{use: reach}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 2}
evaluate: {samples: 6, batch_size: 7, samples_per_item: 3, metrics: [{use: groups}]}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "poses.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def evaluation(run, step=0):
    return json.loads((run.folder / "evaluations" / f"step-{step:08d}.json").read_text())


def test_an_item_has_the_mean_of_its_samples_or_what_the_metric_says(recipe, tmp_path):
    """Whatever fits into a batch: seven samples at a time are two whole items."""
    run = run_recipe(recipe, tmp_path / "run")
    found = evaluation(run)
    assert len(found["ids"]) == 6 and not any("#" in id_ for id_ in found["ids"])
    assert len(found["groups"]) == 6 and found["settings"]["samples_per_item"] == 3
    values = found["per_sample"]
    assert values["groups/each"] == pytest.approx(values["reward/reach"], rel=1e-6)
    assert all(best > mean for best, mean in zip(values["groups/best"], values["groups/each"]))
    other = evaluation(run_recipe(recipe, tmp_path / "other", "evaluate.batch_size=18"))
    assert other["per_sample"]["groups/best"] == pytest.approx(values["groups/best"], rel=1e-5)
    single = evaluation(run_recipe(recipe, tmp_path / "single", "evaluate.samples_per_item=1"))
    assert single["per_sample"]["groups/each"] == single["per_sample"]["groups/best"]


def test_sample_writes_the_tensors_of_a_mapping_and_what_the_model_shows(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run").folder
    assert main(["sample", str(run), "--count", "4"]) == 0
    tensors = load_file(run / "samples" / "tuned.safetensors")
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    assert shapes == {
        "x0": (4, 3, 8, 8),
        "decoded.joints": (4, 64, 3),
        "decoded.twists": (4, 8, 8),
    }
    assert torch.equal(tensors["decoded.joints"].flatten(1), 10 * tensors["x0"].flatten(1))
    pictures = sorted((run / "samples" / "pictures").glob("*.png"))
    assert len(pictures) == 8 and (run / "samples" / "grid.png").is_file()
    lit = [Image.open(path).getextrema()[1] > 0 for path in pictures]
    assert lit == [False, True, True, True] * 2  # class 0 is shown black


def test_the_audit_looks_for_pixels_in_pictures_alone(recipe, tmp_path):
    run_recipe(
        recipe, tmp_path / "a", "model={use: quiet}", "rewards=[{use: length}]", "evaluate={}"
    )
    with pytest.raises(AuditError) as error:
        run_recipe(
            recipe, tmp_path / "b", "model={use: vectors}", "rewards=[{use: length}]", "evaluate={}"
        )
    assert "instead of [0, 1]" in str(error.value)
