"""What a component gives that is not what its contract says: one sentence with its name and place, never a number that
looks right and never an internal traceback."""

import json
import re

import pytest
import torch

from rewardft.cli import main
from rewardft.errors import (
    ComponentError,
    DataError,
    NonFiniteError,
    PluginError,
)
from rewardft.evaluation.evaluate import Evaluation, add_metrics
from rewardft.evaluation.metrics import checked_value, direction, reset_metrics
from rewardft.policy.batches import make_batch
from rewardft.policy.context import Context
from tests.bench import Bench, line_of

METRIC = """
class Odd:
    def reset(self):
        pass

    def update(self, rollout, batch):
        UPDATE

    def compute(self):
        return GIVES


@hookimpl
def register_metrics():
    return {"odd": Odd}
"""
SETS = [
    "train.steps=1",
    "evaluate.samples=2",
    "evaluate.metrics=[{use: odd}]",
    "evaluate.samples_per_item=3",
]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def measured(bench, gives="{}", update="pass"):
    """The error of a run whose metric gives that, and the metric's place."""
    path = bench.plugin("odd", METRIC.replace("GIVES", gives).replace("UPDATE", update))
    with pytest.raises(Exception) as caught:
        bench.run(*SETS)
    return caught.value, f"{path}:{line_of(path, 'class Odd')}"


SAMPLES = "one finite number, or a tensor of one per sample, shape (6,), or per item, shape (2,)"
# What compute() returns, and what is said after the metric's name and place.
GIVEN = {
    "'high'": "compute() must return a mapping from names to values, such as {'score': values}; got "
    "'high' (str).",
    "None": "compute() must return a mapping from names to values, such as {'score': values}; got "
    "nothing (None).",
    "{'a': 'high'}": f"the value 'a' must be {SAMPLES}; got 'high' (str).",
    "{'a': None}": f"the value 'a' must be {SAMPLES}; got nothing (None).",
    "{'a': [1.0, 2.0]}": f"the value 'a' must be {SAMPLES}; got [1.0, 2.0] (list).",
    "{'a': 1 + 2j}": f"the value 'a' must be {SAMPLES}; got (1+2j) (complex).",
    "{'a': torch.zeros(6, 1)}": f"the value 'a' must be {SAMPLES}; got a tensor of shape (6, 1). "
    "Its surplus dimensions go away with value.flatten().",
    "{'a': torch.zeros(5)}": f"the value 'a' must be {SAMPLES}; got a tensor of shape (5,).",
    "{'a': torch.zeros(0)}": f"the value 'a' must be {SAMPLES}; got a tensor of shape (0,).",
    "{'a': torch.zeros(1)}": f"the value 'a' must be {SAMPLES}; got a tensor of shape (1,).",
    "{'a': torch.zeros(6, dtype=torch.complex64)}": f"the value 'a' must be {SAMPLES}; got complex "
    "numbers (torch.complex64).",
    "{'a': torch.zeros(6).to_sparse()}": f"the value 'a' must be {SAMPLES}; got a tensor of layout "
    "torch.sparse_coo.",
    "{'a': torch.zeros(6, device='meta')}": f"the value 'a' must be {SAMPLES}; got a tensor without "
    "data (on the meta device).",
    "{'a': float('inf')}": "the value 'a' is infinite; a value is finite, or NaN where it does not "
    "apply.",
    "{'a': 10**400}": "the value 'a' is infinite; a value is finite, or NaN where it does not apply.",
    "{'a': torch.tensor([1, 2, 3, 4, 5, 1e39])}": "the value 'a' is infinite for train/1; a value "
    "is finite, or NaN where it does not apply.",
    "{'a': torch.tensor([-torch.inf, 1])}": "the value 'a' is infinite for train/0; a value is "
    "finite, or NaN where it does not apply.",
    "{1: 0.0}": "compute() names a value 1; a name is printable text.",
    "{'a\\n': 0.0}": "compute() names a value 'a\\n'; a name is printable text.",
    "{'\\ud800': 0.0}": "compute() names a value '\\ud800'; a name is printable text.",
}


@pytest.mark.parametrize("gives", GIVEN)
def test_what_a_metric_may_not_give_is_refused_with_its_place(bench, gives):
    error, place = measured(bench, gives)
    assert isinstance(error, ComponentError)
    assert str(error) == f"metric 'odd' ({place}): {GIVEN[gives]}"


