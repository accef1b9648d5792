"""Learning rates of their own for named parts of a model, and models that are no network."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rewardft.engine.ema import Ema
from rewardft.engine.optimizer import Updater, grouped
from rewardft.errors import ComponentError
from rewardft.testing import check_resume
from tests.bench import Bench

GROUPED = """
class Grouped(TinyModel):
    def parameter_groups(self):
        return {rates}

@hookimpl
def register_models():
    return {{"grouped": Grouped}}
"""
FULL = (
    "model={use: grouped, prediction: v_prediction, width: 8}",
    "adapter={kind: full}",
    "optimizer={use: adamw, lr: 1e-3, weight_decay: 0, schedule: linear}",
)


def parameters(*names):
    return {name: nn.Parameter(torch.zeros(1)) for name in names}


def test_every_parameter_is_in_one_group_and_the_longest_name_wins():
    named = parameters("head.weight", "head.bias", "header", "body.0.weight")
    groups = grouped(named, {"head": 0.5, "head.bias": 2.0}, lr=0.1)
    assert [(g["name"], g["lr"]) for g in groups] == [
        ("head", 0.05),
        ("head.bias", 0.2),
        ("rest", 0.1),
    ]
    assert [[id(p) for p in g["params"]] for g in groups] == [
        [id(named["head.weight"])],
        [id(named["head.bias"])],
        [id(named["header"]), id(named["body.0.weight"])],
    ]


@pytest.mark.parametrize(("rates", "name", "factor"), [({"hed": 2.0}, "hed", "2"), ({"head": 0.0}, "head", "0")])  # fmt: skip
def test_a_group_of_nothing_is_refused(rates, name, factor):
    with pytest.raises(ComponentError) as caught:
        grouped(parameters("head.weight", "body"), rates, lr=0.1)
    hint = " Did you mean 'head'?" if name == "hed" else ""
    assert str(caught.value).startswith(
        f"the model gives the parameter group {name!r} the learning rate {factor} times the "
        "recipe's. Expected a factor > 0 for something that is trained: body, head."
    )
    assert hint in str(caught.value)


def test_a_run_learns_at_the_rates_of_the_model(tmp_path):
    """The first update of AdamW moves every weight by its learning rate, whatever the gradient."""
    bench = Bench(tmp_path)
    bench.plugin("grouped", GROUPED.format(rates='{"leave": 0.25, "enter.bias": 3.0}'))
    names = ("enter.bias", "enter.weight", "leave.weight", "leave.bias")
    before = bench.run(*FULL, "train.steps=1", "optimizer.lr=1e-12", out="still")
    after = bench.run(*FULL, "train.steps=1", out="moved")
    weights = [state_of(run) for run in (before, after)]
    moved = {n: float((weights[1][n] - weights[0][n]).abs().max()) for n in names}
    assert moved == pytest.approx(
        {"enter.bias": 3e-3, "enter.weight": 1e-3, "leave.weight": 2.5e-4, "leave.bias": 2.5e-4},
        rel=0.02,
    )


def test_the_rates_are_logged_and_follow_the_schedule(tmp_path):
    bench = Bench(tmp_path)
    bench.plugin("grouped", GROUPED.format(rates='{"leave": 0.25}'))
    run = bench.run(*FULL)
    assert run.column("learning_rate/rest") == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    assert run.column("learning_rate/leave") == pytest.approx([2.5e-4, 5e-4 / 3, 2.5e-4 / 3])
    assert run.column("learning_rate") == run.column("learning_rate/leave")


def test_a_run_with_groups_goes_on_bit_for_bit(tmp_path):
    bench = Bench(tmp_path)
    plugin = bench.plugin("grouped", GROUPED.format(rates='{"leave": 0.25}'))
    plugins = f"plugins=[rewardft.testing.tiny, {plugin}]"
    check_resume(bench.recipe, tmp_path, plugins, *FULL, "save.every=2", stop=2)


def state_of(run):
    from safetensors.torch import load_file

    return load_file(run.folder / "adapter" / "model.safetensors")


def test_an_optimizer_forgets_what_it_is_told_to():
    """Adam's moments of some entries are 0 again, and the next step moves those as a first one."""
    weight = nn.Parameter(torch.zeros(2, 3, 2, dtype=torch.float64))
    other = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight, other], lr=1.0)
    ema = Ema(SimpleNamespace(named={}), None)
    updater = Updater([weight, other], optimizer, schedule=None, ema=ema, clip_norm=None)
    updater.forget(weight, torch.ones(2, 3, dtype=torch.bool))  # before any step there is nothing
    (weight.sum() + other.sum()).backward()
    optimizer.step()
    mask = torch.tensor([[True, False, False], [False, False, True]])
    updater.forget(weight, mask)
    for name, first in (("exp_avg", 0.1), ("exp_avg_sq", 0.001)):
        moments = optimizer.state[weight][name]
        assert not moments[mask].any() and torch.allclose(
            moments[~mask], torch.full((4, 2), first, dtype=torch.float64)
        )
        assert optimizer.state[other][name].all()
    assert int(optimizer.state[weight]["step"]) == 1
