"""What a command line or a comparison file asks for, as variants; and what is wrong with it, said in full."""

import itertools
from pathlib import Path

import pytest

from rewardft.comparisons.api import Options, build_request
from rewardft.comparisons.members import expand
from rewardft.comparisons.sources import (
    Variant,
    parse_vary,
    read_comparison,
    read_sources,
    vary,
)
from rewardft.comparisons.spending import budget_settings
from rewardft.comparisons.weight_sweep import mixtures
from rewardft.errors import RecipeError

RECIPE = "model: {use: tiny}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        Path(f"{name}.yaml").write_text(RECIPE)
    return tmp_path


def find(name):
    path = Path(f"{name}.yaml")
    if not path.is_file():
        raise RecipeError(name, [f"no recipe {name}"])
    return path


def names_and_settings(request):
    return {variant.name: variant.settings for variant in request.variants}


def test_recipes_and_runs_are_variants_under_distinct_names(folder):
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "one" / "recipe.yaml").write_text(RECIPE)
    request = read_sources(["one", "two", "runs/one"], find)
    assert [(v.name, str(v.recipe), v.run) for v in request.variants] == [
        ("one", "one.yaml", None),
        ("two", "two.yaml", None),
        ("one-2", "runs/one/recipe.yaml", Path("runs/one")),
    ]


def test_a_folder_that_is_no_run_is_refused(folder):
    (folder / "empty").mkdir()
    with pytest.raises(RecipeError) as caught:
        read_sources(["empty"], find)
    assert caught.value.problems == ["empty: not a run folder; expected a recipe.yaml in it."]


def test_a_comparison_file(folder):
    (folder / "c.yaml").write_text(
        "recipes: [one]\nset: {train.steps: 5, optimizer.lr: 1e-3}\nseeds: 2\nbudget: 40-calls\n"
        "variants:\n  a: {algorithm: {use: drtune}}\n  b: {optimizer.lr: 2e-3}\nvary: {seed: [1, 2]}\n"
    )
    request = read_sources(["c"], find)
    assert (request.seeds, request.budget) == (2, "40-calls")
    shared = ("train.steps=5", "optimizer.lr=0.001")
    a = ("train.steps=5", "optimizer.lr=0.001", 'algorithm={"use": "drtune"}')
    found = names_and_settings(request)
    assert list(found) == ["a-seed=1", "a-seed=2", "b-seed=1", "b-seed=2"]
    assert set(found["a-seed=2"]) == {*a, "seed=2"}
    assert set(found["b-seed=1"]) == {shared[0], "optimizer.lr=0.002", "seed=1"}, (
        "a variant's own setting wins"
    )


def test_a_comparison_file_with_several_recipes_and_paths_beside_it(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "three.yaml").write_text(RECIPE)
    (folder / "sub" / "c.yaml").write_text(
        "recipes: [one, three.yaml]\nvariants: {x: {}, y: {seed: 1}}\n"
    )
    request = read_sources(["sub/c"], find)
    assert [(v.name, str(v.recipe)) for v in request.variants] == [
        ("one-x", "one.yaml"),
        ("one-y", "one.yaml"),
        ("three-x", "sub/three.yaml"),
        ("three-y", "sub/three.yaml"),
    ]


def test_all_problems_of_a_comparison_file_at_once(folder):
    (folder / "c.yaml").write_text(
        "recipes: one\nseed: 3\nseeds: many\nvariants:\n  a: drtune\nvary:\n  train.steps: 5\n"
    )
    with pytest.raises(RecipeError) as caught:
        read_sources(["c"], find)
    assert caught.value.problems == [
        "c.yaml:1: recipes: expected a list of recipes, one at least, got 'one'.",
        "c.yaml:2: a comparison has no key 'seed'. Did you mean 'seeds'?",
        "c.yaml:3: seeds: expected a whole number from 1 to 1,000, got 'many'.",
        "c.yaml:5: variants.a: expected a mapping of recipe keys to values, got 'drtune'.",
        "c.yaml:7: vary.train.steps: expected a list of values, got 5.",
    ]


def test_a_comparison_file_comes_alone(folder):
    (folder / "c.yaml").write_text("recipes: [one]\n")
    with pytest.raises(RecipeError) as caught:
        read_sources(["one", "c"], find)
    assert caught.value.problems == ["c is a comparison of its own; give it alone."]


