"""From names to components: options against signatures, tags, objections, and what `build` says."""

import textwrap
import types
from pathlib import Path

import pytest

from rewardft.contracts.hookspecs import hookimpl
from rewardft.errors import ComponentError, DataError, PluginError, RecipeError
from rewardft.plugins.loading import load_plugins
from rewardft.plugins.resolve import resolve
from rewardft.recipe.recipe import load_recipe
from rewardft.recipe.shipped import shipped_recipes
from rewardft.recipe.typed_values import Mismatch, convert, type_words
from tests.bench import line_of

PLUGIN = '''\
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rewardft import hookimpl
from rewardft.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


class Model:
    provides = frozenset({"denoiser"})
    trainable = encode = decode = None

    def __init__(self, width: int = 8, scale: float = 1.0, mode: Literal["a", "b"] = "a", weights: Path | None = None,
                 sizes: list[int] | int = 1, pair: tuple[float, float] = (0.0, 1.0), mask: Tensor = None):
        self.options = (width, scale, mode, weights, sizes, pair, mask)


class Sampler:
    needs = frozenset({"denoiser"})

    def __init__(self, steps: int = 10, eta: float = 0.0):
        self.steps = steps

    @staticmethod
    def tags(eta, **_):
        return frozenset({"stochastic"}) if eta > 0 else frozenset()


class Random(Sampler):
    provides = frozenset({"stochastic"})


class Other:
    needs = frozenset({"nowhere"})


class Data:
    def __init__(self, count: int, split: str = "train"):
        self.count, self.split = count, split
        if count == 13:
            raise ValueError("unlucky")
        if count == 14:
            raise DataError("no such folder")


class Direct:
    needs = frozenset({"reward_gradient"})


class PolicyGradient:
    needs = frozenset({"stochastic"})


class Supervised:
    """Learns from clean samples."""


class Switching:
    def __init__(self, hard: bool = False): ...

    @staticmethod
    def needs_for(hard):
        return {"hardness"} if hard else set()


def bright(rollout, batch, *, target: float = 1.0):
    return target


def human(rollout, batch):
    return 0.0


human.differentiable = False


def scale_of(rollout, data): ...


class Scorer:
    def __init__(self, power: int = 2):
        self.power = power

    def __call__(self, rollout, batch): ...


class SmoothScorer(Scorer):
    provides = frozenset({"reward_gradient"})


class Open:
    provides = frozenset({"denoiser"})
    trainable = encode = decode = None

    def __init__(self, **anything):
        self.anything = anything


@hookimpl
def register_models():
    return {"model": Model, "open": Open}


@hookimpl
def register_samplers():
    return {"sampler": Sampler, "other": Other, "random": Random}


@hookimpl
def register_datasets():
    return {"data": Data}


@hookimpl
def register_algorithms():
    return {"straight": Direct, "policy": PolicyGradient, "supervised": Supervised, "switching": Switching}


@hookimpl
def register_rewards():
    return {"bright": bright, "human": human, "scorer": Scorer, "smooth": SmoothScorer, "scale_of": scale_of}


@hookimpl
def register_regularizers():
    return {"tether": lambda new, reference: 0.0}


@hookimpl
def register_metrics():
    return {"judge": Supervised}
'''

CORE = types.ModuleType("core")  # messages list what is registered, so these tests bring all of it
CORE.stop_run = hookimpl(lambda step: None)

