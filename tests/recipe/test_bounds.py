"""Numbers that can never be right: `check` says so, for every option of every shipped component."""

import re
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
    "train.micro_batch=10000000": f"train.micro_batch: expected {TOGETHER}, one of 'auto', 'all' or null, got 10000000 (a whole number).",
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

# One step cannot be stopped earlier.
FITTING = {"sampler.steps=1": ["algorithm={use: draft_k}"]}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path / "r.yaml"


@pytest.mark.parametrize("setting", REFUSED)
def test_what_can_never_be_right_is_refused(recipe, setting):
    with pytest.raises(RecipeError) as caught:
        open_recipe(recipe, [setting])
    assert caught.value.problems[0] == f"--set {setting}: {REFUSED[setting]}"


# A setting that is just within its bounds, and what the recipe then has.
TAKEN = {
    "seed=0": 0,
    "seed=0o10": 8,
    "seed=10": 10,
    "sampler.eta=0": 0.0,
    "sampler.steps=1": 1,
    "adapter.rank=65536": 65536,
    "data.batch_size=1000000": 1_000_000,
    "algorithm.early_stop=0": 0,
}


@pytest.mark.parametrize("setting", TAKEN)
def test_what_may_be_right_is_taken_as_it_is(recipe, setting):
    found, _, resolved = open_recipe(recipe, [setting, *FITTING.get(setting, [])])
    section, _, key = setting.partition("=")[0].partition(".")
    if section in ("sampler", "algorithm"):
        value = getattr(resolved, section).all_options[key]
    else:
        value = getattr(getattr(found, section), key) if key else found.seed
    assert value == TAKEN[setting] and type(value) is type(TAKEN[setting])


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
        for kind in ENTRIES.entries
        for entry in ENTRIES.of_kind(kind)
        for name, parameter in option_parameters(entry).items()
        if name not in ANY and numbers(annotation_of(entry, parameter))
    ]
    assert unbounded == [], "\n".join(unbounded)


def beyond(annotation):
    """A number below the bound of an option; None for an option without a lower one."""
    for part in typing.get_args(annotation):
        if hasattr(part, "ge"):
            return part.ge - 1
        if hasattr(part, "gt"):
            return part.gt
        if typing.get_args(part) and (inner := beyond(part)) is not None:
            return inner
    return None


def test_zero_is_taken_where_it_means_something():
    """The likeliest tokens; a reward without the distance."""
    for kind, name, option in (
        ("samplers", "hybrid", "temperature"),
        ("rewards", "crisp_pose", "reach"),
    ):
        (entry,) = [entry for entry in ENTRIES.of_kind(kind) if entry.name == name]
        assert beyond(annotation_of(entry, option_parameters(entry)[option])) == -1, name


def values_beyond(entry):
    """Those below the bounds of its options, by their names."""
    parameters = option_parameters(entry).items()
    values = {name: beyond(annotation_of(entry, parameter)) for name, parameter in parameters}
    return {name: value for name, value in values.items() if value is not None}


BOUNDED = {
    entry: values for entry in ENTRIES.of_kind("algorithms") if (values := values_beyond(entry))
}


def test_each_algorithm_is_refused_once_for_an_option_out_of_bounds(recipe):
    """Those that check it again when they are built are not built for it."""
    assert {entry.name for entry in BOUNDED} >= {"draft_k", "drtune", "ddpo", "grpo", "awm"}
    for entry, values in BOUNDED.items():
        plugins = [] if entry.plugin == "builtin" else [entry.plugin]
        listed = ", ".join(["rewardft.testing.tiny", *plugins])
        options = "".join(f", {name}: {value}" for name, value in values.items())
        setting = f"algorithm={{use: {entry.name}{options}}}"
        with pytest.raises(RecipeError) as caught:
            open_recipe(recipe, [f"plugins=[{listed}]", setting])
        problems = [each.removeprefix(f"--set {setting}: ") for each in caught.value.problems]
        for name in values:
            # A plugin may object to the recipe as well, but not to this option.
            (said,) = [each for each in problems if re.search(rf"\b{name}\b", each)]
            assert said.startswith(f"option {name!r} of algorithm {entry.name!r}: expected")
