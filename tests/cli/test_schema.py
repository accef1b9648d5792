"""`rewardft schema`: what it accepts and refuses, by an independent validator."""

import copy
import json

import jsonschema
import pytest

from rewardft.cli import main
from rewardft.cli.schemas import file_schema
from rewardft.recipe import strict_yaml
from rewardft.recipe.recipe import read_recipe
from rewardft.recipe.sections import Sections, section_of
from rewardft.recipe.shipped import shipped_files

RECIPE = """
plugins: [toy, metrics]
seed: 3
model:     {use: toy, prediction: v_prediction, guidance: 2.0}
sampler:   {use: ddim, steps: 10}
data:      {use: toy_blobs, batch_size: 8}
rewards:   [{use: brightness, weight: 0.5, name: light}]
regularizers: [{use: kl, weight: 0.01}]
algorithm: {use: drtune, train_steps: 2, early_stop: 4}
adapter:   {kind: lora, rank: 4}
optimizer: {use: adamw, lr: 5e-3, betas: [0.9, 0.99]}
train:     {steps: 60, precision: bf16}
evaluate:  {every: 30, data: {split: val}, metrics: [{use: diversity}], sampler: {use: ddpm}}
save:      {every: 10, best: reward/light}
"""
COMPARISON = """
recipes: [toy_draft]
set: {evaluate.samples: 64, rewards.0.weight: 2.0}
variants: {low: {optimizer.lr: 1e-3}, other: {algorithm: {use: drtune}}}
vary: {train.ema: [null, 0.99]}
seeds: 3
budget: 4000-calls
"""


@pytest.fixture(scope="module")
def validator():
    schema = file_schema()
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def parsed(text):
    document = strict_yaml.parse(text)
    assert document.problems == []
    return document.data


def places(validator, data):
    """Where the schema refuses something: the paths of the innermost errors."""
    found = set()
    for error in validator.iter_errors(data):
        found.add(".".join(map(str, jsonschema.exceptions.best_match([error]).absolute_path)))
    return found


@pytest.mark.parametrize("name", sorted(shipped_files()))
def test_every_shipped_recipe_and_comparison_is_valid(name, validator):
    data = parsed(shipped_files()[name].read_text(encoding="utf-8"))
    assert [e.message for e in validator.iter_errors(data)] == []


@pytest.mark.parametrize("text", [RECIPE, COMPARISON], ids=["recipe", "comparison"])
def test_what_is_right_is_accepted(text, validator):
    assert [e.message for e in validator.iter_errors(parsed(text))] == []


# A slip in the recipe above, and where the schema sees it.
SLIPS = {
    ("optimizer:", "optimzer:"): "",
    ("lr: 5e-3", "lrr: 5e-3"): "optimizer",
    ("lr: 5e-3", "lr: fast"): "optimizer.lr",
    ("lr: 5e-3", "lr: -1.0"): "optimizer.lr",
    ("use: drtune", "use: drtne"): "algorithm.use",
    ("train_steps: 2", "train_step: 2"): "algorithm",
    ("train_steps: 2", "train_steps: many"): "algorithm.train_steps",
    ("use: ddim, steps: 10", "use: ddim, steps: 10.5"): "sampler.steps",
    ("use: ddim, steps: 10", "use: ddim, step: 10"): "sampler",
    ("weight: 0.5, name: light", "weigth: 0.5"): "rewards.0",
    ("use: brightness,", "use: brigthness,"): "rewards.0.use",
    ("use: kl, weight: 0.01", "use: kl"): "regularizers.0",
    ("use: kl, weight: 0.01", "use: kl, weight: -1.0"): "regularizers.0.weight",
    ("kind: lora", "kind: Lora"): "adapter.kind",
    ("betas: [0.9, 0.99]", "betas: [0.9]"): "optimizer.betas",
    ("precision: bf16", "precision: fp16"): "train.precision",
    ("steps: 60, ", ""): "train",
    ("use: diversity", "use: diversty"): "evaluate.metrics.0.use",
    ("sampler: {use: ddpm}", "sampler: {use: ddpm, eta: 1.0}"): "evaluate.sampler",
    ("every: 30", "evry: 30"): "evaluate",
    ("guidance: 2.0", "guidance: 2.0, prompt: a"): "model",
    ("split: val}", "split: val}, seed: soon"): "evaluate.seed",
    ("batch_size: 8", "batch_size: 0"): "data.batch_size",
}


@pytest.mark.parametrize("slip", SLIPS, ids=lambda slip: slip[1] or "left out")
def test_a_slip_is_refused_where_it_is(slip, validator):
    wrong = RECIPE.replace(*slip)
    assert wrong != RECIPE
    assert SLIPS[slip] in places(validator, parsed(wrong))


def test_every_fixed_key_is_closed(validator):
    """A key with one letter too many is refused in each section, as the reader of recipes does."""
    for section in Sections.model_fields:
        cls = section_of(Sections, section)
        if cls is None:
            continue
        data = parsed(RECIPE)
        data.setdefault(section, {})
        assert validator.is_valid(data), section
        place = data[section][0] if isinstance(data[section], list) else data[section]
        place["unheard_of"] = 1
        assert not validator.is_valid(data), section


