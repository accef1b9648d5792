"""Grids of samples along a run: what is in them, when they are drawn, and that the training does not notice."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from rewardft.engine.drawing import joined_pictures
from rewardft.errors import ComponentError, DataError
from rewardft.evaluation.pictures import (
    GAP,
    LARGEST_SHEET,
    LEAST_SIDE,
    LINE,
    MOST_SIDE,
    save_grid,
    save_tiles,
)
from rewardft.runs.samples import draw_both
from rewardft.storage.checkpoint import step_of
from rewardft.testing import check_same_run, run_recipe

PLUGIN = """
import torch
from rewardft import hookimpl
from rewardft.testing.tiny import TinyModel

class Shown(TinyModel):
    def show(self, decoded, batch):
        torch.rand(7)  # as a careless component may
        return decoded

class Film(TinyModel):
    frame_rate = 10.0

    def decode(self, x0):
        return torch.linspace(0.2, 1.0, 7).view(1, 7, 1, 1, 1) * super().decode(x0)[:, None]

class Poses(TinyModel):
    pictures = False

    def decode(self, x0):
        return {"joints": 10 * x0.flatten(1)}

    def show(self, decoded, batch):
        return decoded["joints"].sigmoid().unflatten(1, (3, 8, 8))

class Vectors(TinyModel):
    pictures = False

    def decode(self, x0):
        return x0.flatten(1)

def light(rollout, batch):
    decoded = rollout.decoded["joints"] if isinstance(rollout.decoded, dict) else rollout.decoded
    return decoded.flatten(1).mean(1)

@hookimpl
def register_models():
    return {"shown": Shown, "film": Film, "poses": Poses, "vectors": Vectors}

@hookimpl
def register_rewards():
    return {"light": light}
"""
RECIPE = """
plugins: [rewardft.testing.tiny, ./shown.py, ddpo]
seed: 3
model: {use: shown, prediction: v_prediction, width: 8}
sampler: {use: ddim, steps: 3}
data: {use: tiny_blobs, size: 10, batch_size: 2}
rewards: [{use: light}]
algorithm: {use: draft_k, train_steps: 1}
adapter: {kind: lora, rank: 2, dropout: 0.2}
optimizer: {use: adamw, lr: 1e-2}
train: {steps: 5, log_every: 1}
evaluate: {data: {split: val}}
save: {every: 1, keep: 9}
samples: {every: 2, count: 3}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "shown.py").write_text(PLUGIN)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def grids(run):
    return {
        int(path.stem.removeprefix("grid-")): path.read_bytes()
        for path in (run / "samples").glob("grid-*.png")
    }


def tile(path, index, across):
    """The picture of one sample in a grid of enlarged tiles, `(3, 8, 8)` in [0, 255]."""
    left = index % across * (LEAST_SIDE + GAP)
    top = index // across * (LEAST_SIDE + LINE + GAP) + LINE
    with Image.open(path) as image:
        pixels = torch.tensor(np.asarray(image.convert("RGB")).astype(int))
    one = pixels[top : top + LEAST_SIDE, left : left + LEAST_SIDE]
    return one[:: LEAST_SIDE // 8, :: LEAST_SIDE // 8].permute(2, 0, 1)


def test_a_grid_shows_the_first_held_out_samples_as_evaluations_draw_them(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run").folder
    assert sorted(grids(run)) == [0, 2, 4, 5]
    drawn = draw_both(run, 3, (), 1.0)
    for step, samples in ((0, drawn.base), (5, drawn.tuned)):
        for index, picture in enumerate(samples["decoded"]):
            found = tile(run / "samples" / f"grid-{step:08d}.png", index, across=2)
            assert torch.equal(found, (picture.clamp(0, 1) * 255).round().long())


def test_grids_change_nothing_in_the_training(recipe, tmp_path):
    """Also where a component draws from torch's generator while it shows samples, and where the average is drawn."""
    for extra in ([], ["train.ema=0.9"]):
        with_grids = run_recipe(recipe, tmp_path / f"with{len(extra)}", "samples.every=1", *extra)
        without = run_recipe(recipe, tmp_path / f"without{len(extra)}", "samples.every=0", *extra)
        timed = {"train_seconds", "samples_per_second"}
        columns = sorted(without.steps[0].keys() - timed)
        assert "denoiser_forwards" in columns
        check_same_run(with_grids, without, columns=columns)
        assert grids(with_grids.folder) and not (without.folder / "samples").exists()


def test_a_resumed_run_draws_the_grids_after_its_checkpoint_again(recipe, tmp_path):
    """From a checkpoint of a step with a grid that is missing, as after a kill between the two, and from one before."""
    whole = run_recipe(recipe, tmp_path / "whole").folder
    for stop, lost in ((4, [4, 5]), (3, [])):
        part = tmp_path / f"part{stop}"
        shutil.copytree(whole, part)
        for path in (part / "checkpoints").iterdir():
            if step_of(path) > stop:
                shutil.rmtree(path)
        for step in lost:
            (part / "samples" / f"grid-{step:08d}.png").unlink()
        (part / "samples" / "grid-00000077.png").write_bytes(b"of a run that went further")
        assert grids(run_recipe(recipe, part, resume=True).folder) == grids(whole)


def test_a_batch_of_several_steps_draws_once_it_has_passed_a_multiple(recipe, tmp_path):
    overrides = [
        "algorithm={use: ddpo, inner_epochs: 3}",
        "sampler={use: ddim, steps: 3, eta: 1.0}",
    ]
    run = run_recipe(recipe, tmp_path / "run", *overrides, "train.steps=12", "samples.every=5")
    assert sorted(grids(run.folder)) == [0, 6, 12]


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("poses", (2 * LEAST_SIDE + GAP, 2 * (LEAST_SIDE + LINE) + GAP)),
        ("film", (5 * LEAST_SIDE, 3 * (LEAST_SIDE + LINE) + 2 * GAP)),
    ],
)
def test_samples_of_other_kinds_are_drawn_as_their_model_shows_them(recipe, tmp_path, model, size):
    run = run_recipe(recipe, tmp_path / "run", f"model.use={model}", "train.steps=1").folder
    with Image.open(run / "samples" / "grid-00000001.png") as image:
        assert image.size == size


