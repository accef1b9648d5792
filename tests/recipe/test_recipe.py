"""Recipes that are right: values, lines, defaults, overrides, and reading back what was written."""

import pickle

import pytest
import yaml

from rewardft.errors import RecipeError
from rewardft.recipe.recipe import load_recipe
from rewardft.recipe.strict_yaml import dump, parse

MINIMAL = """\
plugins: [./reward.py, toy>=0.1]
model: {use: tiny, width: 8}
sampler: {use: ddim}
data: {use: blobs, batch_size: 2}
rewards:
  - use: brightness
    weight: 2
algorithm: {use: draft}
optimizer: {lr: 1e-4}
train: {steps: 10}
"""


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2E3", -2000.0),
        ("7", 7),
        ("-7", -7),
        ("010", 10),
        ("0x10", 16),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ("~", None),
        ("null", None),
        ("", None),
        ("<<", "<<"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars_mean_what_they_say(text, value):
    data = parse(f"key: {text}").data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


@pytest.mark.parametrize(
    "value", ["1e-4", "on", "12:30:00", "null", "", "2024-01-01", 1e-5, 3, True, None, [1, ["a"]]]
)
def test_what_is_dumped_is_read_back(value):
    data = parse(dump({"key": value})).data
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_defaults_are_filled_in(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.dump() == {
        "plugins": [str(recipe_file.parent / "reward.py"), "toy>=0.1"],
        "seed": 0,
        "model": {"use": "tiny", "width": 8},
        "sampler": {"use": "ddim"},
        "data": {"use": "blobs", "batch_size": 2},
        "rewards": [{"use": "brightness", "weight": 2.0, "on_error": "stop", "name": "brightness"}],
        "regularizers": [],
        "algorithm": {"use": "draft"},
        "adapter": {
            "kind": "lora",
            "rank": 16,
            "alpha": 16.0,
            "targets": None,
            "dropout": 0.0,
            "init": None,
        },
        "optimizer": {
            "use": "adamw",
            "lr": 1e-4,
            "weight_decay": 0.01,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "schedule": "constant",
            "warmup": 0,
        },
        "train": {
            "steps": 10,
            "budget": None,
            "accumulate": 1,
            "clip_norm": 1.0,
            "ema": None,
            "precision": "fp32",
            "checkpointing": False,
            "decode_checkpointing": False,
            "micro_batch": None,
            "shard": False,
            "keep_for_rollouts": False,
            "compile": False,
            "reward_gradients": "sum",
            "log_every": 10,
            "report_to": [],
        },
        "evaluate": {
            "every": 0,
            "fractions": None,
            "samples": 64,
            "samples_per_item": 1,
            "batch_size": None,
            "seed": 1234,
            "data": {},
            "sampler": None,
            "weights": "raw",
            "rewards": [],
            "metrics": [],
            "kl": False,
            "on_alarm": "warn",
            "min_diversity": 0.7,
        },
        "samples": {"every": 0, "count": 8},
        "save": {"every": 0, "keep": 3, "best": None, "patience": None},
    }


def test_written_recipe_is_equal_from_any_folder(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, ["model.mode='1e-4'", "evaluate.data={split: val}"])
    copy = tmp_path / "elsewhere" / "recipe.yaml"
    copy.parent.mkdir()
    copy.write_text(recipe.to_yaml())
    again = load_recipe(copy)
    assert again.dump() == recipe.dump()
    assert again.digest() == recipe.digest()
    assert again.model.options == {"width": 8, "mode": "1e-4"}


def test_digest_depends_on_values_and_not_on_their_spelling(recipe_file):
    digest = load_recipe(recipe_file).digest()
    assert len(digest) == 64
    assert load_recipe(recipe_file, ["train.accumulate=1"]).digest() == digest
    assert load_recipe(recipe_file, ["optimizer.lr=0.0001"]).digest() == digest
    assert load_recipe(recipe_file, ["train.accumulate=2"]).digest() != digest


def test_lines_of_keys_list_items_and_what_lies_nearest(recipe_file):
    recipe = load_recipe(recipe_file)
    assert recipe.line("model", "width") == 2
    assert recipe.line("rewards", 0) == 6
    assert recipe.line("rewards", 0, "weight") == 7
    assert recipe.line("rewards", 0, "on_error") == 6
    assert recipe.line("save", "keep") is None
    assert recipe.where("rewards", 0, "weight") == f"{recipe_file}:7"
    assert recipe.where("save", "keep") == str(recipe_file)


def test_overrides_reach_lists_options_and_absent_keys(recipe_file):
    overrides = [
        "rewards.0.weight=0.5",
        "model.width=4",
        "model.mode=on",
        "adapter.rank=4",
        "evaluate.data.split=val",
        "plugins=[]",
        "optimizer.lr=1e-3",
        "train.clip_norm=",
    ]
    recipe = load_recipe(recipe_file, overrides)
    assert recipe.rewards[0].weight == 0.5
    assert recipe.model.options == {"width": 4, "mode": "on"}
    assert (recipe.adapter.rank, recipe.adapter.alpha) == (4, 4.0)
    assert recipe.evaluate.data == {"split": "val"}
    assert recipe.plugins == []
    assert recipe.optimizer.lr == 1e-3
    assert recipe.train.clip_norm is None
    assert recipe.where("rewards", 0, "weight") == "--set rewards.0.weight=0.5"
    assert recipe.line("rewards", 0, "weight") is None


def test_options_of_another_optimizer_are_handed_on(recipe_file):
    recipe = load_recipe(recipe_file, ["optimizer.use=lion", "optimizer.momentum=0.5"])
    assert recipe.optimizer.options == {"momentum": 0.5}
    assert recipe.optimizer.as_options()["momentum"] == 0.5
    assert "options" not in recipe.optimizer.as_options()


def test_an_option_may_be_called_options(recipe_file):
    assert load_recipe(recipe_file, ["model.options=3"]).model.options == {"width": 8, "options": 3}


def test_two_rewards_of_a_kind_are_told_apart_by_name(recipe_file):
    recipe = load_recipe(recipe_file, ["rewards=[{use: a}, {use: a, name: b}]"])
    assert [reward.name for reward in recipe.rewards] == ["a", "b"]


def test_a_byte_order_mark_is_no_part_of_the_text(recipe_file):
    recipe_file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_recipe(recipe_file).train.steps == 10


def test_pyyaml_alone_would_have_misread():
    """Why the strict reader exists: the five silent surprises of YAML 1.1 in PyYAML."""
    text = "{a: 1e-4, b: on, c: no, d: 12:30:00, e: 1, e: 2}"
    assert yaml.safe_load(text) == {"a": "1e-4", "b": True, "c": False, "d": 45000, "e": 2}
    document = parse(text)
    assert document.data == {"a": 1e-4, "b": "on", "c": "no", "d": "12:30:00", "e": 1}
    assert [p.message for p in document.problems] == [
        "the key 'e' is repeated; it is first given on line 1."
    ]


def test_an_error_of_another_process_is_the_same_here():
    """Processes hand errors on by pickle; one that cannot be read back leaves a pool waiting forever."""
    error = RecipeError("mine.yaml", ["no such key", "a value too many"])
    error.add_note("in the second process")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is RecipeError and str(again) == str(error)
    assert (again.source, again.problems) == ("mine.yaml", ["no such key", "a value too many"])
    assert again.__notes__ == ["in the second process"]