def test_every_value_of_a_key_and_every_pair_of_two():
    base = [Variant("one", Path("one.yaml"), ("optimizer.lr=1",))]
    rates = vary(base, "optimizer.lr", [1e-4, 0.001])
    assert [(v.name, v.settings) for v in rates] == [
        ("lr=0.0001", ("optimizer.lr=0.0001",)),
        ("lr=0.001", ("optimizer.lr=0.001",)),
    ]
    both = vary(rates, "algorithm", ["drtune", {"use": "ddpo", "clip": 0.1}])
    assert [v.name for v in both] == [
        "lr=0.0001-drtune",
        "lr=0.0001-ddpo,clip=0.1",
        "lr=0.001-drtune",
        "lr=0.001-ddpo,clip=0.1",
    ]
    assert both[0].settings == ("optimizer.lr=0.0001", 'algorithm={"use": "drtune"}')
    assert both[1].settings == ("optimizer.lr=0.0001", 'algorithm={"use": "ddpo", "clip": 0.1}')


def test_values_are_read_as_yaml():
    assert parse_vary("optimizer.lr=1e-4,1e-3") == ("optimizer.lr", [1e-4, 1e-3])
    assert parse_vary("algorithm=[draft, {use: ddpo, clip: 1e-2}]") == (
        "algorithm",
        ["draft", {"use": "ddpo", "clip": 1e-2}],
    )
    for text in ("seed", "=1,2", "seed=", "seed=[1"):
        with pytest.raises(RecipeError) as caught:
            parse_vary(text)
        assert caught.value.problems == [
            f"--vary {text}: expected key=value,value,... such as optimizer.lr=1e-4,1e-3."
        ]


def test_what_a_budget_sets():
    assert budget_settings("300-steps") == ("train.steps=300", "train.budget=null")
    assert budget_settings("5000-calls") == ("train.steps=1000000", "train.budget=5000-calls")
    with pytest.raises(RecipeError) as caught:
        budget_settings("5 cows")
    assert caught.value.problems == [
        "--budget 5 cows: expected a time such as 90s, 10m or 1.5h, or a count such as 5000-forwards, 5000-backwards, "
        "5000-calls, 5000-rewards; got '5 cows'. 300-steps will do, too."
    ]


def test_relative_paths_in_a_comparison_file_start_at_its_folder(tmp_path, monkeypatch):
    """Wherever the command is given, and for paths that only the annotation of an option tells."""
    (tmp_path / "study").mkdir()
    (tmp_path / "study/mine.py").write_text(PATH_OPTION)
    (tmp_path / "study/r.yaml").write_text(OF_PATHS)
    (tmp_path / "study/c.yaml").write_text(
        "recipes: [r.yaml]\nset: {plugins: [toy, ./mine.py], rewards.0.table: scores}\n"
        "variants: {a: {rewards.0.weight: 2.0}, b: {rewards.0.table: other/scores, adapter.init: first}}\n"
    )
    monkeypatch.chdir(tmp_path)
    request = read_comparison(tmp_path / "study/c.yaml", find=Path)
    home = tmp_path.resolve() / "study"
    plugins = f'plugins=["toy", "{home}/mine.py"]'
    assert [sorted(v.settings) for v in request.variants] == [
        [plugins, f'rewards.0.table="{home}/scores"', "rewards.0.weight=2.0"],
        [f'adapter.init="{home}/first"', plugins, f'rewards.0.table="{home}/other/scores"'],
    ]


PATH_OPTION = """\
from pathlib import Path
from rewardft import hookimpl


class Table:
    provides = frozenset({"reward_gradient"})

    def __init__(self, table: Path):
        self.table = table

    def __call__(self, rollout, batch):
        return rollout.decoded.flatten(1).mean(1)


@hookimpl
def register_rewards():
    return {"table": Table}
"""
OF_PATHS = """\
plugins: [toy, ./mine.py]
model: {use: toy, prediction: v_prediction}
sampler: {use: ddim, steps: 4}
data: {use: toy_blobs, batch_size: 2}
rewards: [{use: table, table: scores}]
algorithm: {use: draft_k, train_steps: 1}
optimizer: {lr: 5e-3}
train: {steps: 1}
"""


# -- sweeps over weights -------------------------------------------------------------------------------------------