def test_what_a_metric_may_give_is_kept(bench):
    """Numbers of any kind and precision: of samples, of items, of the set; NaN is "not applicable"."""
    gives = (
        "{'each': torch.tensor([1., 2., 3., 4., 5., torch.nan]), 'items': torch.tensor([True, False]), "
        "'large': torch.tensor([1e300, 2e300], dtype=torch.float64), 'set': 3, 'none': float('nan'), "
        "'zero': torch.tensor(2.5, dtype=torch.bfloat16)}"
    )
    bench.plugin("odd", METRIC.replace("GIVES", gives).replace("UPDATE", "pass"))
    run = bench.run(*SETS)
    found = json.loads((run.folder / "evaluations" / "step-00000000.json").read_text())
    assert {name: v for name, v in found["per_sample"].items() if name.startswith("odd")} == {
        "odd/each": [2.0, 4.5],
        "odd/items": [1.0, 0.0],
        "odd/large": [1e300, 2e300],
    }
    assert found["overall"] == {"odd/set": 3.0, "odd/none": None, "odd/zero": 2.5}


def test_the_command_says_it_in_one_line(bench, capsys):
    bench.plugin("odd", METRIC.replace("GIVES", "{'a': 'high'}").replace("UPDATE", "pass"))
    sets = [f"plugins=[{', '.join(bench.names)}]", *SETS]
    words = [word for text in sets for word in ("--set", text)]
    out = bench.folder / "run"
    assert main(["run", str(bench.recipe), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert re.search(
        rf"(?m)^error: metric 'odd' \({re.escape(str(bench.folder))}/odd.py:\d+\): ", said
    )
    assert "Traceback" not in said and not (out / "summary.json").exists()


UPDATES = {
    "rollout.x0.mul_(2)": "metric 'odd' ({place}) changed rollout.x0 in place, so that what comes after it would see "
    "other samples than were drawn. Work on a copy: x = x.clone().",
    "rollout.decoded.zero_()": "metric 'odd' ({place}) changed rollout.decoded in place, so that what comes after it "
    "would see other samples than were drawn. Work on a copy: x = x.clone().",
    "torch.set_default_dtype(torch.float64)": "metric 'odd' ({place}) changed torch's default dtype from "
    "torch.float32 to torch.float64, which changes the results of everything after it. Set it for its own work alone, "
    "such as by `x.double()`.",
}


@pytest.mark.parametrize("update", UPDATES)
def test_a_metric_changes_nothing_but_itself(bench, update):
    error, place = measured(bench, update=update)
    assert isinstance(error, ComponentError) and torch.get_default_dtype() is torch.float32
    assert str(error) == UPDATES[update].format(place=place)


def test_a_metric_that_raises_is_named(bench):
    error, place = measured(bench, update="raise ValueError('no face')")
    assert str(error) == "no face" and f"raised in metric 'odd' ({place})" in error.__notes__


def test_samples_are_checked_before_metrics_see_them(bench):
    """Also where no reward is evaluated, which would have found it."""
    bench.plugin(
        "broken",
        """
        class Broken(TinyModel):
            def decode(self, x0):
                return super().decode(x0) / 0 * 0

        @hookimpl
        def register_models():
            return {"broken": Broken}
        """,
    )
    bench.plugin("odd", METRIC.replace("GIVES", "{'a': 0}").replace("UPDATE", "rollout.decoded"))
    sets = ["model={use: broken}", "rewards=[]", "algorithm={use: denoising}", *SETS]
    with pytest.raises(
        NonFiniteError, match="the decoder produced NaN or infinite values from fin"
    ):
        bench.run(*sets)


def test_what_is_no_metric_is_told_what_one_has():
    class NoCompute:
        reset = update = print

    class OneArgument:
        reset = compute = print

        def update(self, pictures):
            raise AssertionError

    with pytest.raises(ComponentError) as caught:
        reset_metrics({"m": NoCompute()})
    assert str(caught.value) == (
        f"metric 'm' ({__file__}:{line_of_class(NoCompute)}) has no method compute(); a metric has reset(), "
        "update(rollout, batch) and compute()."
    )
    with pytest.raises(ComponentError) as caught:
        reset_metrics({"m": OneArgument()})
    assert str(caught.value) == (
        f"metric 'm' ({__file__}:{line_of_class(OneArgument)}): update is called as update(rollout, batch), and its "
        "own parameters differ: too many positional arguments."
    )


def line_of_class(kind):
    import inspect

    return inspect.getsourcelines(kind)[1]


class Given:
    """A metric that gives what it is made with."""

    def __init__(self, values, better=None):
        self.values, self.higher_is_better = values, better

    def compute(self):
        return self.values


@pytest.mark.parametrize("better", ["yes", 1, {"a": "up"}])
def test_a_direction_is_true_false_or_none(better):
    with pytest.raises(
        ComponentError, match="higher_is_better must be True, False or None, or a m"
    ):
        direction("m", Given({}, better), "a")
    assert direction("m", Given({}, {"a": False}), "a") is False
    assert direction("m", Given({}, {"a": False}), "b") is None


def test_a_metric_does_not_take_the_name_of_another_value():
    """A metric may be registered as `reward`, and its values would be appended to the reward's."""
    result = Evaluation(ids=["x"], per_sample={"reward/a": [1.0]})
    with pytest.raises(
        ComponentError, match="would be logged as 'reward/a', which is the name of anot"
    ):
        add_metrics(result, {"reward": Given({"a": torch.ones(1)})})
    assert result.per_sample == {"reward/a": [1.0]}


def test_one_sample_is_a_set_too():
    assert checked_value("x", torch.tensor([3.0]), ["a"], 1).tolist() == [3.0]
    assert checked_value("x", torch.tensor(3), ["a"], 1) == 3.0


# -- other answers ---------------------------------------------------------------------------------

ANSWERS = {
    "stop_run(run, step): return True": "hook 'stop_run' returned True (bool); expected the reason to end the run, "
    "as text, or None to go on. Plugins with this hook: 'odd' ({place}).",
    "stop_run(run, step): return ''": "hook 'stop_run' returned '' (str); expected the reason to end the run, as "
    "text, or None to go on. Plugins with this hook: 'odd' ({place}).",
    "create_optimizer(parameters): return 'sgd'": "optimizer.use: hook 'create_optimizer' returned 'sgd' (str) for "
    "'adamw'; expected a torch optimizer, or None to leave it to others. Plugins with this hook: 'odd' ({place}).",
}


@pytest.mark.parametrize("hook", ANSWERS)
def test_what_a_hook_may_not_answer(bench, hook):
    head, _, body = hook.partition(": ")
    path = bench.plugin("odd", f"\n@hookimpl\ndef {head}:\n    {body}\n")
    with pytest.raises((PluginError, ComponentError)) as caught:
        bench.run("train.steps=1")
    assert str(caught.value) == ANSWERS[hook].format(place=f"{path}:{line_of(path, '@hookimpl')}")


@pytest.mark.parametrize("value", ["'high'", "None", "1j", "torch.ones(1) * 1j"])
def test_what_an_algorithm_may_not_log(bench, value):
    bench.plugin(
        "odd",
        f"""
        from rewardft import Loss

        class Odd:
            needs = frozenset()

            def losses(self, ctx, batch):
                loss = sum(p.sum() for p in ctx.adapter.parameters)
                yield Loss(loss, metrics={{"own": {value}}}, step=True)

        @hookimpl
        def register_algorithms():
            return {{"odd": Odd}}
        """,
    )
    with pytest.raises(
        ComponentError, match=r"^the value 'own' is to be logged, and must be a number"
    ):
        bench.run("algorithm={use: odd}")


def test_one_number_and_one_per_sample_are_logged_alike():
    ctx = Context(policy=None, sampler=None, adapter=None)
    ctx.record("a", torch.tensor([1.0, 2.0]))
    ctx.record("a", 6)
    total, count = ctx.take_records()["a"].tolist()
    assert total / count == 3.0


@pytest.mark.parametrize(
    "value", ["0.5", "torch.zeros(2, 1)", "torch.zeros(2, dtype=torch.cfloat)"]
)
def test_what_a_regularizer_may_not_return(bench, value):
    bench.plugin(
        "odd",
        f"""
        def odd(new, reference):
            return {value}

        @hookimpl
        def register_regularizers():
            return {{"odd": odd}}
        """,
    )
    with pytest.raises(ComponentError) as caught:
        bench.run("regularizers=[{use: odd, weight: 1}]")
    got = {"0.5": "0.5 (float)", "torch.zeros(2, 1)": "a tensor of shape (2, 1)"}
    assert str(caught.value) == (
        "regularizer 'odd' must return one number per sample, shape (2,); got "
        f"{got.get(value, 'complex numbers of shape (2,)')}"
    )


# -- items of data sets ----------------------------------------------------------------------------

ITEMS = {
    "an id that is half a letter": (
        [{"id": "\ud800"}],
        "'id' is a name, in UTF-8, in every item of a data set: metrics and files are named by it. The item '\\ud800' "
        "has '\\ud800' (str).",
    ),
    "a group that is a number": (
        [{"id": "a", "group": 3}],
        "'group' is a name, in UTF-8, in every item of a data set: metrics and files are named by it. The item 'a' "
        "has 3 (int).",
    ),
    "a list": (
        [["id"]],
        "an item of a data set is a mapping with an `id` and its columns; got a list.",
    ),
    "a column of one item": (
        [{"id": "a"}, {"id": "b", "label": 1}],
        "the items 'a' and 'b' of the data set have not the same columns: only one of them has label.",
    ),
    "shapes that differ": (
        [{"id": "a", "x": torch.zeros(2)}, {"id": "b", "x": torch.zeros(3)}],
        "the items 'a', 'b' ... of the data set make no batch: stack expects each tensor to be equal size, but got "
        "[2] at entry 0 and [3] at entry 1. A column has one shape and one type in all items.",
    ),
}


@pytest.mark.parametrize("case", ITEMS)
def test_items_that_make_no_batch(case):
    items, message = ITEMS[case]
    with pytest.raises(DataError) as caught:
        make_batch(items, [0] * len(items))
    assert str(caught.value) == message
