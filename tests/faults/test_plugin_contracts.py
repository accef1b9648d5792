"""Plugins that are wrong in a way that Python takes: what is registered, made, declared or answered is not what its kind
must be. One sentence with its place, as early as it can be known; never torch's error, never a run without an end."""

import os

import numpy as np
import pytest
import torch

from rewardft.cli import main
from rewardft.errors import ComponentError, RewardError, RewardftError
from rewardft.policy.batches import collate
from rewardft.policy.reward_values import check_device
from tests.bench import Bench, line_of


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def refused(bench, source, *overrides):
    """The message of a run with a plugin of that source, and the plugin's file."""
    path = bench.plugin("odd", source)
    with pytest.raises(RewardftError) as caught:
        bench.run(*overrides)
    return str(caught.value), path


# -- what a factory makes ------------------------------------------------------------------------------------------

# Kind -> (hook, override, what its factory makes, what is said after the component's name and place).
MADE = {
    "a model": (
        "register_models",
        "model={use: odd}",
        "object()",
        "its factory gave an object without `trainable`, `encode` and `decode`; a model has `trainable`, `encode` and "
        "`decode`.",
    ),
    "a sampler": (
        "register_samplers",
        "sampler={use: odd}",
        "None",
        "its factory gave nothing (None) without `steps`, `setup`, `rollout` and `replay`; a sampler has `steps`, "
        "`setup`, `rollout` and `replay`. Is its `return` missing?",
    ),
    "an algorithm": (
        "register_algorithms",
        "algorithm={use: odd}",
        "{}",
        "its factory gave a dict without `losses`; an algorithm has `losses`.",
    ),
    "a data set": (
        "register_datasets",
        "data={use: odd}",
        "({'id': str(i)} for i in range(9))",
        "its factory gave a generator without `__len__` and `__getitem__`; a data set has `__len__` and `__getitem__`.",
    ),
    "a reward": (
        "register_rewards",
        "rewards=[{use: odd}]",
        "0.5",
        "its factory gave a float without `__call__`; a reward has `__call__`.",
    ),
    "a regularizer": (
        "register_regularizers",
        "regularizers=[{use: odd, weight: 1}]",
        "'kl'",
        "its factory gave a str without `__call__`; a regularizer has `__call__`.",
    ),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_a_factory_makes_has_what_its_kind_must_have(bench, kind):
    hook, override, made, said = MADE[kind]
    source = f"""
        def make():
            return {made}

        make.provides = frozenset({{"reward_gradient", "denoiser", "differentiable_sampler", "renoise"}})

        @hookimpl
        def {hook}():
            return {{"odd": make}}
        """
    message, path = refused(bench, source, override)
    place = f"{kind.partition(' ')[2]} 'odd' (plugin 'odd', {path}:{line_of(path, 'def make')})"
    assert message == f"{place}: {said}"


@pytest.mark.parametrize("error", ["self.netwrok", "1 / 0"])
def test_a_property_that_raises_is_not_one_that_is_missing(bench, error):
    source = f"""
        class Odd(TinyModel):
            @property
            def trainable(self):
                return {error}

            @trainable.setter
            def trainable(self, value):
                self.network = value

        @hookimpl
        def register_models():
            return {{"odd": Odd}}
        """
    message, path = refused(bench, source, "model={use: odd}")
    place = f"model 'odd' (plugin 'odd', {path}:{line_of(path, 'class Odd')})"
    said = {
        "self.netwrok": "AttributeError: 'Odd' object has no attribute 'netwrok'",
        "1 / 0": "ZeroDivisionError: division by zero",
    }
    assert message.startswith(f"{place}: its `trainable` raised {said[error]}")


# -- what it declares ----------------------------------------------------------------------------------------------

FRAME = """
        class Odd:
            BODY

            def __call__(self, rollout, batch):
                return rollout.decoded.flatten(1).mean(1)

        @hookimpl
        def register_rewards():
            return {"odd": Odd}
        """
DECLARED = {
    # The commonest slip: a comma is missing, and the tag is its letters.
    'provides = ("reward_gradient")': "`provides` is 'reward_gradient' (str); expected a set of words, such as "
    "frozenset({'reward_gradient'}).",
    "provides = {1}": "`provides` is {1} (set); expected a set of words, such as frozenset({'log_prob'}).",
    "refuses = 'sigmas'": "`refuses` is 'sigmas' (str); expected a set of words, such as frozenset({'sigmas'}).",
    "needs = True": "`needs` is True (bool); expected a set of words, such as frozenset({'log_prob'}).",
}


@pytest.mark.parametrize("body", DECLARED)
def test_tags_are_a_set_of_words(bench, body):
    message, path = refused(bench, FRAME.replace("BODY", body), "rewards=[{use: odd}]")
    place = f"reward 'odd' of the plugin 'odd' ({path}:{line_of(path, 'class Odd')})"
    assert message == f"{place}: {DECLARED[body]}"


@pytest.mark.parametrize("gives", ["'reward_gradient'", "None"])
def test_tags_that_depend_on_options_are_a_set_of_words_too(bench, gives):
    body = f"tags = staticmethod(lambda **options: {gives})"
    message, path = refused(bench, FRAME.replace("BODY", body), "rewards=[{use: odd}]")
    word = gives.strip("'") if gives != "None" else "log_prob"
    kind = "str" if gives != "None" else "NoneType"
    assert message == (
        f"reward 'odd' ({path}:{line_of(path, 'class Odd')}): `tags()` gave {gives} ({kind}); expected a set of words, "
        f"such as frozenset({{{word!r}}})."
    )


@pytest.mark.parametrize("text", ["torch.Tensorr", "int |", "list[1:]x"])
def test_an_annotation_that_is_none_is_named_with_its_option(bench, text):
    source = f"""
        def odd(rollout, batch, *, power: {text!r} = 1):
            return rollout.decoded.flatten(1).mean(1)

        @hookimpl
        def register_rewards():
            return {{"odd": odd}}
        """
    message, path = refused(bench, source, "rewards=[{use: odd, power: 2}]")
    head = (
        f"reward 'odd' ({path}:{line_of(path, 'def odd')}): the annotation of its option 'power', "
        f"{text!r}, cannot be evaluated ("
    )
    assert message.startswith(head) and message.endswith(").")


def test_a_name_that_is_known_to_type_checkers_alone_is_no_fault(bench):
    bench.plugin(
        "odd",
        """
        def odd(rollout, batch, *, power: list["Nowhere"] = ()):
            return rollout.decoded.flatten(1).mean(1)

        @hookimpl
        def register_rewards():
            return {"odd": odd}
        """,
    )
    run = bench.run("rewards=[{use: odd, power: [1]}]")
    assert run.summary["status"] == "finished"
    assert (
        main(
            [
                "schema",
                "--plugin",
                str(bench.folder / "odd.py"),
                "--out",
                str(bench.folder / "schema.json"),
            ]
        )
        == 0
    )


def test_a_factory_whose_parameters_python_cannot_tell(bench):
    source = "\n@hookimpl\ndef register_rewards():\n    return {'odd': torch.sigmoid}\n"
    message, _ = refused(bench, source, "rewards=[{use: odd}]")
    assert message == (
        "reward 'odd' of the plugin 'odd': <built-in method sigmoid of type object at "
        f"{message.partition(' at ')[2].partition(' does ')[0]} does not say what parameters it takes, so a recipe could "
        "give it no options. Wrap it in a function."
    )


@pytest.mark.parametrize("value", ["None", "7", "'toy'", "(toy,)", "{'toy': 1}"])
def test_requires_is_a_tuple_of_names(bench, value):
    source = f"toy = 1\nrequires = {value}\n\n@hookimpl\ndef register_rewards():\n    return {{}}\n"
    message, _ = refused(bench, source)
    shown = repr(eval(value, {"toy": 1}))
    assert message.endswith(
        f"plugin 'odd': `requires` is {shown}; expected a tuple of plugin names, such as requires = (\"name\",)."
    )


@pytest.mark.parametrize("answer", ["True", "3", "'text'"])
def test_objections_to_a_recipe_are_a_list(bench, answer):
    source = f"\n@hookimpl\ndef check_recipe(recipe):\n    return {answer}\n"
    message, _ = refused(bench, source)
    assert message == (
        f"plugin 'odd': hook 'check_recipe' returned {answer}; expected a list of sentences, or nothing."
    )


def test_a_plugin_is_not_read_from_a_pipe(bench):
    os.mkfifo(bench.folder / "odd.py")
    bench.names.append(str(bench.folder / "odd.py"))
    with pytest.raises(RewardftError) as caught:
        bench.run()
    assert f"{bench.folder / 'odd.py'} is neither a .py file nor a folder" in str(caught.value)


# -- what it answers -----------------------------------------------------------------------------------------------

LOSSES = {
    "return None": "losses(ctx, batch) must be a generator of losses; got nothing (None). Write `yield Loss(...)` "
    "instead of `return`.",
    "return Loss(total(ctx), step=True)": "losses(ctx, batch) must be a generator of losses; got Loss(value=tensor(",
    "return total(ctx)": "losses(ctx, batch) must be a generator of losses; got a tensor of shape (). Write `yield "
    "Loss(...)` instead of `return`.",
    "yield total(ctx)": "losses() must yield rewardft.Loss; got a tensor of shape (). Write `yield Loss(value, "
    "step=True)`.",
    "yield None": "losses() must yield rewardft.Loss; got nothing (None). Write `yield Loss(value, step=True)`.",
    "yield Loss(total(ctx), step=True, metrics=[1])": "the metrics of a Loss are a mapping from names to values; got "
    "[1] (list).",
    "yield from ()": "losses() gave no Loss in 100 batches in a row, so nothing is trained. Yield one for each batch, "
    "with step=True; an algorithm that gathers more of them first says how many in an attribute `idle_batches`.",
}


@pytest.mark.parametrize("body", LOSSES)
def test_what_an_algorithm_gives_is_losses(bench, body):
    source = f"""
        from rewardft import Loss

        def total(ctx):
            return sum(p.sum() for p in ctx.adapter.parameters)

        class Odd:
            needs = frozenset()

            def losses(self, ctx, batch):
                {body}

        @hookimpl
        def register_algorithms():
            return {{"odd": Odd}}
        """
    message, path = refused(bench, source, "algorithm={use: odd}")
    place = f"algorithm 'odd' (plugin 'odd', {path}:{line_of(path, 'class Odd')})"
    assert message.startswith(f"{place}: {LOSSES[body]}")


def test_an_algorithm_says_how_many_batches_it_gathers_first(bench):
    source = """
        from rewardft import Loss

        class Gathering:
            needs = frozenset()
            idle_batches = 104
            seen = 0

            def losses(self, ctx, batch):
                self.seen += 1
                if self.seen > 103:
                    yield Loss(sum(p.square().sum() for p in ctx.adapter.parameters), step=True)

        class Endless(Gathering):
            idle_batches = 0.5

        @hookimpl
        def register_algorithms():
            return {"gathering": Gathering, "endless": Endless}
        """
    path = bench.plugin("gathering", source)
    run = bench.run("algorithm={use: gathering}", "train.steps=2")
    assert run.summary["samples"] == 2 * (103 + 2)
    with pytest.raises(ComponentError) as caught:
        bench.run("algorithm={use: endless}", out="endless")
    place = f"algorithm 'endless' (plugin 'gathering', {path}:{line_of(path, 'class Endless')})"
    assert str(caught.value) == (
        f"{place}: idle_batches is how many batches in a row may give no loss, a whole number >= 1; "
        "got 0.5 (float)."
    )


MODELS = {
    "def denoise(self, x, t, cond): return super().denoise(x, t, cond).flatten(1)": ".Odd: denoise(x, t, cond) must "
    "return a tensor of the shape of x, (2, 3, 8, 8); got a tensor of shape (2, 192).",
    "def denoise(self, x, t, cond): return (x,)": ".Odd: denoise(x, t, cond) must return a tensor of the shape of x, "
    "(2, 3, 8, 8); got (tensor(",
    "def decode(self, x0): return x0.mean(0)": "the model's decode(x0) must keep the samples in the first dimension, 2 "
    "of them; got a tensor of shape (3, 8, 8).",
    "trainable = property(lambda self: [1], lambda self, value: None)": ".Odd: `trainable` must be a torch module, "
    "which holds the weights to train; got [1] (list).",
    "trainable = property(lambda self: torch.nn.ReLU(), lambda self, value: None)": ".Odd: `trainable` is a ReLU "
    "without parameters: there is nothing to train.",
    "scheduler = property(lambda self: self._scheduler, lambda self, value: None)": "recipe.yaml:5: sampler 'ddim' asks "
    "the model for `_scheduler`, and ",
}


@pytest.mark.parametrize("body", MODELS)
def test_what_a_model_gives(bench, body):
    source = f"""
        class Odd(TinyModel):
            {body}

        @hookimpl
        def register_models():
            return {{"odd": Odd}}
        """
    message, _ = refused(bench, source, "model={use: odd, prediction: v_prediction, width: 8}")
    assert MODELS[body] in message


SAMPLERS = {
    "def rollout(self, model, cond, plan, noise): return torch.zeros(2, 3)": "rollout(model, cond, plan, noise) must "
    "return a rewardft.types.Rollout; got a tensor of shape (2, 3).",
    "def replay(self, model, rollout, k, *, input_gradient): return torch.zeros(2)": "replay(model, rollout, k, "
    "input_gradient=...) must return a rewardft.types.Transition; got a tensor of shape (2,).",
    "def transition(self, *a, **o): return replace(super().transition(*a, **o), log_prob=torch.zeros(2, 1))": "log_prob "
    "of its replayed step must be one number per sample, shape (2,); got a tensor of shape (2, 1). It is the mean over a "
    "sample's dimensions, such as log_density.flatten(1).mean(1).",
    "def transition(self, *a, **o): return replace(super().transition(*a, **o), log_prob=0.5)": "log_prob of its "
    "replayed step must be one number per sample, shape (2,); got 0.5 (float). It is the mean over a sample's "
    "dimensions, such as log_density.flatten(1).mean(1).",
}


@pytest.mark.parametrize("body", SAMPLERS)
def test_what_a_sampler_gives(bench, body):
    source = f"""
        from dataclasses import replace

        from rewardft.samplers.ddim import DDIM

        class Odd(DDIM):
            {body}

        @hookimpl
        def register_samplers():
            return {{"odd": Odd}}
        """
    message, _ = refused(bench, source, "sampler={use: odd, steps: 3}")
    assert message.endswith(f".Odd: {SAMPLERS[body]}")


NETWORKS = {
    "torch.nn.Linear(3, 3)": "adapter: the model's `trainable` is a single layer, inside which there is no place for an "
    "adapter. Wrap it, as in torch.nn.Sequential(layer), or set adapter.kind: full.",
    "torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))": "adapter: Sequential has no linear layer. Name other layers in "
    "adapter.targets (such as adapter.targets: [0]), or train all weights with adapter.kind: full.",
    "torch.nn.Sequential(torch.nn.Embedding(4, 3))": "adapter: Sequential has no linear layer. Name other layers in "
    "adapter.targets, or train all weights with adapter.kind: full.",
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_that_an_adapter_has_no_place_in(bench, network):
    source = f"""
        class Odd(TinyModel):
            lora_targets = None

            def __init__(self):
                super().__init__()
                self.trainable = {network}

        @hookimpl
        def register_models():
            return {{"odd": Odd}}
        """
    message, _ = refused(bench, source, "model={use: odd}")
    assert message == NETWORKS[network]


def test_a_reward_that_stays_on_the_cpu_is_told_where_the_samples_are():
    with pytest.raises(RewardError) as caught:
        check_device("odd", torch.zeros(2), torch.device("cuda"))
    assert str(caught.value) == (
        "reward 'odd' returned a tensor on cpu, and the samples are on cuda. Return value.to(rollout.noise.device)."
    )
    check_device("odd", torch.zeros(2), torch.device("cpu", 0))


def test_numbers_of_numpy_are_columns_of_numbers():
    items = [
        {"a": np.float32(i), "b": np.int64(i), "c": np.bool_(i), "d": np.str_(i)} for i in (0, 1)
    ]
    columns = collate(items)
    assert [columns[name].dtype for name in "abc"] == [torch.float32, torch.int64, torch.bool]
    assert columns["b"].tolist() == [0, 1] and columns["d"] == ["0", "1"]


def test_a_model_shows_pictures(bench):
    source = """
        class Odd(TinyModel):
            def show(self, decoded, batch):
                return list(decoded)

        @hookimpl
        def register_models():
            return {"odd": Odd}
        """
    message, _ = refused(
        bench, source, "model={use: odd, prediction: v_prediction}", "samples.every=1"
    )
    assert (
        ".Odd: show(decoded, batch) must return pictures as a tensor, or None where there are none; got ["
        in message
    )


@pytest.mark.parametrize("wanted", ["evaluate.every=1", "samples.every=1"])
def test_held_out_data_without_items(bench, wanted):
    source = """
        class Odd:
            def __init__(self, size: int = 4):
                self.size = size

            def __len__(self):
                return self.size

            def __getitem__(self, index):
                return {"id": str(index), "label": 0}

        @hookimpl
        def register_datasets():
            return {"odd": Odd}
        """
    sets = ["data={use: odd, batch_size: 2}", "evaluate.data={size: 0}", wanted]
    message, _ = refused(bench, source, *sets)
    assert message == "the data set Odd of the evaluation is empty"


def test_a_reward_of_weight_0_is_watched_and_needs_no_gradient(bench):
    """Beside one that an algorithm learns from by its gradient; with a weight it is refused."""
    source = """
        def odd(rollout, batch):
            pixels = (rollout.decoded * 255).round().byte().cpu().numpy()
            return torch.from_numpy(pixels.reshape(len(pixels), -1).max(1) / 255.0)

        odd.differentiable = False

        @hookimpl
        def register_rewards():
            return {"odd": odd}
        """
    watched = "rewards=[{use: tiny_brightness}, {use: odd, weight: 0}]"
    message, path = refused(bench, source, watched.replace("weight: 0", "weight: 1"))
    assert (
        "needs 'reward_gradient', which reward 'odd' (--set rewards=" in message and path.is_file()
    )
    run, alone = bench.run(watched, out="watched"), bench.run(out="alone")
    assert run.column("loss") == alone.column("loss")
    assert all(0 < value <= 1 for value in run.column("reward/odd"))
