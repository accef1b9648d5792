"""A model or a data set inside an option of another component."""

import pytest

from rewardft.errors import RecipeError
from rewardft.storage.origin import data_digests
from rewardft.testing import run_recipe
from tests.bench import Bench, line_of

PLUGIN = """
from pathlib import Path

from rewardft.contracts.protocols import Dataset, DiffusionModel


class Wrapped(TinyModel):
    def __init__(self, inner: DiffusionModel, prediction: str = "v_prediction"):
        super().__init__(prediction=prediction, width=8)
        LOG.append(inner)


class Part:
    def __init__(self, of: Dataset, count: int = 2):
        self.of, self.count = of, count

    @staticmethod
    def tags(of=None, **_):
        return of.tags("provides", "tags") if of else frozenset()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.of[index]


class Listed:
    def __init__(self, file: Path, size: int = 6):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        from rewardft.testing.tiny import TinyBlobs

        return TinyBlobs()[index]


@hookimpl
def register_models():
    return {"wrapped": Wrapped}


@hookimpl
def register_datasets():
    return {"part": Part, "listed": Listed}
"""


@pytest.fixture
def bench(tmp_path):
    bench = Bench(tmp_path)
    bench.plugin("nesting", PLUGIN)
    return bench


def test_a_model_is_given_ready_made(bench):
    run = bench.run("model={use: wrapped, inner: {use: tiny, prediction: epsilon, width: 12}}")
    (inner,) = bench.log("nesting")
    assert type(inner).__name__ == "TinyModel"
    assert inner.scheduler.config.prediction_type == "epsilon"
    assert inner.trainable.enter.out_channels == 12 and run.summary["status"] == "finished"


def test_a_data_set_is_given_ready_made_with_its_tags(bench):
    run = bench.run(
        "data={use: part, of: {use: tiny_blobs, size: 4}, count: 3, batch_size: 3}",
        "algorithm={use: denoising}",
        "rewards=[]",
    )
    assert run.summary["status"] == "finished" and run.summary["samples"] == 9


def test_the_paths_of_a_data_set_inside_start_at_the_recipe_and_are_digested(bench):
    """So that a run is not resumed on other data."""
    (bench.folder / "list.txt").write_text("a")
    text = bench.recipe.read_text().replace(
        "data: {use: tiny_blobs, size: 6, batch_size: 2}",
        "data: {use: part, of: {use: listed, file: list.txt}, batch_size: 2}",
    )
    text = text.replace(
        "plugins: [rewardft.testing.tiny]",
        f"plugins: [rewardft.testing.tiny, {bench.folder / 'nesting.py'}]",
    )
    bench.recipe.write_text(text)
    run = run_recipe(bench.recipe, bench.folder / "run", "train.steps=1")
    saved = next((run.folder / "checkpoints").glob("*/state.json")).read_text()
    path = str(bench.folder / "list.txt")
    assert path in saved and data_digests({"of.file": path}, bench.folder)[path] in saved


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("model: {use: wrapped}", "model 'wrapped' requires the option 'inner' (a model, {use: NAME, OPTION: ...})."),
        ("model: {use: wrapped, inner: tiny}", "option 'inner' of model 'wrapped': expected a model as {use: NAME, OPTION: ...}, got 'tiny' (text)."),
        ("model: {use: wrapped, inner: {use: tinny}}", "there is no model 'tinny'. Did you mean 'tiny'?"),
        ("model: {use: wrapped, inner: {use: tiny, widht: 3}}", "model 'tiny' has no option 'widht'. Did you mean 'width'?"),
    ],
)  # fmt: skip
def test_what_a_recipe_may_say(section, message, bench):
    text = bench.recipe.read_text().replace(
        "model: {use: tiny, prediction: v_prediction, width: 8}", section
    )
    bench.recipe.write_text(text)
    with pytest.raises(RecipeError) as caught:
        bench.run()
    line = line_of(bench.recipe, section)
    assert message in str(caught.value) and f"{bench.recipe}:{line}" in str(caught.value)
