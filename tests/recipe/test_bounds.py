"""Numbers that can never be right: `check` says so, for every option of every shipped component."""

import typing
from pathlib import Path

import pytest
from annotated_types import BaseMetadata

from rewardft.errors import RecipeError
from rewardft.plugins.catalog import build_catalog
from rewardft.plugins.component import annotation_of, option_parameters
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import open_recipe
from rewardft.plugins.sources import installed

RECIPE = """\
plugins: [rewardft.testing.tiny, ddpo]
model: {use: tiny}
sampler: {use: ddim}
data: {use: tiny_blobs}
rewards: [{use: tiny_brightness}]
algorithm: {use: drtune}
optimizer: {lr: 1e-4}
train: {steps: 10}
"""
COUNT, ZERO = "a whole number of at least 1", "a number of at least 0"
TOGETHER = f"{COUNT} and of at most 1000000"
# A setting, and what is said after it.
REFUSED = {
    "sampler.eta=-1": f"option 'eta' of sampler 'ddim': expected {ZERO}, got -1 (a whole number).",
    "sampler.steps=0": f"option 'steps' of sampler 'ddim': expected {COUNT}, got 0 (a whole number).",
    "model.width=0": f"option 'width' of model 'tiny': expected {COUNT}, got 0 (a whole number).",
    "model.guidance=-0.5": f"option 'guidance' of model 'tiny': expected {ZERO}, got -0.5 (a number).",
    "data.size=0": f"option 'size' of data set 'tiny_blobs': expected {COUNT}, got 0 (a whole number).",
    "algorithm.train_steps=0": f"option 'train_steps' of algorithm 'drtune': expected {COUNT}, got 0 (a whole number).",
    "algorithm={use: ddpo, timestep_fraction: 2}": "option 'timestep_fraction' of algorithm 'ddpo': expected a number "
    "above 0 and of at most 1, got 2 (a whole number).",
    "data.batch_size=1000000000000": f"data.batch_size: expected {TOGETHER}, got 1000000000000 (a whole number).",
    "train.micro_batch=10000000": f"train.micro_batch: expected {TOGETHER} or null, got 10000000 (a whole number).",
    "train.accumulate=10000000": f"train.accumulate: expected {TOGETHER}, got 10000000 (a whole number).",
    "evaluate.samples_per_item=10000000": f"evaluate.samples_per_item: expected {TOGETHER}, got 10000000 (a whole "
    "number).",
    "adapter.rank=1000000": f"adapter.rank: expected {COUNT} and of at most 65536, got 1000000 (a whole number).",
    "seed=010": "010 begins with 0, which some YAML readers take for eights and others for tens: write 10 for tens, "
    "0o10 for eights, or put it in quotes if it is text.",
    "seed=-09": "-09 begins with 0, which some YAML readers take for eights and others for tens: write -9 for tens, "
    "or put it in quotes if it is text.",
    "seed=00": "00 begins with 0, which some YAML readers take for eights and others for tens: write 0 for tens, or "
    "put it in quotes if it is text.",
    "algorithm={use:drtune}": "'use:drtune' is a key without a value; is a space missing? Write use: drtune",
    "algorithm=use:drtune": "algorithm: expected a mapping, got 'use:drtune' (text); write {use: drtune}.",
    "rewards=use:tiny_brightness": "rewards: expected a list (each a mapping), got 'use:tiny_brightness' (text); "
    "write [{use: tiny_brightness}].",
    "rewards=[use:tiny_brightness]": "rewards.0: expected a mapping, got 'use:tiny_brightness' (text); write {use: "
    "tiny_brightness}.",
    "train=steps:3": "train: expected a mapping, got 'steps:3' (text); is a space missing? Write steps: 3.",
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize("setting", REFUSED)
def test_what_can_never_be_right_is_refused(recipe, setting):
    with pytest.raises(RecipeError) as caught:
        open_recipe(recipe, [setting])
    assert caught.value.problems[0] == f"--set {setting}: {REFUSED[setting]}"


@pytest.mark.parametrize(
    "setting", ["seed=0", "seed=0o10", "seed=10", "sampler.eta=0", "adapter.rank=65536"]
)
def test_what_may_be_right_is_not(recipe, setting):
    open_recipe(recipe, [setting])


def test_eights_are_read_as_yaml_has_them(recipe):
    assert open_recipe(recipe, ["seed=0o10"])[0].seed == 8


def test_a_colon_without_its_space_in_a_file(recipe):
    for text, problem in (
        (RECIPE.replace("sampler: ", "sampler:"), "{path}:3: a space is missing after the colon of 'sampler': write sampler: {{use ..."),
        (RECIPE.replace("train: ", "seed:5\ntrain: "), "{path}:8: expected `key: value`, with a space after the colon."),
        (RECIPE + "seed:5\n", "{path}:9: expected `key: value`, with a space after the colon."),
        (RECIPE.replace("plugins: ", "plugins:"), "{path}:2: a `key: value` cannot begin here; is a space missing after "
         "a colon, here or on the line before?"),
    ):  # fmt: skip
        recipe.write_text(text)
        with pytest.raises(RecipeError) as caught:
            open_recipe(recipe)
        assert problem.format(path=recipe) in caught.value.problems


# Options that any number may be right for: seeds, targets, and the factors of what is asked for.
ANY = {"seed", "salt", "target", "scale", "lowest", "highest"}
ENTRIES = build_catalog(load_plugins(sorted(installed()), Path()))


def numbers(annotation):
    """The plain numbers in an annotation that have no bounds; choices, lists and paths are none."""
    if typing.get_origin(annotation) is typing.Annotated:
        bounds = any(isinstance(part, BaseMetadata) for part in annotation.__metadata__)
        return [] if bounds else numbers(typing.get_args(annotation)[0])
    if annotation in (int, float):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, type(int | None)):
        return [n for part in typing.get_args(annotation) for n in numbers(part)]
    return []


def test_every_number_has_bounds():
    unbounded = [
        f"{entry.kind} {entry.name}.{name}"
        for kind in ENTRIES.kinds
        for entry in ENTRIES.of_kind(kind)
        for name, parameter in option_parameters(entry).items()
        if name not in ANY and numbers(annotation_of(entry, parameter))
    ]
    assert unbounded == [], "\n".join(unbounded)