def test_samples_that_cannot_be_looked_at_end_the_run_before_it_trains(recipe, tmp_path):
    with pytest.raises(ComponentError) as error:
        run_recipe(recipe, tmp_path / "run", "model.use=vectors")
    assert str(error.value) == (
        "samples.every: the samples of the model 'vectors' cannot be looked at: expected pictures (c, h, w) or "
        "(v, c, h, w) with c = 1 or 3, decoded or from its method `show`; they are of shape (192,). Set samples.every "
        "to 0."
    )
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_large_pictures_are_made_smaller_in_their_proportions(tmp_path):
    halves = torch.cat([torch.zeros(1, 1, 1024, 800), torch.ones(1, 1, 1024, 800)], dim=-1)
    path = save_tiles(halves, ["a label that is longer than its picture " * 9], tmp_path / "g.png")
    with Image.open(path) as image:
        assert image.size == (800, MOST_SIDE + LINE)
        assert image.getpixel((10, LINE + 5)) == (0, 0, 0)
        assert image.getpixel((790, LINE + 5)) == (255, 255, 255)


@pytest.fixture
def largest(monkeypatch):
    """A sixteenth of the limit, so that a sixteenth of the pictures reach it."""
    assert LARGEST_SHEET < Image.MAX_IMAGE_PIXELS  # above which Pillow warns
    monkeypatch.setattr("rewardft.evaluation.pictures.LARGEST_SHEET", LARGEST_SHEET // 16)
    return LARGEST_SHEET // 16


@pytest.mark.parametrize("count", [1, 3, 44])
def test_a_grid_is_never_larger_than_its_limit(tmp_path, count, largest):
    """The tiles become smaller, in their proportions."""
    pictures = torch.ones(1, 1, 512, 640).expand(count, -1, -1, -1)
    path = save_tiles(pictures, ["a"] * count, tmp_path / "g.png")
    with Image.open(path) as image:
        pixels = image.width * image.height
    assert pixels <= largest
    if count < 44:
        assert image.size == (
            min(count, 2) * (640 + GAP) - GAP,
            -(-count // 2) * (512 + LINE + GAP) - GAP,
        )
    else:
        # What is lost is less than one line of pixels of each tile.
        assert pixels > 0.98 * largest


def test_columns_of_many_samples_become_smaller_too(tmp_path, largest):
    pictures = torch.zeros(5, 1, 512, 1024)
    path = save_grid({"base": pictures, "tuned": pictures}, ["a"] * 5, tmp_path / "grid.png")
    with Image.open(path) as image:
        assert 0.98 * largest < image.width * image.height <= largest


def test_pictures_of_several_sizes_are_laid_upon_white():
    small, large = torch.zeros(2, 3, 4, 6), torch.full((1, 3, 5, 5), 0.5)
    whole = joined_pictures([small, large])
    assert whole.shape == (3, 3, 5, 6)
    assert torch.equal(whole[:2, :, :4, :], small) and torch.equal(whole[2:, :, :, :5], large)
    assert whole[:2, :, 4:].eq(1).all() and whole[2:, :, :, 5:].eq(1).all()


def test_samples_of_several_kinds_are_refused_with_their_shapes():
    with pytest.raises(ComponentError) as error:
        joined_pictures([torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)])
    assert str(error.value) == (
        "samples of several batches cannot be shown together: they are of shapes (1, 4, 4) and (3, 4, 4). Expected "
        "pictures (c, h, w), or videos or views (v, c, h, w), with the same c in all."
    )
    with pytest.raises(ComponentError, match="shown together"):
        joined_pictures([torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 3, 4, 4)])


FEW = """
from rewardft import hookimpl
from rewardft.testing.tiny import TinyBlobs

def few(size: int = 4):
    return [TinyBlobs(10)[index] for index in range(size)]

@hookimpl
def register_datasets():
    return {"few": few}
"""


@pytest.mark.parametrize(
    "sets", [[], ["evaluate.samples=4", "evaluate.every=2", "samples.every=0"]]
)
def test_empty_held_out_data_are_told_of_before_the_run_trains(recipe, tmp_path, sets):
    (tmp_path / "few.py").write_text(FEW)
    plugins = f"plugins=[rewardft.testing.tiny, {tmp_path}/shown.py, ddpo, {tmp_path}/few.py]"
    given = [plugins, "data={use: few, batch_size: 2}", "evaluate.data={size: 0}", *sets]
    with pytest.raises(DataError) as error:
        run_recipe(recipe, tmp_path / "run", *given)
    assert str(error.value).startswith("the data set list of the evaluation is empty")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