def test_names_of_a_plugin_that_is_a_file_are_left_alone(validator):
    data = parsed(RECIPE)
    data["rewards"] = [{"use": "my_reward", "sharp": 1}]
    assert not validator.is_valid(data)
    data["plugins"].append("./my_reward.py")
    assert validator.is_valid(data)
    # What is known is still checked.
    data["algorithm"]["train_step"] = 2
    assert not validator.is_valid(data)


def test_a_version_may_follow_a_plugin(validator):
    data = parsed(RECIPE)
    data["plugins"] = ["toy>=0.1", "metrics == 0.1.0"]
    assert validator.is_valid(data)
    data["plugins"] = ["toyy", "metrics"]
    data["rewards"][0]["use"] = "my_reward"
    assert validator.is_valid(data)  # a module that may have it


def test_null_is_the_default_of_an_option(validator):
    data = parsed(RECIPE)
    data["algorithm"] = {"use": "draft_k", "train_steps": None}
    accepted = validator.is_valid(data)
    data["algorithm"] = {"use": "direct", "train_steps": None}
    assert validator.is_valid(data) and not accepted


def test_a_reward_inside_an_option_is_checked(validator):
    data = parsed(RECIPE)
    data["plugins"] = ["toy", "video"]
    data["rewards"] = [{"use": "per_frame", "reward": {"use": "brightness", "target": 0.5}}]
    data["evaluate"].pop("metrics")
    assert validator.is_valid(data)
    data["rewards"][0]["reward"]["taget"] = 0.5
    assert not validator.is_valid(data)


COMPARISON_SLIPS = {
    ("recipes:", "recipe:"): None,
    ("seeds: 3", "seeds: 0"): "seeds",
    ("seeds: 3", "seed: 3"): "",
    ("evaluate.samples: 64", "evaluate.sample: 64"): "set",
    ("evaluate.samples: 64", "evaluate.samples: some"): "set.evaluate.samples",
    ("optimizer.lr: 1e-3", "optimzer.lr: 1e-3"): "variants.low",
    ("[null, 0.99]", "[null, 1.5]"): "vary.train.ema.1",
    ("[null, 0.99]", "0.99"): "vary.train.ema",
}


@pytest.mark.parametrize("slip", COMPARISON_SLIPS, ids=lambda slip: slip[1])
def test_a_slip_in_a_comparison_is_refused(slip, validator):
    found = places(validator, parsed(COMPARISON.replace(*slip)))
    assert found and COMPARISON_SLIPS[slip] in (None, *found)


def test_it_agrees_with_the_reader_on_random_values(validator, tmp_path):
    """Of each fixed key and several values, schema and reader accept and refuse the same."""
    values = [None, True, 0, 1, -1, 0.5, 2.5, "lora", "cosine", "x", [], ["x"], {}]
    path = tmp_path / "recipe.yaml"
    differing = []
    for section in ("adapter", "optimizer", "train", "save", "evaluate"):
        for key in section_of(Sections, section).model_fields:
            # Sections and names of components are checked above; a budget has a grammar of its own.
            if key in ("use", "options", "rewards", "metrics", "sampler", "budget", "data"):
                continue
            for value in values:
                data = copy.deepcopy(parsed(RECIPE))
                data[section][key] = value
                path.write_text(json.dumps(data))
                own = [p for p in read_recipe(path)[1] if f"{section}.{key}:" in p]
                mine = any(
                    place.startswith(f"{section}.{key}") for place in places(validator, data)
                )
                # Rules about two keys at once are beyond a schema.
                paired = "schedule" in key or key in ("weights", "keep_for_rollouts", "fractions")
                if bool(own) != mine and not paired:
                    differing.append((section, key, value, own))
    assert differing == []


def test_it_is_printed_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["schema", "--out", "rewardft.schema.json"]) == 0
    said = capsys.readouterr().out
    assert said == (
        "rewardft.schema.json: first line of a recipe beside it: "
        "# yaml-language-server: $schema=rewardft.schema.json\n"
    )
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed) == json.loads((tmp_path / "rewardft.schema.json").read_text())


def test_a_plugin_file_is_known_when_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from rewardft import hookimpl\n\n\ndef sharp(rollout, batch, *, power: float = 1.0):\n"
        "    return rollout.x0\n\n\n@hookimpl\ndef register_rewards():\n"
        "    return {'sharp': sharp}\n"
    )
    monkeypatch.chdir(tmp_path)
    mine = jsonschema.Draft7Validator(file_schema(["./mine.py"]))
    data = parsed(RECIPE)
    data["plugins"].append("./mine.py")
    data["rewards"] = [{"use": "sharp", "power": 2.0}]
    assert mine.is_valid(data)
    data["rewards"] = [{"use": "sharp", "power": "two"}]
    assert not mine.is_valid(data)