RECIPE = """\
plugins: [./p.py]
model: {use: model}
sampler: {use: sampler}
data: {use: data, count: 4}
rewards:
  - use: bright
algorithm: {use: straight}
optimizer: {lr: 1e-3}
train: {steps: 1}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rewardft.plugins.component_index.installed", dict)
    Path("p.py").write_text(PLUGIN)
    Path("r.yaml").write_text(RECIPE)


def resolved(*overrides, plugin=None):
    if plugin is not None:
        Path("q.py").write_text(
            "from rewardft import hookimpl\n@hookimpl\n" + textwrap.dedent(plugin)
        )
        overrides = (*overrides, "plugins=[./p.py, ./q.py]")
    recipe = load_recipe("r.yaml", overrides)
    return resolve(recipe, load_plugins(recipe.plugins, recipe.base, core=CORE))


def problems(*overrides, plugin=None):
    with pytest.raises(RecipeError) as caught:
        resolved(*overrides, plugin=plugin)
    return caught.value.problems


def test_options_are_converted_to_the_annotated_types():
    model = "model={use: MODEL, scale: 2, weights: a/b.pt, sizes: [1, 2], pair: [1, 2], mode: b, mask: null}"
    component = resolved(model).model
    assert component.options == {
        "scale": 2.0,
        "weights": Path("a/b.pt").absolute(),
        "sizes": [1, 2],
        "pair": (1.0, 2.0),
        "mode": "b",
        "mask": None,
    }
    assert type(component.options["scale"]) is float
    assert component.all_options["width"] == 8
    assert component.build().options == (
        8,
        2.0,
        "b",
        Path("a/b.pt").absolute(),
        [1, 2],
        (1.0, 2.0),
        None,
    )


def test_a_plain_function_is_the_reward_and_the_rest_of_its_parameters_are_options():
    rewards = resolved(
        "rewards=[{use: bright, target: 3}, {use: human}]", "algorithm.use=supervised"
    ).rewards
    (spec, component), (_, plain) = rewards
    assert (spec.name, spec.weight) == ("bright", 1.0)
    reward = component.build()
    assert reward(None, None) == 3.0
    assert reward.__name__ == "bright"
    assert plain.build().differentiable is False


def test_a_class_is_a_factory():
    [(_, component)] = resolved("rewards.0={use: smooth, power: 3}").rewards
    assert component.build().power == 3


def test_regularizers_metrics_and_held_out_rewards():
    found = resolved(
        "regularizers=[{use: tether, weight: 1}]",
        "evaluate.rewards=[{use: human}]",
        "evaluate.metrics=[{use: judge}]",
        "evaluate.sampler={use: random}",
    )
    assert found.regularizers[0][1].build()(None, None) == 0.0
    assert [component.entry.name for _, component in found.eval_rewards] == ["human"]
    assert [component.entry.name for component in found.metrics] == ["judge"]
    names = ["model", "sampler", "data", "straight", "bright", "tether", "human", "judge", "random"]
    assert [component.entry.name for component in found.components()] == names


def test_the_evaluation_draws_with_the_training_sampler_unless_it_names_one():
    assert resolved().eval_sampler is None
    assert resolved("evaluate.sampler={use: sampler, steps: 4}").eval_sampler.options == {
        "steps": 4
    }


def test_the_evaluations_sampler_provides_nothing_to_the_training():
    [problem] = problems("algorithm.use=policy", "evaluate.sampler={use: random}")
    assert problem == (
        "--set algorithm.use=policy: algorithm 'policy' needs 'stochastic', which sampler 'sampler' (r.yaml:3, plugin 'p') "
        "does not provide. Write there eta: 1.0, or use: random. Algorithms of the listed plugins that would work here: straight, supervised, switching."
    )


def test_the_evaluation_has_the_data_sets_options_with_its_own_on_top():
    found = resolved("evaluate.data={split: val}")
    assert found.dataset.options == {"count": 4}
    assert found.eval_dataset.options == {"count": 4, "split": "val"}


def test_a_factory_that_takes_anything_is_given_anything():
    component = resolved("model={use: open, a: 1, b: x}").model
    assert component.options == {"a": 1, "b": "x"}
    assert component.build().anything == {"a": 1, "b": "x"}


OPTIONS = {
    "unknown option": (
        "model.widht=3",
        "--set model.widht=3: model 'model' has no option 'widht'. Did you mean 'width'?",
    ),
    "wrong type": (
        "model.width=wide",
        "--set model.width=wide: option 'width' of model 'model': expected a whole number, got "
        "'wide' (text).",
    ),
    "a number that is not whole": (
        "model.width=8.0",
        "--set model.width=8.0: option 'width' of model 'model': expected a whole number, got 8.0 "
        "(a number); write 8.",
    ),
    "not one of the words": (
        "model.mode=c",
        "--set model.mode=c: option 'mode' of model 'model': expected one of 'a', 'b', got 'c' (text).",
    ),
    "union": (
        "model.sizes=[a]",
        "--set model.sizes=[a]: option 'sizes' of model 'model': expected a list (each a whole "
        "number) or a whole number, got ['a'] (a list).",
    ),
    "null": (
        "model.width=null",
        "--set model.width=null: option 'width' of model 'model': expected a whole number, got "
        "nothing (null); give a value or remove the line.",
    ),
    "missing option": (
        "data={use: data}",
        "--set data={use: data}: data set 'data' requires the option 'count' (a whole number).",
    ),
    "misspelled fixed key": (
        "rewards.0.wieght=2",
        "--set rewards.0.wieght=2: reward 'bright' has no option 'wieght'. Did you mean 'weight'?",
    ),
    "option of none": (
        "algorithm.k=1",
        "--set algorithm.k=1: algorithm 'straight' has no option 'k'. It has no options.",
    ),
    "function that is no reward": (
        "rewards=[{use: scale_of, rollout: 1}]",
        "--set rewards=[{use: scale_of, rollout: 1}]: reward 'scale_of' requires the option 'data'.",
    ),
    "evaluation option": (
        "evaluate.data={splti: val}",
        "--set evaluate.data={splti: val}: data set 'data' has no option 'splti'. Did you mean 'split'?",
    ),
    "evaluation's data set": (
        "evaluate.data={use: other}",
        "--set evaluate.data={use: other}: evaluate.data overrides options of the data set, and 'use' is not one.",
    ),
    "evaluation's sampler": (
        "evaluate.sampler={use: sampler, stpes: 4}",
        "--set evaluate.sampler={use: sampler, stpes: 4}: sampler 'sampler' has no option 'stpes'. Did you mean 'steps'?",
    ),
    "evaluation's batch": (
        "evaluate.data={batch_size: 2}",
        "--set evaluate.data={batch_size: 2}: evaluate.data overrides options of the data set, and 'batch_size' is "
        "not one. Write evaluate.batch_size.",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit(case):
    override, expected = OPTIONS[case]
    assert problems(override) == [expected]


NAMES = {
    "evaluation's sampler": (
        "evaluate.sampler={use: rndom}",
        "there is no sampler 'rndom'. Did you mean 'random'?",
    ),
    "misspelled": ("sampler.use=samlper", "there is no sampler 'samlper'. Did you mean 'sampler'?"),
    "another kind": (
        "rewards.0.use=judge",
        "there is no reward 'judge'. Choose one of: bright, human, scale_of, scorer, smooth. 'judge' is a metric.",
    ),
    "nothing close": (
        "data.use=zzz",
        "there is no data set 'zzz'. Choose one of: data.",
    ),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_nobody_has(case):
    override, expected = NAMES[case]
    assert problems(override) == [f"--set {override}: {expected}"]


def test_all_problems_at_once_with_their_lines():
    text = RECIPE.replace("{use: model}", "{use: modle}").replace("count: 4", "cuont: 4, split: 3")
    Path("r.yaml").write_text(text.replace("use: bright", "use: bright\n    target: high"))
    assert problems() == [
        "r.yaml:2: there is no model 'modle'. Did you mean 'model'?",
        "r.yaml:4: data set 'data' has no option 'cuont'. Did you mean 'count'?",
        "r.yaml:4: option 'split' of data set 'data': expected text, got 3 (a whole number); put it in quotes.",
        "r.yaml:4: data set 'data' requires the option 'count' (a whole number).",
        "r.yaml:7: option 'target' of reward 'bright': expected a number, got 'high' (text).",
    ]


# -- tags -----------------------------------------------------------------------------------------------------------


def test_tags_are_joined_and_those_of_rewards_intersected():
    assert resolved().tags == {"denoiser", "reward_gradient"}
    assert resolved("sampler.eta=1").tags == {"denoiser", "reward_gradient", "stochastic"}
    mixed = resolved("rewards=[{use: bright}, {use: human}]", "algorithm.use=supervised")
    assert mixed.tags == {"denoiser"}


def test_a_reward_without_a_gradient_under_a_direct_algorithm():
    assert problems("rewards=[{use: bright}, {use: human}, {use: scorer}]") == [
        "r.yaml:7: algorithm 'straight' needs 'reward_gradient', which reward 'human' (--set rewards=[{use: bright}, {use: "
        "human}, {use: scorer}], plugin 'p') and reward 'scorer' (--set rewards=[{use: bright}, {use: human}, {use: "
        "scorer}], plugin 'p') do not provide. Write there use: bright / smooth. If a gradient reaches the samples through "
        f"reward 'scorer', give its class ({Path('p.py').absolute()}:{line_of(Path('p.py'), 'class Scorer:')}) the "
        "attribute provides = frozenset({'reward_gradient'}). Algorithms of the listed plugins that would work here: supervised, switching."
    ]


def test_no_reward_under_a_direct_algorithm():
    assert problems("rewards=[]") == [
        "r.yaml:7: algorithm 'straight' needs 'reward_gradient', and the recipe lists no reward that provides it. "
        "Algorithms of the listed plugins that would work here: supervised, switching."
    ]


def test_a_deterministic_sampler_under_a_policy_gradient():
    assert problems("algorithm.use=policy") == [
        "--set algorithm.use=policy: algorithm 'policy' needs 'stochastic', which sampler 'sampler' (r.yaml:3, plugin 'p') "
        "does not provide. Write there eta: 1.0, or use: random. Algorithms of the listed plugins that would work here: straight, supervised, switching."
    ]
    assert resolved("algorithm.use=policy", "sampler.eta=0.5").tags >= {"stochastic"}


def test_a_need_that_depends_on_options():
    assert resolved("algorithm={use: switching}").algorithm.entry.name == "switching"
    found = problems("algorithm={use: switching, hard: true}")
    assert found[0].startswith(
        "--set algorithm={use: switching, hard: true}: algorithm 'switching' needs 'hardness', and no loaded plugin has a "
        "component that provides it. Or give algorithm 'switching' hard: false. Algorithms of the listed plugins that would work here: "
    )


def test_a_need_of_a_sampler():
    assert problems("sampler={use: other}") == [
        "--set sampler={use: other}: sampler 'other' needs 'nowhere', and no loaded plugin has a component that provides it."
    ]


# -- objections and building ----------------------------------------------------------------------------------------


def test_objections_of_plugins_stand_beside_other_problems():
    plugin = "def check_recipe(recipe):\n    return [f'seed {recipe.seed} is dull.']\n"
    assert problems("model.widht=1", plugin=plugin) == [
        "--set model.widht=1: model 'model' has no option 'widht'. Did you mean 'width'?",
        "r.yaml: seed 0 is dull.",
    ]
    assert problems(plugin="def check_recipe(recipe):\n    yield 'one.'\n    yield 'two.'\n") == [
        "r.yaml: one.",
        "r.yaml: two.",
    ]
    assert resolved(plugin="def check_recipe(recipe): ...").tags


@pytest.mark.parametrize("answer", ["'text'", "{'a': 1}", "[1]"])
def test_objections_must_be_a_list_of_sentences(answer):
    with pytest.raises(PluginError) as caught:
        resolved(plugin=f"def check_recipe(recipe):\n    return {answer}\n")
    assert str(caught.value) == (
        f"plugin 'q': hook 'check_recipe' returned {eval(answer)!r}; expected a list of sentences, or nothing."
    )


def test_a_factory_that_raises():
    with pytest.raises(ComponentError) as caught:
        resolved("data.count=13").dataset.build()
    line = PLUGIN[: PLUGIN.index("class Data")].count("\n") + 1
    place = f"{Path('p.py').resolve()}:{line}"
    assert str(caught.value) == (
        f"data set 'data' (plugin 'p', {place}) could not be built: ValueError: unlucky"
    )
    with pytest.raises(DataError) as caught:
        resolved("data.count=14").dataset.build()
    assert str(caught.value) == "no such folder"
    assert caught.value.__notes__ == [f"while building data set 'data' (plugin 'p', {place})"]


# -- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (float, 1, 1.0),
        (int | None, None, None),
        (Path, "a", Path("a")),
        (tuple[int, ...], [1, 2], (1, 2)),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (int | float, 1, 1),
        (str | int, "1", "1"),
        (object, 3, 3),
    ],
)
def test_values_that_fit(annotation, value, expected):
    assert convert(annotation, value) == expected
    assert type(convert(annotation, value)) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, True),
        (float, "1"),
        (str, 1),
        (bool, 1),
        (int, 1.5),
        (list[int], 1),
        (type, "int"),
        (set, "a"),
    ],
)
def test_values_that_do_not_fit(annotation, value):
    with pytest.raises(Mismatch):
        convert(annotation, value)


def test_annotations_in_words():
    assert type_words(bool | None) == "true or false or null"
    assert (
        type_words(list[tuple[int, str]])
        == "a list (each a list of 2 values (a whole number, text))"
    )


def shipped_problems(*overrides):
    recipe = load_recipe(shipped_recipes()["toy_draft"], overrides)
    with pytest.raises(RecipeError) as error:
        resolve(recipe, load_plugins(recipe.plugins, recipe.base))
    return error.value.problems


def test_a_schedule_that_a_sampler_refuses_is_told_before_anything_is_built():
    path = shipped_recipes()["toy_draft"]
    place = f"model 'toy' ({path}:{line_of(path, 'model:')}, plugin 'toy')"
    flow, euler = "model.prediction=flow", "sampler={use: flow_euler, steps: 4}"
    assert shipped_problems(euler) == [
        f"--set {euler}: sampler 'flow_euler' does not go with 'betas', which {place} has. Write there use: ddim / "
        "ddpm, or give model 'toy' prediction: flow."
    ]
    (problem,) = shipped_problems(flow, "sampler={use: ddpm, steps: 4}")
    assert problem.endswith(
        f"sampler 'ddpm' does not go with 'sigmas', which {place} has. Write there use: ddim / flow_euler, or give "
        "model 'toy' prediction: epsilon, or give model 'toy' prediction: v_prediction, or give model 'toy' "
        "prediction: sample."
    )
    # Also the sampler of the evaluation; together they fit.
    assert len(shipped_problems("evaluate.sampler={use: flow_euler, steps: 4}")) == 1
    recipe = load_recipe(path, [flow, euler])
    resolve(recipe, load_plugins(recipe.plugins, recipe.base))