def test_mixtures_are_a_lattice_of_the_simplex():
    """By counting: all weights that add up to 1 in steps of 1 / (points - 1), each once."""
    assert list(mixtures(2, 3)) == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]
    for count, points in ((2, 5), (3, 4), (4, 3)):
        parts = points - 1
        every = itertools.product(range(points), repeat=count)
        wanted = {tuple(n / parts for n in one) for one in every if sum(one) == parts}
        found = list(mixtures(count, points))
        assert len(found) == len(wanted) and set(found) == wanted
        assert found[0] == (1.0, *[0.0] * (count - 1))


SWEPT = """\
recipes: [two_rewards.yaml]
pareto: {rewards: [bright, dark], points: 3}
"""
TWO_REWARDS = """\
plugins: [rewardft.testing.tiny]
model: {use: tiny}
sampler: {use: ddim, steps: 2}
data: {use: tiny_blobs, batch_size: 2}
rewards:
  - {use: tiny_brightness}
  - {use: tiny_brightness, name: dark}
  - {use: tiny_brightness, name: bright}
algorithm: {use: draft_k}
optimizer: {use: adamw, lr: 1e-3}
train: {steps: 1}
evaluate: {kl: true}
"""


def test_a_sweep_makes_a_variant_of_every_mixture(folder):
    (folder / "two_rewards.yaml").write_text(TWO_REWARDS)
    (folder / "c.yaml").write_text(SWEPT)
    request = build_request(["c.yaml"], Options(settings=["train.steps=3"]))
    assert names_and_settings(request) == {
        "bright=1,dark=0": ("train.steps=3", "rewards.2.weight=1.0", "rewards.1.weight=0.0"),
        "bright=0.5,dark=0.5": ("train.steps=3", "rewards.2.weight=0.5", "rewards.1.weight=0.5"),
        "bright=0,dark=1": ("train.steps=3", "rewards.2.weight=0.0", "rewards.1.weight=1.0"),
    }
    members = expand(request, folder)
    assert [member.problem for member in members] == [None] * 3
    weights = [{r.name: r.weight for r in member.recipe.rewards} for member in members]
    assert [(w["bright"], w["dark"]) for w in weights] == [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)]


@pytest.mark.parametrize(
    ("section", "wanted"),
    [
        (
            "{rewards: [bright]}",
            "pareto.rewards: expected two or more names of rewards, got ['bright'].",
        ),
        (
            "{rewards: [bright, bright]}",
            "pareto.rewards: expected two or more names of rewards, got ['bright', 'bright'].",
        ),
        (
            "{rewards: [bright, dark], points: 1}",
            "pareto.points: expected a whole number of at least 2, got 1.",
        ),
        (
            "{rewards: [bright, dark], points: 10002}",
            "pareto: 2 rewards with 10,002 points are 10,002 mixtures; expected at most 10,000.",
        ),
        (
            "{rewards: [bright, dark, grey], points: 1000000000}",
            "pareto: 3 rewards with 1,000,000,000 points are 500,000,000,500,000,000 mixtures; expected at most 10,000.",
        ),
        (
            "{rewards: [bright, dark], steps: 3}",
            "pareto has no key 'steps'; expected {rewards: [NAME, NAME], points: 5}.",
        ),
        (
            "{rewards: [bright, drak]}",
            "pareto.rewards: two_rewards.yaml trains no reward 'drak'. Did you mean 'dark'?",
        ),
    ],
)
def test_a_sweep_that_cannot_be_made_is_refused(folder, section, wanted):
    (folder / "two_rewards.yaml").write_text(TWO_REWARDS)
    (folder / "c.yaml").write_text(f"recipes: [two_rewards.yaml]\npareto: {section}\n")
    with pytest.raises(RecipeError) as caught:
        build_request(["c.yaml"], Options())
    assert caught.value.problems == [wanted]
    (folder / "two_rewards.yaml").write_text(TWO_REWARDS.replace("rewards:\n", "rewardz:\n"))
    (folder / "c.yaml").write_text(
        "recipes: [two_rewards.yaml]\npareto: {rewards: [bright, dark]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        build_request(["c.yaml"], Options())
    assert "Did you mean 'rewards'?" in caught.value.problems[0], (
        "what is wrong with the recipe itself"
    )
    (folder / "c.yaml").write_text("recipes: [two_rewards.yaml]\npareto: 5\n")
    with pytest.raises(RecipeError) as caught:
        build_request(["c.yaml"], Options())
    assert caught.value.problems == [
        "c.yaml:2: pareto: expected {rewards: [NAME, NAME], points: 5}, got 5."
    ]
