"""accelerate's trackers: the metrics arrive there, and one that cannot be used stops the run before it starts."""

import importlib.util
import io
import json

import pytest
from PIL import Image

from rewardft.cli import main
from rewardft.errors import RecipeError
from rewardft.testing import run_recipe

RECIPE = """
plugins: [rewardft.testing.tiny, ./tracker.py]
model: {use: tiny, prediction: v_prediction, width: 12}
sampler: {use: ddim, steps: 4}
data: {use: tiny_blobs, batch_size: 2}
rewards: [{use: tiny_brightness}]
algorithm: {use: draft_k}
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 3, log_every: 2}
evaluate: {every: 3, samples: 2}
"""
PLUGIN = '''
"""A tracker of one's own, as accelerate asks for it: a line of JSON per call."""
import json
from pathlib import Path

from accelerate.tracking import GeneralTracker, register_tracker_class

from rewardft import hookimpl


class Lines(GeneralTracker):
    name = "lines"
    requires_logging_directory = True

    def __init__(self, run_name, logging_dir):
        super().__init__()
        self.path = Path(logging_dir) / f"{run_name}.lines"

    @property
    def tracker(self):
        return self.path

    def write(self, *record):
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\\n")

    def store_init_configuration(self, values):
        self.write("config", sorted(values))

    def log(self, values, step):
        self.write(step, values)

    def log_images(self, values, step):
        ((name, (picture,)),) = values.items()
        self.write(step, {name: [picture.mode, *picture.size]})

    def finish(self):
        self.write("finish")


register_tracker_class(Lines)


def broken(rollout, batch):
    raise ValueError("no judge today")


@hookimpl
def register_rewards():
    return {"broken": broken}
'''


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "tracker.py").write_text(PLUGIN)
    return tmp_path / "recipe.yaml"


@pytest.fixture(autouse=True)
def _own_table_of_trackers():
    """accelerate keeps one table of trackers per process."""
    from accelerate import tracking

    if not hasattr(tracking, "register_tracker_class"):
        pytest.skip("this accelerate has no register_tracker_class")
    before = dict(tracking.LOGGER_TYPE_TO_CLASS)
    yield
    tracking.LOGGER_TYPE_TO_CLASS.clear()
    tracking.LOGGER_TYPE_TO_CLASS.update(before)


def test_a_plugins_tracker_gets_every_step_and_evaluation(recipe, tmp_path):
    run = run_recipe(recipe, tmp_path / "run", "train.report_to=[lines]")
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "rewardft.lines").read_text().splitlines()
    ]
    assert lines[0] == ["config", ["recipe"]] and lines[-1] == ["finish"]
    steps = [(step, values) for step, values in lines[1:-1] if "loss" in values]
    assert [step for step, _ in steps] == [1, 2, 3]
    assert [values["loss"] for _, values in steps] == run.column("loss")
    assert [
        step for step, values in lines[1:-1] if "evaluation/reward/tiny_brightness" in values
    ] == [0, 3]


def test_a_tracker_that_takes_pictures_gets_the_grids(recipe, tmp_path):
    settings = ["train.report_to=[lines]", "evaluate.every=0", "samples={every: 2, count: 2}"]
    run = run_recipe(recipe, tmp_path / "run", *settings)
    lines = [json.loads(line) for line in (run.folder / "rewardft.lines").read_text().splitlines()]
    pictures = [(step, values) for step, *values in lines if values and "samples" in values[0]]
    sheet = {"samples": ["RGB", 128, 2 * (128 + 14) + 4]}
    assert pictures == [(0, [sheet]), (2, [sheet]), (3, [sheet])]


def test_tensorboard_gets_metrics_and_grids(recipe, tmp_path):
    """Read back from its own files."""
    pytest.importorskip("tensorboard", reason="needs pip install 'rewardft[trackers]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = ["train.report_to=[tensorboard]", "evaluate.every=0", "samples={every: 2, count: 2}"]
    run = run_recipe(recipe, tmp_path / "run", *settings)
    events = EventAccumulator(str(run.folder / "rewardft"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    losses = [event.value for event in events.Scalars("loss")]
    assert losses == pytest.approx(run.column("loss"), rel=1e-6)
    (tag,) = events.Tags()["images"]
    assert [event.step for event in events.Images(tag)] == [0, 2, 3]
    for event in events.Images(tag):
        written = run.folder / "samples" / f"grid-{event.step:08d}.png"
        with (
            Image.open(io.BytesIO(event.encoded_image_string)) as logged,
            Image.open(written) as grid,
        ):
            assert logged.convert("RGB").tobytes() == grid.convert("RGB").tobytes()


def test_trackers_are_closed_when_a_run_fails(recipe, tmp_path):
    with pytest.raises(ValueError, match="no judge today"):
        run_recipe(
            recipe,
            tmp_path / "run",
            "train.report_to=[lines]",
            "rewards=[{use: broken}]",
            "evaluate.every=0",
        )
    assert json.loads((tmp_path / "run" / "rewardft.lines").read_text().splitlines()[-1]) == [
        "finish"
    ]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tensorbord", "accelerate knows no tracker 'tensorbord'. Did you mean 'tensorboard'?"),
        (
            "comet_ml",
            "the package of the tracker 'comet_ml' is not installed: pip install comet_ml, or leave 'comet_ml' out; "
            "metrics.jsonl is written in any case.",
        ),
    ],
)
def test_a_tracker_that_cannot_be_used_stops_the_run_before_it_starts(
    recipe, tmp_path, name, problem
):
    """accelerate itself leaves a tracker whose package is missing out, and says nothing."""
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(RecipeError) as error:
        run_recipe(recipe, tmp_path / "run", f"train.report_to=[{name}]")
    assert error.value.problems == [f"train.report_to: {problem}"]
    assert not (tmp_path / "run").exists()


def test_a_comparison_says_so_before_any_run(recipe, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(
        "recipes: [recipe.yaml]\nset: {train.report_to: [tensorbord]}\nseeds: 2\n"
    )
    assert main(["check", str(tmp_path / "study.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.count("accelerate knows no tracker 'tensorbord'. Did you mean 'tensorboard'?") == 1


def test_on_the_command_line_it_is_one_message_and_exit_code_2(recipe, tmp_path, capsys):
    code = main(
        ["run", str(recipe), "--out", str(tmp_path / "run"), "--set", "train.report_to=[nothing]"]
    )
    assert code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith(
        "error: --set train.report_to=[nothing]: 1 problem\n"
        "  - train.report_to: accelerate knows no tracker 'nothing'. Choose one of: "
    )
    assert "Traceback" not in stderr
